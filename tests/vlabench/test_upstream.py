"""The VLABench submodule: found or not, whole or not, and used for what the flags say.

A stand-in checkout of the same layout shows which code ran; the real one is compared where it is checked out.
"""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
from conftest import GOLDEN, REPOSITORY, run_script

from leap.errors import LeapError
from leap.vlabench import upstream as upstream_module
from leap.vlabench.prompts import leap_instructions
from leap.vlabench.scorer_agreement import compare_requests, compare_scorers
from leap.vlabench.scoring import OFFICIAL_KEYS
from leap.vlabench.sources import choose_instructions, choose_scorer
from leap.vlabench.upstream import COMMIT, PROMPT_SHA256, find_upstream

CHECK = "scripts/utils/check_vlabench.py"
PLAN = [{"name": "press", "params": {"target_entity_name": 1}}]
# Not the benchmark's rule on purpose: its numbers show that this file was loaded and run.
SCORING = f"""
def get_final_score(standard, predicted, dependency):
    return dict.fromkeys({OFFICIAL_KEYS!r}, 7.0 / len(predicted))
"""
REQUEST = """
def get_ti_list(inputs, language, with_CoT=False):
    return [["text", inputs["pre_prompt"]], ["text", language]]
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The submodule's layout with a scorer and prompts of our own."""
    root = tmp_path / "VLABench"
    package = root / "VLABench"
    for folder in ("evaluation/model/vlm", "configs/prompt"):
        (package / folder).mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package must not be imported')")
    (package / "evaluation" / "utils.py").write_text(SCORING)
    (package / "evaluation" / "model" / "vlm" / "base.py").write_text(REQUEST)
    for language in ("en", "zh"):
        (package / "configs" / "prompt" / f"eval_vlm_{language}.txt").write_text(f"a prompt ({language})")
    hashes = {language: hashlib.sha256(f"a prompt ({language})".encode()).hexdigest() for language in ("en", "zh")}
    monkeypatch.setattr(upstream_module, "PROMPT_SHA256", hashes)
    return root


def test_the_pinned_commit_and_hashes_are_those_of_the_submodule_and_the_golden_vectors() -> None:
    entry = subprocess.run(
        ["git", "-C", str(REPOSITORY), "ls-files", "--stage", "VLABench"], capture_output=True, text=True, check=True
    )
    assert entry.stdout.split()[:2] == ["160000", COMMIT]
    prompts = json.loads((GOLDEN / "prompts.json").read_text())["pre_prompt"]
    assert {language: prompt["sha256"] for language, prompt in prompts.items()} == PROMPT_SHA256


def test_a_plain_clone_has_none_and_works(tmp_path: Path) -> None:
    assert find_upstream(tmp_path / "nowhere") is None
    (tmp_path / "VLABench").mkdir()  # what git leaves of a submodule that is not checked out
    assert find_upstream(tmp_path / "VLABench") is None
    assert choose_scorer("auto", tmp_path / "VLABench").name == "leap"
    assert choose_instructions("auto", tmp_path / "VLABench") == leap_instructions()
    for choose, flag in ((choose_scorer, "--scorer"), (choose_instructions, "--prompt")):
        with pytest.raises(LeapError, match=f"{flag} vlabench: .* git submodule update --init"):
            choose("vlabench", tmp_path / "VLABench")


def test_auto_and_vlabench_use_the_checkout_and_leap_does_not(checkout: Path) -> None:
    for source in ("auto", "vlabench"):
        assert choose_scorer(source, checkout).official(PLAN, PLAN, "Sequential")["total_score"] == 7.0
        instructions = choose_instructions(source, checkout)
        assert (instructions.text, instructions.source) == ("a prompt (en)", "vlabench")
    assert choose_scorer("leap", checkout).official(PLAN, PLAN, "Sequential")["total_score"] == 80.0
    assert choose_instructions("leap", checkout).source == "leap"


def test_what_raises_in_upstreams_scorer_is_five_zeros(checkout: Path) -> None:
    assert set(choose_scorer("vlabench", checkout).official(PLAN, [], "Sequential").values()) == {0}


def test_a_partial_checkout_is_refused(checkout: Path) -> None:
    (checkout / "VLABench" / "evaluation" / "utils.py").unlink()
    with pytest.raises(LeapError, match=r"utils\.py: missing"):
        choose_scorer("auto", checkout)


def test_an_altered_prompt_is_refused(checkout: Path) -> None:
    path = checkout / "VLABench" / "configs" / "prompt" / "eval_vlm_en.txt"
    path.write_text(path.read_text() + " ")
    with pytest.raises(LeapError, match=r"eval_vlm_en\.txt: sha256 .* is not that of VLABench 47b04bf"):
        choose_instructions("auto", checkout)


@pytest.mark.parametrize("code", ["import a_library_that_is_not_there", "def get_final_score(:"])
def test_a_checkout_that_cannot_run_is_an_error_and_no_zero(checkout: Path, code: str) -> None:
    (checkout / "VLABench" / "evaluation" / "utils.py").write_text(code)
    with pytest.raises(LeapError, match=r"utils\.py"):
        choose_scorer("vlabench", checkout).official(PLAN, PLAN, "Sequential")


def test_the_check_reports_difference_absence_and_commit(checkout: Path, tmp_path: Path) -> None:
    different = run_script(CHECK, "--vlabench", str(checkout))
    assert different.returncode == 1
    assert f"commit    unknown, not {COMMIT}" in different.stdout
    assert "scorer    DIFFERENT on s" in different.stdout
    absent = run_script(CHECK, "--vlabench", str(tmp_path / "nowhere"))
    assert absent.returncode == 1
    assert "git submodule update --init" in absent.stdout


def test_an_evaluation_records_whose_scorer_and_prompt(workspace: Path, model: Path) -> None:
    options = "--checkpoint models/tiny --dimension M&T --max_new_tokens 2 --image_tokens_min 4".split()
    done = run_script(
        "scripts/evaluation/run_vlm_evaluation.py",
        *[*options, "--image_tokens_max", "9", "--model_name", "sources", "--scorer", "leap", "--prompt", "leap"],
        root=workspace,
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((workspace / "eva_results" / "M&T" / "sources" / "manifest.json").read_text())
    assert manifest["scorer"] == {"name": "leap", "vlabench": COMMIT}
    assert manifest["settings"]["prompt"]["sha256"] == leap_instructions().sha256


REAL = find_upstream(REPOSITORY / "VLABench")


@pytest.mark.skipif(REAL is None, reason="the submodule is not checked out")
def test_the_real_checkout_agrees_with_leap_on_every_golden_vector() -> None:
    assert REAL is not None
    assert REAL.commit == COMMIT
    assert compare_requests(REAL)
    assert compare_scorers(REAL, GOLDEN / "scoring_public.jsonl")[1] == []
    assert {REAL.instructions(language).sha256 for language in ("en", "zh")} == set(PROMPT_SHA256.values())
