"""Where a path on a command line is: the one that exists, from the current folder or from the workspace root."""

import os
import shutil
from pathlib import Path

import pytest
from conftest import REPOSITORY, run_script
from hypothesis import given
from hypothesis import strategies as st
from test_cli import SCRIPTS, parser_of

from configs.config import WorkspaceConfig
from leap.errors import LeapError, UsageError
from leap.records.paths import find_path, roots_beside
from leap.records.training import TrainingSample
from leap.reinforcement.policy_recipe import PolicyRecipe
from leap.training.aliases import ALIASES, ANSWERS
from leap.training.overrides import recipe_overrides
from leap.training.recipe import PATHS

FINETUNE = "scripts/training/run-finetuning.py"


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(the current folder, a workspace's root)."""
    here, root = tmp_path / "here", tmp_path / "root"
    for folder in (here, root):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("LEAP_ROOT", str(root))
    return here, root


def test_what_exists_wins_and_what_is_new_starts_at_the_root(two: tuple[Path, Path]) -> None:
    here, root = two
    (here / "a").mkdir()
    (root / "b").mkdir()
    assert find_path("a", root) == here / "a"
    assert find_path("b", root) == root / "b"
    assert find_path("new/a", root) == root / "new" / "a"
    assert find_path("../here/a", root).samefile(here / "a")
    assert find_path(here, root) == here
    assert find_path("~/x", root) == Path.home() / "x"
    (here / "b").symlink_to(root / "b")
    assert find_path("b", root) == root / "b"  # the same folder twice


def test_of_two_the_workspaces_is_taken_and_said(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is said of empty folders: the repository, where one often is, has some of a workspace's names."""
    here, root = two
    for folder in two:
        (folder / "output").mkdir()
        (folder / "output" / ".gitkeep").touch()
    assert find_path("output", root) == root / "output"
    assert capsys.readouterr().err == ""
    (here / "output" / "checkpoint-5").mkdir()
    assert find_path("output", root) == root / "output"
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"note: output: the workspace's is taken, {root}/output; for the one here, {here}/output")
    assert find_path("output/checkpoint-5", root) == here / "output" / "checkpoint-5"


@given(st.text(max_size=6) | st.sampled_from(["~nobody-of-this-name/x", "\0", "", " ", "x" * 5000, "a/" * 3000]))
def test_any_text_is_a_path_or_one_line(text: str) -> None:
    try:
        assert find_path(text, Path("/")).is_absolute()
    except LeapError as error:
        refused = str(error)
    else:
        refused = ""
    assert len(refused) < 200


# A flag that takes a path says so by one of these words; those beside it do not.
WORDS = ("dir", "path", "file", "folder", "root", "checkpoint", "image", "model", "csv", "scores", "restore", "archive",
         "results", "output", "annotations", "evaluation", "vlabench", "golden", "data")  # fmt: skip
NO_PATHS = {"--checkpoints", "--recipe", "--model", "--models", "--only_models", "--model_name", "model", "--baseline",
            "--dimension", "--dimensions", "--image_tokens_min", "--image_tokens_max", "--max_checkpoints",
            "--max_models", "--gpus_per_model", "--vllm_python", "--vllm_args", "--output_price",
            "--served_model_name"}  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_that_takes_a_path_looks_for_it(script: str, two: tuple[Path, Path]) -> None:
    here, _ = two
    (here / "mine").mkdir()
    for action in parser_of(script)._actions:
        names = {*(action.option_strings or [action.dest])}
        of_recipe = action.dest in {*PolicyRecipe.model_fields, *ALIASES, *ANSWERS}  # recipe_overrides looks for these
        if action.nargs == 0 or action.choices or names & NO_PATHS or of_recipe:
            continue
        if any(word in name for name in names for word in WORDS):
            os.chdir(here)
            assert action.type is not None, names
            assert action.type("mine") == here / "mine", names


def test_a_recipes_paths_are_looked_for_too(two: tuple[Path, Path]) -> None:
    """One that is under the root stays as it was typed: a run is known by its recipe."""
    here, root = two
    parser = parser_of(FINETUNE)
    for name in PATHS:
        (here / "mine").touch()
        (root / "ours").touch()
        values = [recipe_overrides(parser.parse_args([f"--{name}", text]), root) for text in ("mine", "ours", "new")]
        assert [given[name] for given in values] == [str(here / "mine"), "ours", "new"]
    (root / "mine").touch()
    assert recipe_overrides(parser.parse_args(["--train_file", "mine"]), root) == {"train_file": "mine"}
    with pytest.raises(UsageError, match="--train_file: '' is no path"):
        recipe_overrides(parser.parse_args(["--train_file", ""]), root)


def test_a_file_with_images_beside_it_is_trained_on_checked_and_asked(workspace: Path, two: tuple[Path, Path]) -> None:
    """From the folder in which it lies, in a workspace that is elsewhere."""
    here, root = two
    (root / "models").symlink_to(workspace / "models")
    (here / "images").mkdir()
    lines = (workspace / "data" / "train_demo.jsonl").read_text().splitlines(keepends=True)[-4:]
    for name, part in (("mine.jsonl", lines[:3]), ("unseen.jsonl", lines[3:])):
        (here / name).write_text("".join(part).replace('"images/', '"images/'))
    for image in {image for line in lines for image in TrainingSample.model_validate_json(line).images()}:
        shutil.copy(workspace / "data" / image, here / "images")
    small = "--max_samples 1 --max_new_tokens 2 --image_tokens_min 4 --image_tokens_max 9"
    for script, line in (
        (FINETUNE, "--recipe demo --dry_run --train_file mine.jsonl --val_file ../here/unseen.jsonl"),
        ("scripts/utils/check_and_clean_images.py", f"--file mine.jsonl --data_dir {here} --no_decode"),
        ("scripts/evaluation/run_vlm_output.py", f"--data_file mine.jsonl --baseline_model models/tiny {small}"),
    ):
        done = run_script(script, *line.split(), root=root, folder=here)
        assert done.returncode == 0, done.stderr
    (table,) = (root / "eva_results" / "blind_10").glob("*.csv")
    assert str(here / "images") in table.read_text()
    (here / "mine.csv").write_text(table.read_text().replace(f"{here}/", ""))
    judged = "--judge rubric --input_csv mine.csv".split()
    assert run_script("scripts/evaluation/analyze_output_results.py", *judged, root=root, folder=here).returncode == 0
    assert roots_beside(root / "data" / "mine.jsonl", (root, root / "data")) == (root, root / "data")


def test_the_shipped_recipes_are_found_from_anywhere(two: tuple[Path, Path]) -> None:
    here, _ = two
    found = WorkspaceConfig.find()
    (here / "mine.yaml").touch()
    assert found.recipe("full") == REPOSITORY / "configs" / "recipes" / "full.yaml"
    assert found.recipe("mine.yaml") == here / "mine.yaml"
