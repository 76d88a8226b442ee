"""The benchmark's own scorer and prompts, taken from the git submodule VLABench when it is checked out.

Its package cannot be imported without a simulator, so the two files that are needed are loaded by their paths.
None of its code or text is part of LEAP.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from leap import provenance
from leap.errors import LeapError
from leap.records.litter import is_bare
from leap.vlabench.prompts import Instructions, Language
from leap.vlabench.scoring import OFFICIAL_KEYS, ZERO_SCORES

COMMIT = "47b04bf5f0622e6bcf7449ca2f7ee274516e64e9"
PROMPT_SHA256 = {
    "en": "e0dbd2973e73e6d091e765bd04f3ae172c22d415413cc56bb421abc36539e765",
    "zh": "10015c6550989570a80e12d7bbee7ba94cb9204ae93a5f1544d1d5038e18c28d",
}
_SCORING, _REQUEST = Path("VLABench/evaluation/utils.py"), Path("VLABench/evaluation/model/vlm/base.py")
_RESTORE = "restore it: git submodule update --init --force VLABench"


def find_upstream(checkout: Path) -> "Upstream | None":
    """The checked-out benchmark, or None where the submodule's folder is empty or missing.

    Raises LeapError where it is there in part: numbers must not depend on which half was found.
    """
    if not checkout.is_dir() or is_bare(checkout):
        return None
    for needed in (_SCORING, _REQUEST):
        if not (checkout / needed).is_file():
            raise LeapError(f"{checkout / needed}: missing, so this is no whole VLABench; {_RESTORE}")
    return Upstream(checkout)


@dataclass(frozen=True)
class Upstream:
    """A checkout of OpenMOSS/VLABench."""

    checkout: Path

    @property
    def commit(self) -> str | None:
        """The commit that is checked out; None where the folder is no git checkout of its own."""
        return provenance.own_commit(self.checkout)

    @cached_property
    def _scoring(self) -> ModuleType:
        return _load(self.checkout / _SCORING)

    @cached_property
    def _request(self) -> ModuleType:
        return _load(self.checkout / _REQUEST)

    def official_scores(self, reference: Any, prediction: Any, dependency: Any) -> dict[str, float]:
        """What upstream's get_final_score returns; five zeros where it raises, as its evaluator records."""
        score = self._scoring.get_final_score  # outside the try: an unusable checkout is no zero
        try:
            scores = score(reference, prediction, dependency)
        except Exception:  # noqa: BLE001 (upstream's own rule)
            return dict(ZERO_SCORES)
        return {key: scores[key] for key in OFFICIAL_KEYS}

    def instructions(self, language: Language = "en") -> Instructions:
        """Upstream's prompt. Raises LeapError where it is not the one of commit 47b04bf, byte for byte."""
        path = self.checkout / "VLABench" / "configs" / "prompt" / f"eval_vlm_{language}.txt"
        if not path.is_file():
            raise LeapError(f"{path}: missing; {_RESTORE}")
        content = path.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != PROMPT_SHA256[language]:
            raise LeapError(f"{path}: sha256 {found[:12]}… is not that of VLABench {COMMIT[:7]}; {_RESTORE}")
        return Instructions(content.decode("utf-8"), "vlabench", language)

    def request_items(self, inputs: dict[str, Any]) -> list[list[str]]:
        """["text" | "image", content] in the order that upstream's get_ti_list gives."""
        return self._request.get_ti_list(inputs, "en")


def _load(path: Path) -> ModuleType:
    """Run one file as a module of its own, without the package around it."""
    spec = importlib.util.spec_from_file_location(f"vlabench_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise LeapError(f'{path} needs {error.name}: pip install -c constraints.txt -e ".[vlabench]"') from error
    except (SyntaxError, ImportError) as error:
        raise LeapError(f"{path}: cannot be loaded ({error}); {_RESTORE}") from error
    return module
