"""training_report.json in a run's folder: what was trained, on what, where, how fast, and every logged loss."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from transformers import TrainerCallback

from leap import provenance
from leap.environment import world_size
from leap.errors import LeapError
from leap.provenance import now
from leap.records.json_files import object_if_there, read_object, write_json

if TYPE_CHECKING:
    from leap.training.fine_tune import Run

REPORT = "training_report.json"


class TrainingReport(TrainerCallback):
    """Writes the report at every save and at the end. A run that goes on keeps the history of what came before.

    `about` is what does not change while training: recipe, environment, data. `samples_before` says how many samples so
    many steps have.
    """

    def __init__(self, about: dict[str, Any], samples_before: Callable[[int], int]) -> None:
        self._about, self._samples_before = about, samples_before
        self._earlier: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._first, self._started, self._since = state.global_step, time.monotonic(), now()
        self._earlier = _sessions(Path(args.output_dir) / REPORT, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(args, state)

    def _write(self, args: Any, state: Any) -> None:
        if not state.is_world_process_zero:
            return
        session = self._session(args, state)
        sessions = [*self._earlier, session] if session["steps"] else self._earlier
        steps, seconds = (sum(one[name] for one in sessions) for name in ("steps", "seconds"))
        samples = sum(one["rows"] for one in sessions)
        report = {
            **self._about,
            "step": state.global_step,
            "of_steps": state.max_steps,
            "epochs": state.epoch,
            "throughput": {
                "rows_per_second": round(samples / seconds, 3) if seconds else None,
                "seconds_per_step": round(seconds / steps, 3) if steps else None,
                "sessions": sessions,
            },
            "history": state.log_history,
        }
        write_json(Path(args.output_dir) / REPORT, report)

    def _session(self, args: Any, state: Any) -> dict[str, Any]:
        """From this rank's start to now: evaluations and saves are in its seconds."""
        steps = state.global_step - self._first
        samples = self._samples_before(state.global_step) - self._samples_before(self._first)
        seconds = round(time.monotonic() - self._started, 2)
        return {"start": self._since, "first_step": self._first, "steps": steps, "rows": samples, "seconds": seconds}


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
            "train_file": run.recipe.train_file,
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
    world_size: int = 1


class _Report(BaseModel):
    """As far as it is read."""

    throughput: _Throughput = _Throughput()
    environment: _Environment = _Environment()


def read_report(run: Path) -> dict[str, Any]:
    """A run's report as it stands; {} where there is none."""
    return object_if_there(run / REPORT, _Report)


def _sessions(report: Path, step: int) -> list[dict[str, Any]]:
    """Those of an earlier report up to `step`: what a kill lost after its last checkpoint is trained again."""
    if not report.is_file():
        return []
    try:
        found = read_object(report)["throughput"]["sessions"]
        return [one for one in found if one["first_step"] + one["steps"] <= step]
    except (LeapError, KeyError, TypeError):  # not ours, or an older form: it is written anew
        return []
