"""The check of the benchmark's files: what is broken is found and named, what is whole is left alone."""

import io
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import GOLDEN, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from servers.hub import HubServer
from servers.hub_store import Stored

from leap.preparation.check.benchmark_check import Verification, check_example, verify_benchmark
from leap.preparation.check.image_facts import FactStore
from leap.records.locks import FolderLock
from leap.vlabench.dimensions import DIMENSIONS, NAMES
from leap.vlabench.examples import find_examples
from leap.vlabench.scoring import official_scores

SCRIPT = "scripts/utils/verify_dataset.py"


@pytest.fixture
def root(workspace: Path, tmp_path: Path) -> Path:
    """A LEAP_ROOT with a copy of the demo's benchmark."""
    name = "dataset/vlm_evaluation_v1.0"
    shutil.copytree(workspace / name, tmp_path / "root" / name)
    return tmp_path / "root"


def verify(root: Path) -> Verification:
    return verify_benchmark(root / "dataset" / "vlm_evaluation_v1.0", FactStore(root / ".cache"), partial=True)


def example(root: Path) -> Path:
    """An example of the Spatial dimension."""
    return find_examples(root / "dataset" / "vlm_evaluation_v1.0", DIMENSIONS[3])[0].folder


def test_a_whole_data_set_has_no_problem(root: Path) -> None:
    done = run_script(SCRIPT, "--partial", root=root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 problems, 0 notes" in done.stdout
    found = verify(root)
    assert {(sample["dimension"], sample["examples"], sample["broken"]) for sample in found.counts()} == {
        (n, 2, 0) for n in NAMES
    }


def test_without_the_hubs_listing_nobody_knows_whether_all_is_there(root: Path) -> None:
    """A copy, or a machine that was never online."""
    shutil.rmtree(root / "dataset" / "vlm_evaluation_v1.0" / "Complex")
    done = run_script(SCRIPT, "--json", root=root)
    assert done.returncode == 0
    message = json.loads(done.stdout)
    assert (message["completeness"], message["problems"]) == ("unknown", [])
    assert [note["kind"] for note in message["notes"]] == ["missing dimension"]
    assert "completeness: unknown" in run_script(SCRIPT, root=root).stdout


LAYOUT = json.loads((GOLDEN.parent / "hub" / "vlm_evaluation_v1.0.json").read_text())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LEAP_ROOT with the published folders and tasks, one small example each, as the download script brings them."""
    root, image = tmp_path_factory.mktemp("published"), io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "png")
    contents = {"png": image.getvalue(), "txt": b"Lift the cup.", "json": json.dumps({"skill_sequence": [PICK, LIFT]})}
    files = dict.fromkeys(LAYOUT["other_files"], b"x")
    for folder, tasks in LAYOUT["tasks"].items():
        for task, name in itertools.product(tasks, LAYOUT["files_of_an_example"]):
            content = contents[name.rpartition(".")[2]]
            files[f"{folder}/{task}/example7/{name}"] = content if isinstance(content, bytes) else content.encode()
    with HubServer([Stored(LAYOUT["repository"], "dataset", files)]) as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setenv("HF_ENDPOINT", hub.url)
        done = run_script("scripts/download/download_vlabench_with_retry.py", root=root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def download(published: Path, tmp_path: Path) -> Path:
    """A copy of it, with the listing."""
    return shutil.copytree(published, tmp_path / "downloaded")


def test_a_complete_download_is_complete(download: Path) -> None:
    done = run_script(SCRIPT, "--json", root=download)
    message = json.loads(done.stdout)
    assert (done.returncode, message["completeness"], message["problems"], message["examples"]) == (
        0,
        "complete",
        [],
        45,
    )
    assert {sample["task"] for sample in message["tasks"]} == {
        task for tasks in LAYOUT["tasks"].values() for task in tasks
    }


def test_what_is_missing_of_a_download_is_named(download: Path) -> None:
    data = download / "dataset" / "vlm_evaluation_v1.0"
    shutil.rmtree(data / "Complex")
    shutil.rmtree(data / "PhysicsLaw" / "reflection_qa")
    (data / "Spatial" / "select_toy_spatial" / "example7" / "input" / "instruction.txt").write_text("Lift")
    (data / "M&T" / "select_toy" / "example7" / "env_config" / "env_config.json").unlink()
    (data / "Semantic" / "select_toy_semantic" / "example7" / "input" / "input.png").unlink()
    task = data / "CommenSence" / "select_nth_largest_poker"
    (task / "example7").rename(task / "example8")
    found = verify_benchmark(data, FactStore(download / ".cache"))
    assert found.completeness == "incomplete"
    kinds = {(problem.dimension, problem.kind): problem.reason for problem in found.problems}
    assert set(kinds) == {
        ("Complex", "missing tasks"), ("PhysicsLaw", "missing tasks"), ("Spatial", "other than the hub's"),
        ("M&T", "other than the hub's"), ("Semantic", "missing file"), ("CommonSense", "missing examples"),
    }  # fmt: skip
    assert kinds["Complex", "missing tasks"].startswith("book_rearrange, cook_dishes, hammer_nail_and_hang_picture, ")
    assert "instruction.txt has 4 bytes where the hub has 13" in kinds["Spatial", "other than the hub's"]
    assert "env_config.json is missing" in kinds["M&T", "other than the hub's"]
    assert kinds["CommonSense", "missing examples"].startswith("7; download the benchmark again")
    partial = verify_benchmark(data, FactStore(download / ".cache"), partial=True)
    assert {problem.kind for problem in partial.problems} == {"other than the hub's", "missing file"}
    assert partial.completeness == "incomplete"


def test_a_listing_that_is_none_is_one_line(download: Path) -> None:
    (listing,) = download.rglob("listing.json")
    for content in ("{", "[]", '{"repository": "a", "commit": "b", "files": {"x": -1}}', '{"files": []}'):
        listing.write_text(content)
        done = run_script(SCRIPT, root=download)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "listing.json" in done.stderr


def test_a_dry_run_keeps_no_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with HubServer([Stored(LAYOUT["repository"], "dataset", {"M&T/a/example0/b.txt": b"x"})]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        done = run_script(
            "scripts/download/download_vlabench_with_retry.py", "--dry_run", "--dimensions", "mt", root=tmp_path
        )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def _write(name: str, content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def _plan(*steps: Any) -> Callable[[Path], object]:
    return _write("output/operation_sequence.json", json.dumps({"skill_sequence": list(steps)}))


def _cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:900])


PICK = {"name": "pick", "params": {"target_entity_name": 3}}
LIFT = {"name": "lift", "params": {}}
BREAKAGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no image": (lambda folder: (folder / "input/input.png").unlink(), "missing file", "input.png"),
    "cut image": (_cut("input/input_mask.png"), "image", "input_mask.png"),
    "text as image": (_write("input/input.png", "<html>"), "image", "input.png"),
    "empty image": (_write("input/input.png", b""), "image", "input.png"),
    "no plan": (lambda folder: (folder / "output/operation_sequence.json").unlink(), "missing file", "operation_seq"),
    "half a plan": (_write("output/operation_sequence.json", '{"skill_seq'), "plan", "not valid JSON"),
    "no steps": (_plan(), "plan", "skill_sequence"),
    "a step of text": (_plan(PICK, "lift"), "plan", r"skill_sequence\.1: an object"),
    "a step without name": (_plan({"params": {}}), "plan", r"skill_sequence\.0\.name"),
    "a step without params": (_plan(PICK, {"name": "lift"}), "plan", r"skill_sequence\.1\.params"),
    "no subtask": (_plan(LIFT, PICK), "plan", r"no subtask.*\(lift, pick\)"),
    "a negative id": (_plan({"name": "pick", "params": {"target_entity_name": -1}}, LIFT), "id", "-1"),
    "an id in words": (_plan({"name": "pick", "params": {"target_entity_name": "cup"}}, LIFT), "id", "'cup'"),
    "a true id": (_plan({"name": "pick", "params": {"target_entity_name": True}}, LIFT), "id", "True"),
    "a list as id": (_plan({"name": "pick", "params": {"target_entity_name": [3]}}, LIFT), "id", r"\[3\]"),
    "a blank instruction": (_write("input/instruction.txt", " \n"), "instruction", "empty"),
    "a binary instruction": (_write("input/instruction.txt", b"\xff\xfe"), "instruction", "UTF-8"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_example_is_named_and_set_aside(root: Path, name: str) -> None:
    damage, kind, reason = BREAKAGES[name]
    folder = example(root)
    damage(folder)
    found = verify(root)
    assert [found.folders[key] for key in found.broken()] == [folder]
    (problem,) = found.problems
    assert (problem.dimension, problem.kind) == ("Spatial", kind)
    assert str(folder) in problem.reason
    assert re.search(reason, problem.reason), problem.reason


ODDITIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no env_config": (lambda folder: shutil.rmtree(folder / "env_config"), "missing file"),
    "broken env_config": (_write("env_config/env_config.json", "{"), "env_config"),
    "an id as text": (_plan({"name": "pick", "params": {"target_entity_name": "3"}}, LIFT), "id"),
    "an unknown skill": (_plan(PICK, LIFT, {"name": "wave", "params": {}}), "skill"),
    "a pick of nothing": (_plan({"name": "pick", "params": {}}, LIFT), "skill"),
    "two image sizes": (lambda folder: Image.new("RGB", (9, 9)).save(folder / "input/input.png"), "image"),
}


@pytest.mark.parametrize("name", ODDITIES)
def test_an_oddity_is_a_note_and_no_problem(root: Path, name: str) -> None:
    change, kind = ODDITIES[name]
    change(example(root))
    found = verify(root)
    assert not found.problems
    assert [note.kind for note in found.findings] == [kind]


def test_quarantine_moves_the_broken_ones_and_restore_brings_them_back(root: Path) -> None:
    data, folder = root / "dataset" / "vlm_evaluation_v1.0", example(root)
    (folder / "input" / "input.png").write_text("no image")
    done = run_script(SCRIPT, "--partial", "--quarantine", "--json", root=root)
    assert done.returncode == 1
    assert not folder.exists()
    assert not any("quarantine" in entry.name for entry in data.iterdir())
    assert run_script(SCRIPT, "--partial", root=root).returncode == 0
    (only,) = find_examples(data, DIMENSIONS[3])
    assert only.folder != folder
    restored = run_script(SCRIPT, "--restore", json.loads(done.stdout)["restore_file"], root=root)
    assert (restored.returncode, restored.stdout) == (0, "restored 1\n")
    assert (folder / "input" / "input.png").read_text() == "no image"


def test_a_task_with_few_examples_is_noted(root: Path) -> None:
    shutil.rmtree(example(root))
    (note,) = verify(root).findings
    assert note[:2] == ("Spatial", example(root).parent.name)
    assert "1, while most tasks have 2" in note.reason


def test_one_number_twice_and_one_dimension_twice(root: Path) -> None:
    folder = example(root)
    shutil.copytree(folder, folder.with_name("example00"))
    assert [problem.kind for problem in verify(root).problems] == ["folders"]
    (root / "dataset" / "vlm_evaluation_v1.0" / "physical law").mkdir()
    assert [problem.kind for problem in verify(root).problems] == ["folders", "folders"]


def test_no_data_set_says_how_to_get_it(tmp_path: Path) -> None:
    done = run_script(SCRIPT, root=tmp_path)
    assert done.returncode == 1
    assert "download" in done.stderr


IDS = st.one_of(st.integers(-2, 5), st.sampled_from(["3", "x", 3.0, 2.5, True, None, [1]]))
STEPS = st.one_of(
    st.builds(
        lambda name, entity, container: {
            "name": name,
            "params": {"target_entity_name": entity, "target_container_name": container},
        },
        st.sampled_from(["pick", "place", "lift", "press", "pour", "wave"]),
        IDS,
        IDS,
    ),
    st.sampled_from(["pick", 3, None, {"name": "pick"}, {"params": {}}, {"name": ["pick"], "params": {}}]),
)


@settings(max_examples=80)
@given(steps=st.lists(STEPS, max_size=5))
def test_the_check_agrees_with_the_benchmarks_score(tmp_path_factory: Any, steps: list[Any]) -> None:
    """An expert's plan without a problem scores when it is answered with itself; one of no use scores zero."""
    folder = tmp_path_factory.getbasetemp() / "agreement"
    (folder / "output").mkdir(parents=True, exist_ok=True)
    (folder / "output" / "operation_sequence.json").write_text(json.dumps({"skill_sequence": steps}))
    kinds = {kind for kind, _, note in check_example(folder) if not note and kind != "missing file"}
    score = official_scores(steps, steps, "Sequential")
    if "plan" in kinds:
        assert set(score.values()) == {0}
    elif not kinds:
        assert score["skill_match_score"] == score["exact_match_score"] == 100


def test_two_that_move_examples_away_at_once_are_refused(root: Path) -> None:
    (example(root) / "input" / "input.png").write_text("broken")
    with FolderLock(root / "dataset" / "vlm_evaluation_v1.0_quarantine"):
        done = run_script(SCRIPT, "--partial", "--quarantine", root=root)
    assert (done.returncode, done.stdout) == (1, "")
    assert "another process" in done.stderr
    assert example(root).is_dir()
    assert run_script(SCRIPT, "--partial", "--quarantine", root=root).returncode == 1
    assert run_script(SCRIPT, "--partial", "--quarantine", root=root).returncode == 0


def test_nothing_is_made_where_there_is_no_data_set(tmp_path: Path) -> None:
    assert run_script(SCRIPT, "--quarantine", root=tmp_path).returncode == 1
    assert not [path for path in tmp_path.iterdir() if path.name != ".cache"]
