"""training_report.json in a run's folder: what was trained, on what, where, how fast, and every logged loss."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from transformers import TrainerCallback

from leap import provenance
from leap.environment import world_size
from leap.records.json_files import object_if_there, write_json
from leap.training.wall_time import SESSIONS, summary, throughput

if TYPE_CHECKING:
    from leap.training.fine_tune import Run

REPORT = "training_report.json"


class TrainingReport(TrainerCallback):
    """Writes the report at every save and at the end, and then says how fast the run was.

    `about` is what does not change while training: recipe, environment, data.
    """

    def __init__(self, about: dict[str, Any]) -> None:
        self._about = about

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(args, state)
        if state.is_world_process_zero:
            print(summary(state.stateful_callbacks[SESSIONS]), file=sys.stderr, flush=True)

    def _write(self, args: Any, state: Any) -> None:
        if not state.is_world_process_zero:
            return
        report = {
            **self._about,
            "step": state.global_step,
            "of_steps": state.max_steps,
            "epochs": state.epoch,
            "throughput": throughput(state.stateful_callbacks[SESSIONS]),
            "history": state.log_history,
        }
        write_json(Path(args.output_dir) / REPORT, report)


def about(run: "Run", identity: dict[str, Any], batches: str) -> dict[str, Any]:
    """What the report says of recipe, environment and data."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "recipe": run.recipe.model_dump(mode="json"),
        "environment": {
            **{name: identity[name] for name in ("commit", "dirty", "versions", "base_model")},
            "device": provenance.device_name(device),
            "processes": world_size(),
            "command": provenance.command(),
        },
        "data": {
            "train_file": run.recipe.train_names,
            "fingerprint": run.train.fingerprint,
            "rows": len(run.train),
            "too_long": len(run.train.too_long),
            "val_file": run.recipe.val_file,
            "validation_samples": len(run.validation) if run.validation else 0,
            "validation_samples_in_training": run.shared,
        },
        "batches": batches,
    }


class _Session(BaseModel):
    model_config = ConfigDict(strict=True)

    steps: int
    seconds: float


class _Throughput(BaseModel):
    sessions: list[_Session] = []


class _Environment(BaseModel):
    model_config = ConfigDict(strict=True)

    device: str | None = None
    processes: int = 1


class _Report(BaseModel):
    """As far as it is read."""

    throughput: _Throughput = _Throughput()
    environment: _Environment = _Environment()


def read_report(run: Path) -> dict[str, Any]:
    """A run's report as it stands; {} where there is none."""
    return object_if_there(run / REPORT, _Report)
