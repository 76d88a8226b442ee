"""A whole review: a table of outputs in, tables of verdicts and a manifest out, with the folder held meanwhile."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leap import provenance
from leap.errors import LeapError
from leap.judge.criteria import FORMULA
from leap.judge.files import OUTPUTS, find_newest, manifest_of, read_outputs
from leap.judge.judges import Judge
from leap.judge.review import Review, ReviewSettings, chosen_outputs, review
from leap.records.files import FolderLock, write_json


def run_review(
    outputs: Path | None,
    folder: Path,
    judges: Sequence[Judge | str],
    settings: ReviewSettings,
    repository: Path,
    max_samples: int | None = None,
    only_models: Sequence[str] = (),
) -> Review:
    """Judge a table of outputs, the newest in `folder` if none is named. Raises LeapError where there is none."""
    path = outputs or find_newest(folder, OUTPUTS)
    if path is None:
        raise LeapError(f"{folder}: no {OUTPUTS}_<time>.csv there; run scripts/evaluation/run_vlm_output.py first")
    rows = chosen_outputs(read_outputs(path), max_samples, only_models)
    manifest: dict[str, Any] = {
        "outputs": {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "judged": len(rows)},
        "settings": {**settings.to_dict(), "max_samples": max_samples, "only_models": list(only_models)},
        "formula": FORMULA,
        "code": provenance.git_state(repository),
        "command": provenance.command(),
        "versions": provenance.versions(),
        "start": provenance.now(),
    }
    with FolderLock(folder):
        found = review(rows, judges, settings, folder)
        manifest |= {
            "judges": found.judges,
            "spent": found.spent(),
            "unscored": found.unscored,
            "tables": [table.name for table in (found.scores, found.pairs) if table],
            "end": provenance.now(),
        }
        write_json(manifest_of(found.scores), manifest)
    return found
