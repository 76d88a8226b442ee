"""A whole review: a table of outputs in, tables of verdicts and a manifest out, with the folder held meanwhile."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leap import provenance
from leap.errors import LeapError
from leap.judge.ask_judges import Review, ReviewSettings, chosen_outputs, review
from leap.judge.criteria import FORMULA
from leap.judge.judges import Judge
from leap.judge.review_files import MANIFEST, OUTPUTS, find_newest, manifest_of, read_manifest, read_outputs
from leap.records.json_files import write_json
from leap.records.locks import FolderLock
from leap.records.paths import roots_beside


def run_review(
    outputs: Path | None,
    folder: Path,
    judges: Sequence[Judge | str],
    settings: ReviewSettings,
    repository: Path,
    max_samples: int | None = None,
    only_models: Sequence[str] = (),
) -> Review:
    """Judge a table of outputs, the newest in `folder` if none is named. Raises LeapError where there is none.

    A run that asks nothing and finds its tables there leaves their manifest as it is.
    """
    path = outputs or find_newest(folder, OUTPUTS)
    if path is None:
        raise LeapError(f"{folder}: no {OUTPUTS}_<time>.csv there; run scripts/evaluation/run_vlm_output.py first")
    settings = replace(settings, image_roots=roots_beside(path, settings.image_roots))
    rows = chosen_outputs(read_outputs(path), max_samples, only_models)
    sha256, origin = hashlib.sha256(path.read_bytes()).hexdigest(), provenance.origin(repository)
    manifest: dict[str, Any] = {
        "outputs": {"path": str(path), "sha256": sha256, "judged": len(rows)},
        "settings": {**settings.to_dict(), "max_samples": max_samples, "only_models": list(only_models)},
        "formula": FORMULA,
        **origin,
    }
    with FolderLock(folder):
        spent_before = _spent_before(folder, sha256)
        found = review(rows, judges, settings, folder, origin)
        tables = [table.name for table in (found.scores, found.pairs) if table]
        manifest |= {
            "judges": found.judges,
            "spent": found.spent(),
            "spent_before": spent_before,
            "unscored": found.unscored,
            "tables": tables,
            "end": provenance.now(),
        }
        place = manifest_of(found.scores)
        named = (read_manifest(place) or {}).get("tables", [])
        if found.budget.requests or not set(tables) <= set(named):
            write_json(place, manifest)
    return found


def _spent_before(folder: Path, outputs: str) -> list[dict[str, Any]]:
    """What the earlier runs here took that asked about these outputs (their sha256), as their manifests say."""
    manifests = [found for path in sorted(folder.glob(f"{MANIFEST}_*.json")) if (found := read_manifest(path))]
    same = [found for found in manifests if (found.get("outputs") or {}).get("sha256") == outputs]
    asked = [found for found in same if (found.get("spent") or {}).get("requests")]
    runs = [{name: found.get(name) for name in ("start", "end", "command", "spent")} for found in asked]
    return sorted(runs, key=lambda run: str(run["start"]))
