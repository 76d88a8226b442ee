"""The one place that knows where things are.

    python -m configs.config        # prints every path of the workspace and whether it exists, or is empty

`LEAP_ROOT` moves the whole workspace (data, models, results); the code and its recipes stay where they are.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leap.errors import LeapError
from leap.records.litter import is_bare
from leap.records.paths import at_home, find_data, find_path

if TYPE_CHECKING:
    from leap.data.image import ImageSize
    from leap.hub.hub_models import HubModel

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class WorkspaceConfig:
    """Paths, evaluation constants and the names of the default recipes."""

    root: Path

    # Evaluation: one decoding setting for baseline, full and LoRA models alike, and one image size a command: that of
    # its checkpoints, or else this one.
    max_new_tokens: int = 512
    # VLABench's images are 960x960, which is 900 tokens of 32x32 pixels: this range leaves them as they are.
    image_tokens_min: int = 256
    image_tokens_max: int = 1024

    # On the hub.
    base_model_repository: str = "Qwen/Qwen3-VL-2B-Instruct"
    benchmark_repository: str = "VLABench/vlm_evaluation_v1.0"
    data_repository: str = "EvanSirius/leap-agibot-processed"
    checkpoints_repository: str = "EvanSirius/leap-ckpts"
    love_agibot_repository: str = "EvanSirius/LOVE-Agibot-Beta"

    base_model_name: str = "Qwen3-VL-2B-Instruct"
    full_recipe_name: str = "full"

    @classmethod
    def find(cls) -> "WorkspaceConfig":
        """The workspace that `LEAP_ROOT` names, or else this repository, from any working directory."""
        named = os.environ.get("LEAP_ROOT")
        if not named:
            return cls(REPOSITORY)
        root = at_home(named, "LEAP_ROOT=").resolve()
        if not root.is_dir():
            raise LeapError(f"LEAP_ROOT={named}: there is no such folder; create it, or unset LEAP_ROOT")
        return cls(root)

    @property
    def image_size(self) -> "ImageSize":
        """In an evaluation of models that record none."""
        from leap.data.image import ImageSize

        return ImageSize(self.image_tokens_min, self.image_tokens_max)

    @property
    def repository(self) -> Path:
        return REPOSITORY

    @property
    def recipes(self) -> Path:
        return REPOSITORY / "configs" / "recipes"

    def recipe(self, named: str) -> Path:
        """A recipe by its name in configs/recipes/, or else as a file: that has a suffix, or folders before it."""
        shipped = self.recipes / f"{named}.yaml"
        is_file = Path(named).suffix or len(Path(named).parts) > 1
        return self.resolve(named) if is_file and not shipped.is_file() else shipped

    @property
    def vlabench(self) -> Path:
        return REPOSITORY / "VLABench"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def images(self) -> Path:
        return self.data / "images"

    @property
    def love_agibot(self) -> Path:
        """The archives of LOVE-Agibot-Beta: image/task_<number>.tar.gz."""
        return self.data / "love_agibot"

    @property
    def dataset(self) -> Path:
        return self.root / "dataset"

    @property
    def vlm_evaluation(self) -> Path:
        return self.dataset / "vlm_evaluation_v1.0"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def base_model(self) -> Path:
        return self.models / self.base_model_name

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def eva_results(self) -> Path:
        return self.root / "eva_results"

    @property
    def blind_10(self) -> Path:
        """Outputs and scores of blind reviews."""
        return self.eva_results / "blind_10"

    @property
    def backup_eva_results(self) -> Path:
        return self.root / "backup_eva_results"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def cache(self) -> Path:
        """What can be made again: checked training files. It may be removed whenever no training runs."""
        return self.root / ".cache"

    def resolve(self, path: str | Path) -> Path:
        """A path as the user gave it: from the current folder or the workspace root, see `find_path`."""
        return find_path(path, self.root)

    def find_data(self, path: str | Path) -> Path:
        """The same, or the place in the cache of data at an address (s3://, gs://, hf://, …)."""
        return find_data(path, self.root)

    def find_model(self, text: str) -> "Path | HubModel":
        """A model as the user gave it: a folder, or a name on the hub, which `fetch_models` makes a folder."""
        from leap.hub.hub_models import find_model

        return find_model(text, self.root)

    def paths(self) -> dict[str, Path]:
        """Every path by name, in the order of the README's tree."""
        code = ("root", "repository", "recipes")
        inputs = ("data", "images", "love_agibot", "dataset", "vlm_evaluation", "models", "base_model")
        results = ("output", "eva_results", "backup_eva_results", "logs", "cache", "vlabench")
        return {name: getattr(self, name) for name in code + inputs + results}


def _state(path: Path) -> str:
    """A folder that holds nothing is no more use than none: a submodule that was not checked out is one."""
    if not path.exists():
        return "missing"
    return "empty" if path.is_dir() and is_bare(path, besides=(".gitkeep",)) else "exists"


def main() -> None:
    workspace = WorkspaceConfig.find()
    for name, path in workspace.paths().items():
        state = "exists" if path == workspace.root else _state(path)
        hint = " (git submodule update --init VLABench)" if name == "vlabench" and state != "exists" else ""
        print(f"{name:20} {state:7} {path}{hint}")


if __name__ == "__main__":
    from leap.cli import run

    run(main)
