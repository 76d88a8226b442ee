"""What a Mac, Windows or a notebook leaves in folders changes nothing, wherever LEAP lists one; nor does a BOM."""

import codecs
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, run_script
from frame_archives import frames, image, tar_gz
from hypothesis import given
from hypothesis import strategies as st
from servers.hub import HubServer
from servers.hub_store import Stored
from test_image_check import draw, sample

from leap.errors import LeapError
from leap.evaluation.evaluation_progress import Monitor
from leap.evaluation.rescore import find_stored
from leap.models.checkpoints import find_checkpoints, weight_files, weights_hash
from leap.preparation.agibot.annotations import read_annotations
from leap.preparation.agibot.archive_tasks import find_archives, prepare
from leap.preparation.build.benchmark_samples import evaluation_images
from leap.preparation.check.benchmark_check import verify_benchmark
from leap.preparation.check.image_facts import FactStore
from leap.records.json_files import read_json, read_jsonl, read_lines
from leap.records.litter import is_bare, is_data, listed, walk
from leap.records.quarantine import move_to_quarantine, restore
from leap.records.training import TrainingSample
from leap.report.results import read_scores
from leap.tabletop.demo_workspace import DemoSize, make_workspace
from leap.training.recipe import read_recipe
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import find_examples, fingerprint
from leap.vlabench.upstream import find_upstream

BENCHMARK = "dataset/vlm_evaluation_v1.0"
FILES = (".DS_Store", "Thumbs.db", "desktop.ini", "._", "Icon\r")
FOLDERS = (".ipynb_checkpoints", "__MACOSX", ".AppleDouble", "@eaDir")
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        "  # how such a file begins


def strew(folder: Path) -> None:
    """Litter in every folder: a twin ._NAME beside each entry, and folders with half copies of all that is there."""
    entries = sorted(folder.iterdir())
    for name in FOLDERS:
        for entry in entries:
            half = folder / name / entry.name
            half.parent.mkdir(exist_ok=True)
            if entry.is_dir():
                shutil.copytree(entry, half)
            else:
                half.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
    for entry in entries:
        if entry.is_dir():
            strew(entry)
    for name in [*FILES, *(f"._{entry.name}" for entry in entries)]:
        (folder / name).write_bytes(APPLE_DOUBLE)


@pytest.fixture(scope="module")
def two(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two workspaces with the same benchmark, samples, annotations, results and checkpoints; one is littered."""
    clean, littered = (tmp_path_factory.mktemp(name) for name in ("clean", "littered"))
    shutil.copytree(workspace / "dataset", clean / "dataset")
    for task in (7, 12):
        episodes = [{"episode_id": number, "task_name": "Tidy up", "label_info": ACTIONS} for number in range(3)]
        write(clean / "data" / "task_info" / f"task_{task}.json", json.dumps(episodes))
        for number in range(3):
            draw(clean / "data" / "images" / f"{task}-{number}.png", task + number)
    write(clean / "data" / "train.jsonl", sample("images/7-1.png") + "\n" + sample("images/12-1.png") + "\n")
    scores = {"task": {"0": {"total_score": 40.0, "skill_match_score": 50.0}}}
    write(clean / "eva_results" / "Spatial" / "m" / "final_score.json", json.dumps(scores))
    write(clean / "eva_results" / "Spatial" / "m" / "predictions.jsonl", "")
    for step in (1, 2):
        write(clean / "output" / f"checkpoint-{step}" / "config.json", "{}")
        write(clean / "output" / f"checkpoint-{step}" / "model.safetensors", f"weights {step}")
    shutil.copytree(clean, littered, dirs_exist_ok=True)
    strew(littered)
    return clean, littered


ACTIONS = {"action_config": [{"start_frame": 0, "end_frame": 9, "action_text": "Pick it up.", "skill": "Pick"}]}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def script(name: str, *flags: str) -> Callable[[Path], Any]:
    def run(root: Path) -> Any:
        done = run_script(f"scripts/utils/{name}.py", *flags, root=root)
        return done.returncode, done.stdout

    return run


SEEN: dict[str, Callable[[Path], Any]] = {
    "check_and_clean_images": script("check_and_clean_images"),
    "verify_dataset": script("verify_dataset", "--json"),
    "examples": lambda root: [
        (example, fingerprint([example]))
        for dimension in DIMENSIONS
        for example in find_examples(root / BENCHMARK, dimension)
    ],
    "plans": lambda root: [
        example for dimension in DIMENSIONS for example in find_examples(root / BENCHMARK, dimension)
    ],
    "verification": lambda root: verify_benchmark(root / BENCHMARK, FactStore(root / ".cache")).to_dict(),
    "evaluation images": lambda root: evaluation_images(root / BENCHMARK),
    "annotations": lambda root: read_annotations(root / "data" / "task_info"),
    "checkpoints": lambda root: find_checkpoints(root / "output"),
    "weights": lambda root: [
        (weight_files(folder), weights_hash(folder)) for folder in find_checkpoints(root / "output")
    ],
    "scores": lambda root: read_scores(root / "eva_results").to_csv(),
    "monitor": lambda root: [(found.dimension, found.model) for found in Monitor(root / "eva_results").read()],
    "stored responses": lambda root: find_stored([root / "eva_results"]),
}


@pytest.mark.parametrize("what", SEEN)
def test_litter_changes_nothing(two: tuple[Path, Path], what: str) -> None:
    clean, littered = (str(SEEN[what](root)).replace(str(root), "ROOT") for root in two)
    assert littered == clean
    assert "ROOT" in clean or what in ("scores", "monitor")


def test_a_training_file_is_built_without_it(two: tuple[Path, Path], tmp_path: Path) -> None:
    made = []
    for number, root in enumerate(two):
        output = tmp_path / str(number)
        done = run_script("scripts/utils/build_training_file.py", "--output_dir", str(output), root=root)
        assert done.returncode == 0, done.stderr
        made.append({path.name: path.read_bytes() for path in output.glob("*.jsonl")})
    assert made[0] == made[1]
    assert sum(content.count(b"\n") for content in made[0].values()) == 6


def test_frames_in_an_archive_are_reported_from_it(tmp_path: Path) -> None:
    odd = [
        (f"{folder}{name}", image(1))
        for folder in ("", "327/", "327/640000/", "__MACOSX/", "__MACOSX/327/640000/", "327/640000/.ipynb_checkpoints/")
        for name in ("._0.jpg", ".0.jpg")
    ]
    odd += [("327/640000/.ipynb_checkpoints/0-checkpoint.jpg", image(2)), ("__MACOSX/327/640000/0.jpg", image(3))]
    odd += [("327/640000/@eaDir/0.jpg", image(4))]
    for name, files in (("clean", frames(327, 2)), ("littered", [*odd, *frames(327, 2)])):
        write(tmp_path / name / "task_327.tar.gz", "").write_bytes(tar_gz(files))
        prepare(find_archives(tmp_path / name), tmp_path / name / "images", 1, outcomes := [])
        assert outcomes[0].state == "done", outcomes[0].problem
    clean, littered = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "images").glob("*.png")}
        for name in ("clean", "littered")
    )
    assert littered == clean
    assert len(clean) == 2


def test_a_folder_with_nothing_but_litter_is_empty(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    strew(tmp_path / "demo")
    assert is_bare(tmp_path / "demo")
    assert find_upstream(tmp_path / "demo") is None
    (tmp_path / "demo" / ".git").mkdir()
    assert not is_bare(tmp_path / "demo")
    with pytest.raises(LeapError, match="not empty"):
        make_workspace(tmp_path / "demo", DemoSize())


@pytest.mark.slow
def test_it_is_not_uploaded(tmp_path: Path) -> None:
    write(tmp_path / "model" / "config.json", "{}")
    write(tmp_path / "model" / "tokenizer" / "vocab.json", "{}")
    strew(tmp_path / "model")
    code = "import sys, pathlib; from leap.models.export import push_model as p; p(pathlib.Path(sys.argv[1]), 'a/b', 0)"
    with HubServer([Stored("a/b", "model", {}, private=True)]) as hub:
        environment = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_TELEMETRY": "1"}
        environment |= {"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], env=environment, check=True)
    assert set(hub.received) == {"config.json", "tokenizer/vocab.json"}


@given(before=st.lists(st.sampled_from(["images", "327", "."])), name=st.sampled_from([*FILES, *FOLDERS, "._a.png"]))
def test_no_path_through_it_is_data(before: list[str], name: str) -> None:
    assert is_data("/".join([*before, "a.png"]))
    for spelling in (name, name.upper(), name.lower()):
        assert not is_data("/".join([*before, spelling]))
        assert not is_data("/".join([*before, spelling, "a.png"]))


def test_listings_are_sorted_and_of_nothing_where_there_is_no_folder(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", "c.txt", "sub/d.json"):
        write(tmp_path / name, "{}")
    strew(tmp_path)
    assert [path.name for path in listed(tmp_path, "*.json")] == ["a.json", "b.json"]
    assert [path.name for path in listed(tmp_path, "**/*.json")] == ["a.json", "b.json", "d.json"]
    assert list(walk(tmp_path)) == [(tmp_path, ["a.json", "b.json", "c.txt"]), (tmp_path / "sub", ["d.json"])]
    assert listed(tmp_path / "nowhere") == []


# --- byte order marks, and what other tools write for JSONL


def with_bom(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(codecs.BOM_UTF8 + text.encode())
    return path


def test_a_byte_order_mark_is_accepted_in_every_file(two: tuple[Path, Path], tmp_path: Path) -> None:
    """Windows editors write one."""
    root = shutil.copytree(two[0], tmp_path / "root")
    what = ("plans", "annotations", "verification", "scores")
    before = [str(SEEN[name](root)) for name in what]
    for pattern in ("*.json", "*.jsonl", "*.txt"):
        for path in root.rglob(pattern):
            if path.stat().st_size and "images" not in path.parts:
                path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert [str(SEEN[name](root)) for name in what] == before
    assert SEEN["check_and_clean_images"](root)[0] == 0
    assert read_json(with_bom(tmp_path / "a.json", "[1]")) == [1]
    recipe = REPOSITORY / "configs" / "recipes" / "full.yaml"
    assert read_recipe(with_bom(tmp_path / "full.yaml", recipe.read_text())) == read_recipe(recipe)


def test_files_with_a_mark_may_have_been_joined(tmp_path: Path) -> None:
    line = codecs.BOM_UTF8 + sample("a.png").encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes(line * 2 + codecs.BOM_UTF8)
    assert len(list(read_jsonl(tmp_path / "a.jsonl", TrainingSample))) == 2


def test_a_restore_file_from_an_editor_is_read(tmp_path: Path) -> None:
    draw(tmp_path / "data" / "a.png")
    file = move_to_quarantine({tmp_path / "data" / "a.png": "why"}, tmp_path / "data", tmp_path / "quarantine")
    with_bom(file, file.read_text())
    assert restore(file) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"[{sample('a.png')},\n{sample('b.png')}]".encode(), "a.jsonl:1: a JSON array; one record a line is needed"),
        (b"\n \n  [\n" + sample("a.png").encode() + b"]", "a.jsonl:3: a JSON array"),
        (sample("a.png").encode("utf-16"), "a.jsonl: UTF-16 text; save it as UTF-8"),
    ],
)
def test_what_is_no_jsonl_is_reported_as_what_it_is(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(LeapError, match=words):
        list(read_lines(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("name", [327, "327", 0, -1, 1.5, None])
def test_a_sample_may_be_numbered(name: Any) -> None:
    read = TrainingSample.model_validate_json(json.dumps({**json.loads(sample("a.png")), "id": name}))
    assert read.id == (None if name is None else str(name))


@pytest.mark.parametrize("name", [True, [1], {"a": 1}])
def test_a_sample_has_no_other_name(name: Any) -> None:
    with pytest.raises(ValueError, match="id"):
        TrainingSample.model_validate_json(json.dumps({**json.loads(sample("a.png")), "id": name}))
