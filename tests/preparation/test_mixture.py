"""Several training files as one: each as often as its weight says, named by its own file and line."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_RECIPE, run_script
from test_training_data import one, write_samples

from leap.data.chat_encoding import ChatFormat
from leap.data.dataset import MixedSet, TrainingSet
from leap.data.image import ImageEncoder, ImageSize
from leap.errors import LeapError
from leap.models.loading import load_processor
from leap.preparation.check.checked_dataset import CheckedFile, check_training_file
from leap.preparation.check.mixture import Mixture
from leap.training.recipe import read_recipe


@pytest.fixture
def files(tmp_path: Path, model: Path) -> tuple[list[CheckedFile], ChatFormat, ImageEncoder]:
    processor = load_processor(model)
    chat, encoder = ChatFormat(processor), ImageEncoder(processor, ImageSize(4, 9))
    checked = []
    for name, count in (("few", 3), ("many", 40)):
        (tmp_path / name).mkdir()
        path = write_samples(tmp_path / name, [one(f"{name} {number}") for number in range(count)])
        checked.append(check_training_file(path, [tmp_path], chat, encoder, 4096, tmp_path / "cache"))
    return checked, chat, encoder


def test_each_file_is_used_as_its_weight_says(files: tuple[list[CheckedFile], ChatFormat, ImageEncoder]) -> None:
    checked, chat, encoder = files
    mixture = Mixture(checked, [2, 1.25], seed=1)
    samples = MixedSet([TrainingSet(file, chat, encoder) for file in mixture.files])
    assert len(mixture) == len(samples) == 6 + 50
    for index in range(len(samples)):
        assert len(samples[index].input_ids) == mixture.tokens[index]
    places = Counter(samples.place(index) for index in range(len(samples)))
    few, many = (file.path for file in checked)
    assert {place: count for place, count in places.items() if str(few) in place} == {
        f"{few}:{line}": 2 for line in (1, 2, 3)
    }
    assert Counter(count for place, count in places.items() if str(many) in place) == {1: 30, 2: 10}
    assert mixture.images.dtype == checked[0].images.dtype


def test_seed_and_weights_make_the_mixture(files: tuple[list[CheckedFile], ChatFormat, ImageEncoder]) -> None:
    checked, *_ = files
    (first,) = Mixture(checked[1:], [0.3], seed=1).files
    (again,) = Mixture(checked[1:], [0.3], seed=1).files
    (other,) = Mixture(checked[1:], [0.3], seed=2).files
    assert len(first) == 12
    assert np.array_equal(first.lines, again.lines)
    assert not np.array_equal(first.lines, other.lines)
    prints = {Mixture(checked, weights, 1).fingerprint for weights in ([1, 1], [1, 0.5], [1, 1])}
    assert len(prints) == 2
    with pytest.raises(LeapError, match=r"samples\.jsonl: a weight of 0\.1 takes none of its 3 samples"):
        Mixture(checked[:1], [0.1], 1)


def test_a_recipe_lists_files(workspace: Path, tmp_path: Path) -> None:
    spoken = {"conversations": [{"from": "human", "value": "Which cup?"}, {"from": "gpt", "value": "1) The red one."}]}
    theirs = tmp_path / "theirs.json"
    theirs.write_text(json.dumps([spoken] * 4))
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text(
        f"base: {TINY_RECIPE}\nmax_steps: 1\nwarmup_steps: 0\nlogging_steps: 1\nimage_tokens_min: 4\n"
        "image_tokens_max: 9\n"
        f"train_file: [data/train_demo.jsonl, {{file: {theirs}, weight: 2.5}}]\n"
    )
    assert read_recipe(recipe).train_names == f"data/train_demo.jsonl, {theirs} x 2.5"
    given = ["--recipe", str(recipe), "--output_dir", str(tmp_path / "run"), "--report_to", "none"]
    done = run_script("scripts/training/run-finetuning.py", *given, root=workspace)
    assert done.returncode == 0, done.stderr
    assert "samples     34 (" in done.stdout
    assert "read as     train_demo.jsonl: LEAP's own; sample 1 of 24: user: " in done.stdout
    assert "sample 1 of 10: user: Which cup? assistant: 1) The red one." in done.stdout
    again = run_script("scripts/training/run-finetuning.py", *given, root=workspace)
    assert "this run is finished" in again.stdout
    refused = run_script(
        "scripts/training/run-finetuning.py", *given, "--val_file", str(theirs), "--dry_run", root=workspace
    )
    assert "val_file: " in refused.stderr
    assert "it is the training file" in refused.stderr


@pytest.mark.parametrize("value", ["[]", "[{file: a.jsonl, weight: 0}]", "[{file: a.jsonl, wait: 1}]", "[7]"])
def test_a_list_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text(f"base: {TINY_RECIPE}\ntrain_file: {value}\n")
    with pytest.raises(LeapError, match=r"mixed\.yaml: train_file"):
        read_recipe(recipe)
