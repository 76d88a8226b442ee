"""Which prompts are asked, in which order, and with whose images."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_policy_recipe import policy
from test_recipes import tiny_recipe

from leap.errors import LeapError
from leap.records.json_files import read_jsonl
from leap.records.training import TrainingSample
from leap.reinforcement import policy_prompts
from leap.reinforcement.policy_prompts import Conversations, Places, Prompt, order_of, prompt_file, read_prompts
from leap.tabletop.demo_workspace import make_fresh_samples
from leap.training.fine_tune import check_run
from leap.vlabench.grounding import plan_steps


def places(root: Path) -> Places:
    return Places(root, root / ".cache", root, root / "logs", root / "dataset" / "vlm_evaluation_v1.0", root / "none")


@pytest.fixture(scope="module")
def prompts(workspace: Path) -> list[Prompt]:
    recipe = tiny_recipe(output_dir="output/prompts", max_train_samples=None)
    train: Any = check_run(recipe, workspace, workspace / ".cache").train
    return read_prompts(train)


def test_samples_without_a_plan_are_left_out(workspace: Path, prompts: list[Prompt]) -> None:
    samples = [sample for _, sample in read_jsonl(workspace / "data" / "train_demo.jsonl", TrainingSample)]
    assert [prompt.sample.id for prompt in prompts] == [one.id for one in samples if str(one.id).endswith("-plan")]
    assert all(prompt.reference and len(prompt.images) == 2 for prompt in prompts)


def test_every_prompt_is_asked_once_before_any_is_asked_again(prompts: list[Prompt]) -> None:
    count = len(prompts)
    asked = order_of(prompts, 2 * count + 3, 0.0, seed=1)
    for turn in (asked[:count], asked[count : 2 * count]):
        assert sorted(one.prompt for one in turn) == list(range(count))
    assert {one.shown for one in asked} == {"own"}
    assert asked[:5] == order_of(prompts, 5, 0.0, seed=1)  # a longer run begins as a shorter one
    assert asked != order_of(prompts, len(asked), 0.0, seed=2)


def test_what_is_sampled_at_once_is_of_about_one_length() -> None:
    sample: Any = None
    made = [Prompt(sample, (), [{"name": "lift"}] * (12 if number % 6 == 0 else 2)) for number in range(96)]

    def mixed(together: int) -> int:
        asked = [len(made[one.prompt].reference) for one in order_of(made, len(made), 0.0, 1, together)]
        return sum(len(set(asked[start : start + 4])) - 1 for start in range(0, len(asked), 4))

    assert mixed(4) <= 3 < mixed(1)  # a window of 32 prompts has at most one mixed step
    assert sorted(one.prompt for one in order_of(made, len(made), 0.0, 1, 4)) == list(range(len(made)))


def test_a_share_of_the_prompts_is_asked_with_another_scene_too(prompts: list[Prompt]) -> None:
    asked = order_of(prompts, 400, 0.5, seed=1)
    counts = Counter(one.shown for one in asked)
    assert 80 < counts["paired"] < 190
    for own, other in pairwise(asked):
        if other.shown == "other":
            assert (own.shown, own.prompt) == ("paired", other.prompt)
            assert prompts[other.images_of].reference != prompts[other.prompt].reference
        else:
            assert other.images_of == other.prompt


def test_another_scene_is_any_with_as_many_images_and_another_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many prompts there are, the plan of each is looked at once."""
    kinds = [(2, 1)] * 30 + [(2, 2)] * 3 + [(2, 3)] + [(1, 1)] * 2  # images, what is picked
    sample: Any = None
    made = [
        Prompt(sample, (Path("a.png"),) * count, [{"name": "pick", "params": {"target_entity_name": picked}}])
        for count, picked in kinds
    ]
    looked = list[Any]()

    def look(plan: Any) -> Any:
        looked.append(plan)
        return plan_steps(plan)

    monkeypatch.setattr(policy_prompts, "plan_steps", look)
    asked = order_of(made, 30_000, 1.0, seed=1)
    assert len(looked) == len(made)
    found: dict[int, set[int]] = {}
    for one in asked:
        if one.shown == "other":
            found.setdefault(one.prompt, set()).add(one.images_of)
    assert found == {
        prompt: {
            other
            for other, (count, picked) in enumerate(kinds)
            if count == kinds[prompt][0] and picked != kinds[prompt][1]
        }
        for prompt in range(34)
    }  # the last two have one plan


def test_a_row_is_a_conversation_with_the_images_that_are_shown(prompts: list[Prompt]) -> None:
    asked = order_of(prompts, 60, 0.5, seed=1)
    number = next(number for number, one in enumerate(asked) if one.shown == "other")
    rows = Conversations(prompts, asked)({"number": [number - 1, number]})
    assert rows["shown"] == ["paired", "other"]
    assert rows["reference"][0] == rows["reference"][1]
    parts = [[part for message in row for part in message["content"]] for row in rows["prompt"]]
    texts, images = ([[part.get(kind) for part in row] for row in parts] for kind in ("text", "image"))
    assert texts[0] == texts[1]
    own, other = ([image.tobytes() for image in row if image is not None] for row in images)
    assert own != other


@pytest.mark.slow
def test_fresh_scenes_are_new_and_a_larger_file_begins_with_a_smaller_one(workspace: Path) -> None:
    large, small = (make_fresh_samples(workspace, count, seed=5) for count in (4, 2))
    found = [[sample for _, sample in read_jsonl(file, TrainingSample)] for file in (small, large)]
    assert found[1][:2] == found[0]
    assert len({sample.id for sample in found[1]}) == 4
    shown = {workspace / "data" / image for sample in found[1] for image in sample.images()}
    others = {*(workspace / "data" / "images").iterdir(), *(workspace / "dataset").rglob("*.png")} - shown
    assert len(shown) == 8
    assert len(others) > 50
    assert not {image.read_bytes() for image in shown} & {image.read_bytes() for image in others}
    assert make_fresh_samples(workspace, 4, seed=5) == large


def test_fresh_scenes_need_a_demo_workspace(tmp_path: Path) -> None:
    with pytest.raises(LeapError, match="fresh scenes are for a demo workspace"):
        make_fresh_samples(tmp_path, 2, seed=5)


def test_a_benchmarks_folder_is_taken_but_the_evaluations_own(workspace: Path, tmp_path: Path) -> None:
    recipe = policy(train_file="dataset/vlm_evaluation_v1.0")
    with pytest.raises(LeapError, match="is what models are evaluated on"):
        prompt_file(recipe, places(workspace), tmp_path, dry_run=False)
    elsewhere = Places(workspace, tmp_path, workspace, tmp_path, tmp_path / "other", tmp_path)
    file = prompt_file(recipe, elsewhere, tmp_path, dry_run=False)
    samples = [sample for _, sample in read_jsonl(Path(str(file)), TrainingSample)]
    assert len(samples) == 12  # six dimensions, one task of two examples each
    assert all("```json" in sample.target.steps for sample in samples)
