"""build_training_file.py: samples from annotations and examples, copies found, episodes split, nothing invented."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Finished, run_script
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from leap.data.image import resolve_image
from leap.errors import UsageError
from leap.preparation.agibot.annotations import read_annotations
from leap.preparation.build.dataset_file import TEST_SHARE, split_episodes
from leap.records.json_files import read_jsonl
from leap.records.training import TrainingSample
from leap.vlabench.parsing import parse_plan

SCRIPT = "scripts/utils/build_training_file.py"
EPISODES = 20  # of each of the two tasks


def image(seed: int) -> Image.Image:
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8))
    return small.resize((96, 72), Image.Resampling.BICUBIC)


def episode(task: int, number: int, **changes: Any) -> dict[str, Any]:
    steps = [("Pick up the onion.", "Pick"), ("Place it in the basket.", "Place")]
    actions = [
        {"start_frame": 100 * place, "end_frame": 100 * place + 90, "action_text": text, "skill": skill}
        for place, (text, skill) in enumerate(steps)
    ]
    return {
        "episode_id": number,
        "task_id": task,
        "task_name": f"Work of task {task}",
        "init_scene_text": "The robot is at a shelf.",
        "label_info": {"action_config": actions, "key_frame": []},
        **changes,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A LEAP_ROOT with two tasks of 20 episodes, each with an image unlike the others."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    for task in (7, 12):
        write_annotations(tmp_path, task, [episode(task, number) for number in range(EPISODES)])
        for number in range(EPISODES):
            image(task * 1000 + number).save(tmp_path / "data" / "images" / f"{task}-{number}.png")
    return tmp_path


def write_annotations(root: Path, task: int, episodes: Any) -> Path:
    path = root / "data" / "task_info" / f"task_{task}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(episodes))
    return path


def build(root: Path, *flags: str) -> dict[str, Any]:
    """The data card."""
    done = run_script(SCRIPT, *flags, root=root)
    assert done.returncode == 0, done.stderr
    output = root / (flags[flags.index("--output_dir") + 1] if "--output_dir" in flags else "data")
    assert Image.open(output / "data_card.png").convert("RGB").getextrema() != ((255, 255),) * 3
    return json.loads((output / "data_card.json").read_text())


def samples(root: Path, side: str, folder: str = "data") -> list[TrainingSample]:
    (path,) = (root / folder).glob(f"{side}_*.jsonl")
    return [sample for _, sample in read_jsonl(path, TrainingSample)]


def ids(root: Path, side: str, folder: str = "data") -> list[str]:
    return [sample.id or "" for sample in samples(root, side, folder)]


def test_samples_hold_what_the_annotations_say(root: Path) -> None:
    card = build(root)
    train, test = samples(root, "train"), samples(root, "test")
    assert (len(train), len(test)) == (36, 4)  # 10.005 % of 40
    assert len({sample.id for sample in (*train, *test)}) == 40
    for sample in (*train, *test):
        task, number = str(sample.id).removeprefix("love-agibot/").split("-")
        assert sample.images() == [f"images/{task}-{number}.png"]
        assert resolve_image(sample.images()[0], [root, root / "data"]).is_file()
        question = sample.messages[0].parts()[1]
        assert f"Work of task {task}" in question.text  # type: ignore[union-attr]
        assert question.text.startswith("The robot is at a shelf. ")  # type: ignore[union-attr]
        assert sample.target.steps == "1) Pick up the onion. 2) Place it in the basket."
    assert card["rows"] == {"train": {"love-agibot": 36}, "test": {"love-agibot": 4}}
    assert card["skills"] == {"Pick": 40, "Place": 40}
    assert card["lengths"]["steps"] == {"smallest": 2, "median": 2.0, "mean": 2.0, "largest": 2}
    assert (card["duplicates"]["same"], card["duplicates"]["near"]) == (0, 0)
    assert card["overlap_with_the_evaluation"] is None
    assert "not compared" in (root / "data" / "data_card.md").read_text()


def test_the_same_seed_gives_the_same_files_and_another_one_others(root: Path) -> None:
    build(root)
    first = {path.name: path.read_bytes() for path in (root / "data").glob("*.jsonl")}
    build(root)
    assert {path.name: path.read_bytes() for path in (root / "data").glob("*.jsonl")} == first
    build(root, "--seed", "1", "--output_dir", "other")
    assert set(ids(root, "test", "other")) != set(ids(root, "test"))


def test_counts_can_be_asked_for(root: Path) -> None:
    build(root, "--train_samples", "25", "--test_samples", "10")
    assert not set(ids(root, "train")) & set(ids(root, "test"))
    assert (len(ids(root, "train")), len(ids(root, "test"))) == (25, 10)
    done = run_script(SCRIPT, "--train_samples", "35", "--test_samples", "10", root=root)
    assert done.returncode == 2
    assert "30 of them (40 samples in all)" in done.stderr


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no name": (lambda e: e.pop("task_name"), "task_name"),
    "a blank name": (lambda e: e.update(task_name="  "), "task_name"),
    "no labels": (lambda e: e.pop("label_info"), "label_info"),
    "no actions": (lambda e: e["label_info"].pop("action_config"), "label_info.action_config"),
    "a negative frame": (lambda e: e["label_info"]["action_config"][1].update(start_frame=-1), "1.start_frame"),
    "frames backwards": (lambda e: e["label_info"]["action_config"][1].update(end_frame=3), "before start_frame"),
    "no text": (lambda e: e["label_info"]["action_config"][0].update(action_text=""), "0.action_text"),
    "no skill": (lambda e: e["label_info"]["action_config"][0].pop("skill"), "0.skill"),
    "a text as scene": (lambda e: e.update(init_scene_text=3), "init_scene_text"),
    "another task": (lambda e: e.update(task_id=8), "task_id: 8, in the file of task 7"),
    "twice": (lambda e: e.update(episode_id=4), "already"),
    "a word as number": (lambda e: e.update(episode_id="x"), "episode_id"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_annotation_is_named_by_file_episode_and_field(tmp_path: Path, fault: str) -> None:
    change, words = FAULTS[fault]
    episodes = [episode(7, number) for number in range(EPISODES)]
    change(episodes[5])
    (tmp_path / "data").mkdir()
    path = write_annotations(tmp_path, 7, episodes)
    found = read_annotations(path.parent)
    (problem,) = found.problems
    assert problem.startswith(f"{path}: episode {episodes[5]['episode_id']}: ")
    assert words in problem
    assert len(found.episodes) == EPISODES - 1


def test_faulty_annotations_stop_the_making_or_are_left_out(root: Path) -> None:
    path = write_annotations(root, 7, [episode(7, 0), episode(7, 1, task_name=""), episode(7, 2, label_info=3)])
    done = run_script(SCRIPT, root=root)
    assert done.returncode == 1
    assert f"{path}: episode 1: task_name: " in done.stderr
    assert "faulty entries in all: 2" in done.stderr
    assert not (root / "data" / "data_card.json").exists()
    card = build(root, "--skip_invalid")
    assert card["left_out"] == {"faulty annotation": 2}
    assert len(ids(root, "train")) + len(ids(root, "test")) == EPISODES + 1


def test_what_is_no_list_and_what_is_no_json_is_named(root: Path) -> None:
    for content, words in (({"episodes": []}, "a list of episodes"), ([3], "episode in place 0")):
        path = write_annotations(root, 7, content)
        assert words in run_script(SCRIPT, root=root).stderr
    path.write_text("[{")
    assert f"{path}:1: not valid JSON" in run_script(SCRIPT, root=root).stderr


def test_steps_are_in_the_order_in_which_they_begin_and_a_missing_task_is_the_files(root: Path) -> None:
    one = episode(7, 1)
    one["label_info"]["action_config"].reverse()
    del one["task_id"], one["init_scene_text"]
    write_annotations(root, 7, [one])
    build(root, "--annotations", "data/task_info/task_7.json", "--output_dir", "one", "--test_samples", "0")
    (sample,) = samples(root, "train", "one")
    assert sample.target.steps == "1) Pick up the onion. 2) Place it in the basket."
    assert sample.images() == ["images/7-1.png"]


ALPHA: dict[str, Any] = {  # with a key_frame, and the key's name as it is spelled there
    "episode_id": 649078,
    "task_id": 7,
    "task_name": "Tidying the shelf",
    "init_scene_text": "The robot is before a shelf.",
    "lable_info": {
        "action_config": [{"start_frame": 0, "end_frame": 435, "action_text": "Take the cup.", "skill": "Pick"}],
        "key_frame": [{"start": 0, "end": 435, "comment": "Failure recovery"}],
    },
}
BETA = {"label_info" if key == "lable_info" else key: value for key, value in ALPHA.items() if key != "task_id"}


@pytest.mark.parametrize(
    ("file", "written"),
    [
        ("task_info/task_7.json", ALPHA),
        ("task_info/task_7.json", BETA),
        ("love_agibot/json/output_7.json", {**BETA, "task_id": "7"}),
        ("love_agibot/json/output_7.json", {key: value for key, value in ALPHA.items() if key != "task_id"}),
    ],
)
def test_annotations_of_each_release_are_read(tmp_path: Path, file: str, written: dict[str, Any]) -> None:
    path = tmp_path / "data" / file
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps([written]))
    (tmp_path / "data" / "images").mkdir()
    image(1).save(tmp_path / "data" / "images" / "7-649078.png")
    build(tmp_path, "--test_samples", "0")
    (sample,) = samples(tmp_path, "train")
    assert (sample.id, sample.images(), sample.target.steps) == (
        "love-agibot/7-649078",
        ["images/7-649078.png"],
        "1) Take the cup.",
    )


@pytest.mark.parametrize("key", ["label_info", "lable_info"])
def test_a_fault_within_either_spelling_is_named(tmp_path: Path, key: str) -> None:
    (tmp_path / "task_7.json").write_text(json.dumps([{**BETA, "label_info": {}, key: {"action_config": [{}]}}]))
    (problem,) = read_annotations(tmp_path).problems
    assert "label_info" in problem or "lable_info" in problem


def test_other_files_beside_annotations_are_left_out_and_reported(root: Path) -> None:
    for name, content in (("notes.json", {"by": "me"}), ("dataset_info.json", [1]), ("task_x.json", "text")):
        (root / "data" / "task_info" / name).write_text(json.dumps(content))
    card = build(root)
    others = card["left_out_names"]["a file not named as annotations are"]
    assert [Path(other).name for other in others] == ["dataset_info.json", "notes.json", "task_x.json"]
    assert len(ids(root, "train")) + len(ids(root, "test")) == 40


def test_annotations_of_any_name_are_read_where_there_are_no_others(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps([ALPHA]))
    assert [found.key for found in read_annotations(tmp_path).episodes] == ["7-649078"]


def test_a_data_card_of_other_files_is_not_replaced(root: Path) -> None:
    build(root)
    before = (root / "data" / "data_card.json").read_bytes()
    done = run_script(SCRIPT, "--train_samples", "20", "--test_samples", "10", root=root)
    assert done.returncode == 1
    assert "data_card.json: it describes train_36.jsonl, test_4.jsonl, which would be left without" in done.stderr
    assert (root / "data" / "data_card.json").read_bytes() == before
    assert not (root / "data" / "train_20.jsonl").exists()
    build(root, "--train_samples", "20", "--test_samples", "10", "--overwrite")
    for path in (root / "data").glob("t*_[0-9]*.jsonl"):
        path.unlink()
    build(root)
    (root / "data" / "data_card.json").write_text("{}")
    assert "no data card of LEAP's" in run_script(SCRIPT, root=root).stderr
    (root / "data" / "data_card.json").unlink()
    assert "no data card of LEAP's" in run_script(SCRIPT, root=root).stderr


def test_marks_and_line_ends_in_a_name_are_text(root: Path) -> None:
    write_annotations(root, 7, [episode(7, 1, task_name="Put {it} [here|there]\n now %s")])
    build(root, "--annotations", "data/task_info/task_7.json", "--output_dir", "one", "--test_samples", "0")
    assert "Put {it} [here|there] now %s" in samples(root, "train", "one")[0].messages[0].parts()[1].text  # type: ignore[union-attr]


def test_what_cannot_become_a_sample_is_left_out_and_counted(root: Path) -> None:
    images = root / "data" / "images"
    write_annotations(root, 7, [episode(7, number, label_info={"action_config": []}) for number in range(3)])
    (images / "12-0.png").unlink()
    (images / "12-1.png").write_bytes((images / "12-1.png").read_bytes()[:99])
    card = build(root)
    assert card["left_out_names"] == {
        "no steps in the annotation": ["love-agibot/7-0", "love-agibot/7-1", "love-agibot/7-2"],
        "no image": ["love-agibot/12-0"],
        "the image cannot be decoded": ["love-agibot/12-1"],
    }
    assert len(ids(root, "train")) + len(ids(root, "test")) == 18


def test_no_sample_at_all_says_why(root: Path) -> None:
    shutil.rmtree(root / "data" / "images")
    done = run_script(SCRIPT, root=root)
    assert done.returncode == 1
    assert "no image: 40" in done.stderr
    for file in (root / "data" / "task_info").iterdir():
        file.write_text("[]")
    assert "no sample can be made (the sources are empty)" in run_script(SCRIPT, root=root).stderr
    shutil.rmtree(root / "data" / "task_info")
    assert run_script(SCRIPT, root=root).returncode == 2


def test_half_a_character_in_an_annotation_is_no_end_of_the_making(root: Path) -> None:
    """As Python's json writes it. No file in UTF-8 can hold one."""
    half = "\ud83d"
    actions = [{"start_frame": 0, "end_frame": 1, "action_text": f"Pick{half} up.", "skill": f"Pi{half}ck"}]
    odd = episode(7, 0, task_name=f"A{half}", init_scene_text=f"B{half}", label_info={"action_config": actions})
    write_annotations(root, 7, [odd, *(episode(7, number) for number in range(1, EPISODES))])
    build(root)
    written = "".join(file.read_text() for file in sorted((root / "data").glob("t*_*.jsonl")))
    assert "Pick\ufffd up." in written
    assert "B\ufffd" in written


def copies(root: Path) -> None:
    """7-1 has 7-0's pixels in another coding; 7-2 looks like 7-0; 12-0 is, and 12-1 looks like, the evaluation's."""
    images, example = root / "data" / "images", root / "dataset" / "vlm_evaluation_v1.0" / "Spatial" / "t" / "example0"
    image(7000).save(images / "7-1.png", compress_level=0)
    ImageEnhance.Brightness(image(7000)).enhance(1.05).save(images / "7-2.png")
    (example / "input").mkdir(parents=True)
    image(500).save(example / "input" / "input.png")
    image(500).save(images / "12-0.png", compress_level=0)
    ImageEnhance.Brightness(image(500)).enhance(1.05).save(images / "12-1.png")


def test_copies_and_overlap_are_found(root: Path) -> None:
    copies(root)
    card = build(root, "--test_samples", "20")
    images = root / "data" / "images"
    found = {name: (copy["same"], copy["bits"] <= 4) for name, copy in card["duplicates"]["rows"].items()}
    # of those alike the first in the files' order stands for the others, whichever that is
    assert sorted(found.values()) == [(False, True), (False, True), (True, True)]
    assert set(found) < {f"love-agibot/{name}" for name in ("7-0", "7-1", "7-2", "12-0", "12-1")}
    overlap = card["overlap_with_the_evaluation"]
    assert (overlap["same"], overlap["near"], card["evaluation_images"]) == (1, 1, 1)
    assert overlap["rows"]["love-agibot/12-0"]["same"]
    assert not overlap["rows"]["love-agibot/12-1"]["same"]
    train = set(ids(root, "train"))
    across = {
        test
        for test in ids(root, "test")
        for group in (("7-0", "7-1", "7-2"), ("12-0", "12-1"))
        if test.removeprefix("love-agibot/") in group and train & {f"love-agibot/{name}" for name in group}
    }
    assert set(card["test_rows_with_a_training_image"]["rows"]) == across
    assert (images / "12-0.png").is_file()


@pytest.mark.parametrize(
    ("excluded", "gone"),
    [
        (["duplicates"], ["7-1"]),
        (["near-duplicates"], ["7-2", "12-1"]),
        (["overlap"], ["12-0"]),
        (["near-overlap"], ["12-1"]),
        (["duplicates", "near-duplicates", "overlap", "near-overlap"], ["12-0", "12-1", "7-1", "7-2"]),
    ],
)
def test_copies_are_left_out_if_wanted(root: Path, excluded: list[str], gone: list[str]) -> None:
    copies(root)
    card = build(root, "--exclude", *excluded)
    names = [name.removeprefix("love-agibot/") for why in card["left_out_names"].values() for name in why]
    assert sorted(names) == sorted(gone)
    assert not {f"love-agibot/{name}" for name in gone} & {*ids(root, "train"), *ids(root, "test")}


@pytest.fixture
def examples(root: Path, workspace: Path) -> Path:
    """The demo's benchmark under another name: it is not the evaluation's here."""
    return Path(shutil.copytree(workspace / "dataset" / "vlm_evaluation_v1.0", root / "dataset" / "mine"))


def test_examples_become_samples_as_the_evaluation_asks(root: Path, examples: Path) -> None:
    shutil.rmtree(examples / "Complex")
    card = build(root, "--vlabench", "dataset/mine", "--prompt", "leap", "--test_samples", "0")
    found = [sample for sample in samples(root, "train") if str(sample.id).startswith("vlabench/")]
    assert len(found) == 10
    assert card["rows"]["train"] == {"love-agibot": 40, "vlabench": 10}
    for sample in found:
        _, dimension, task, number = str(sample.id).split("/")
        assert sample.images() == [
            f"dataset/mine/{folder}/{task}/example{number}/input/{name}.png"
            for name in ("input", "input_mask")
            for folder in [{"CommonSense": "CommenSence"}.get(dimension, dimension)]
        ]
        folder = (root / sample.images()[0]).parent.parent
        reference = json.loads((folder / "output" / "operation_sequence.json").read_text())["skill_sequence"]
        assert parse_plan(sample.target.steps).plan == reference
        assert any(
            part.text == (folder / "input" / "instruction.txt").read_text()
            for part in sample.messages[0].parts()[5:]  # type: ignore[union-attr]
        )


def test_the_evaluations_own_examples_are_refused(root: Path, examples: Path) -> None:
    for place in ("dataset/mine", "dataset/mine/Spatial", "dataset"):
        done = run_script(SCRIPT, "--vlabench", place, "--evaluation", "dataset/mine", root=root)
        assert done.returncode == 2
        assert "must not see" in done.stderr


def test_another_file_of_the_name_is_not_replaced(root: Path) -> None:
    path = root / "data" / "train_36.jsonl"
    path.write_text("somebody's\n")
    assert "another file" in run_script(SCRIPT, root=root).stderr
    assert path.read_text() == "somebody's\n"
    assert not (root / "data" / "data_card.json").exists()
    build(root, "--overwrite")
    assert len(ids(root, "train")) == 36


def refused(root: Path, *flags: str) -> Finished:
    return run_script(SCRIPT, *flags, root=root)


def test_wrong_usage(root: Path) -> None:
    assert refused(root, "--near_bits", "40").returncode == 2
    assert refused(root, "--exclude", "all").returncode == 2
    assert refused(root, "--annotations", "nowhere.json").returncode == 1


@given(
    sizes=st.lists(st.integers(1, 4), max_size=40),
    seed=st.integers(0, 3),
    test_samples=st.none() | st.integers(0, 60),
    train_samples=st.none() | st.integers(0, 60),
)
def test_a_split_parts_episodes_and_never_samples_of_one(
    sizes: list[int], seed: int, test_samples: int | None, train_samples: int | None
) -> None:
    samples = {f"e{number}": size for number, size in enumerate(sizes)}
    try:
        split = split_episodes(samples, seed, test_samples, train_samples)
    except UsageError:
        assert (test_samples, train_samples) != (None, None)
        return
    assert max(Counter([*split[0], *split[1]]).values(), default=1) == 1
    assert set(split[0]) | set(split[1]) <= set(samples)
    made = [sum(samples[name] for name in side) for side in split]
    if train_samples is None:
        assert sum(made) == sum(sizes)
    else:
        assert made[0] == train_samples
    asked = round(sum(sizes) * TEST_SHARE) if test_samples is None else test_samples
    assert made[1] <= asked
    assert test_samples is None or made[1] == test_samples
    assert split == split_episodes(dict(reversed(samples.items())), seed, test_samples, train_samples)


def test_the_published_counts_come_from_the_share() -> None:
    split = split_episodes({str(number): 1 for number in range(168_042)}, 42, None, None)
    assert tuple(map(len, split)) == (151_230, 16_812)
