"""The demo workspace: validation scenes are held out, rows are of both kinds, the same seed gives the same texts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, run_script

from leap.errors import LeapError
from leap.records.json_files import read_jsonl
from leap.records.training import TrainingSample
from leap.tabletop.catalogue import KINDS
from leap.tabletop.demo_workspace import DemoSize, benchmark_episodes, make_workspace, scene_key, training_files
from leap.tabletop.scene import Scene
from leap.vlabench.parsing import parse_plan
from leap.vlabench.scoring import dependency_of, official_scores

SIZE = DemoSize(seed=5, tasks_per_dimension=3, examples_per_task=6, training_samples=720)
TEXTS = """
import hashlib, json
from leap.tabletop.demo_workspace import DemoSize, benchmark_episodes, training_files
size = DemoSize(seed=5, training_samples=90)
digest = hashlib.sha256()
for number, episode in benchmark_episodes(size):
    digest.update(json.dumps([number, episode.instruction, episode.skill_sequence, episode.scene.to_dict()]).encode())
for name, rows in training_files(size, set()).items():
    for row in rows:
        digest.update((name + row.sample.model_dump_json() + row.episode.scene.fingerprint()).encode())
print(digest.hexdigest())
"""


def test_no_evaluation_scene_occurs_in_training() -> None:
    benchmark = [episode for _, episode in benchmark_episodes(SIZE)]
    files = training_files(SIZE, {scene_key(episode) for episode in benchmark})
    of_file = {name: {scene_key(row.episode) for row in rows} for name, rows in files.items()}
    validation = {scene_key(episode) for episode in benchmark}
    assert len(validation) == len(benchmark)
    assert len({episode.scene.fingerprint() for episode in benchmark}) == len(benchmark)
    keys = [validation, *of_file.values()]
    assert sum(map(len, keys)) == len(set().union(*keys))
    assert not {e.scene.fingerprint() for e in benchmark} & {
        row.episode.scene.fingerprint() for rows in files.values() for row in rows
    }


def test_a_larger_benchmark_holds_the_smaller_one() -> None:
    larger = {scene_key(episode) for _, episode in benchmark_episodes(DemoSize(5, 5, 10))}
    assert len(larger) == 300
    assert {scene_key(episode) for _, episode in benchmark_episodes(DemoSize(5, 3, 6))} < larger
    with pytest.raises(LeapError, match="1 to 5 in each"):
        benchmark_episodes(DemoSize(tasks_per_dimension=6))


def test_the_same_seed_gives_the_same_texts_and_scenes_in_any_process() -> None:
    digests = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", TEXTS], env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_both_kinds_of_row_and_ten_blind_ones(workspace: Path) -> None:
    rows = [row for _, row in read_jsonl(workspace / "data" / "train_demo.jsonl", TrainingSample)]
    plans = [row for row in rows if parse_plan(row.target.steps).ok]
    steps = [row for row in rows if row.target.steps.startswith("1) ")]
    assert len(rows) == 24
    assert len(plans) + len(steps) == 24
    assert min(len(plans), len(steps)) >= 8
    assert {len(row.images()) for row in plans} == {2}
    assert {len(row.images()) for row in steps} == {1}
    blind = [row for _, row in read_jsonl(workspace / "data" / "blind_10.jsonl", TrainingSample)]
    assert len(blind) == 10
    assert all(row.target.steps.startswith("1) ") for row in blind)


def test_an_answer_names_by_number_what_its_plan_needs() -> None:
    for row in training_files(SIZE, set())["train_demo.jsonl"][:90]:
        plan = parse_plan(row.sample.target.steps)
        if not plan.ok:
            continue
        names = row.sample.target.steps.splitlines()[0].split(", ")
        nouns = {placed.number: KINDS[placed.kind].noun for placed in row.episode.scene.objects}
        needed = dict.fromkeys(number for step in row.episode.skill_sequence for number in step["params"].values())
        assert names == [f"{nouns[number]} {number}" for number in needed]
        assert plan.plan == row.episode.skill_sequence


def test_the_benchmarks_reference_is_right_for_its_own_scene(workspace: Path) -> None:
    """Every number in a plan is drawn on an object of that scene, and the expert has the full score."""
    examples = sorted((workspace / "dataset" / "vlm_evaluation_v1.0").glob("*/*/example*"))
    assert len(examples) == 12
    for example in examples:
        config = json.loads((example / "env_config" / "env_config.json").read_text())
        plan = json.loads((example / "output" / "operation_sequence.json").read_text())["skill_sequence"]
        scene = Scene.from_dict(config["scene"])
        named = {number for skill in plan for number in skill["params"].values()}
        assert named <= {placed.number for placed in scene.objects}
        assert {scene.number_of(kind) for kind in config["targets"]} >= named
        assert official_scores(plan, plan, dependency_of(config["task"]))["exact_match_score"] == 100.0


def test_a_workspace_is_made_once_and_never_over_another(workspace: Path, tmp_path: Path) -> None:
    same = DemoSize(seed=3, tasks_per_dimension=1, examples_per_task=2, training_samples=24, size=64)
    assert make_workspace(workspace, same) is False
    with pytest.raises(LeapError, match="seed=3"):
        make_workspace(
            workspace, DemoSize(seed=4, tasks_per_dimension=1, examples_per_task=2, training_samples=24, size=64)
        )
    (tmp_path / "thesis.tex").write_text("years of work")
    refused = run_script("scripts/utils/make_demo_workspace.py", "--root", str(tmp_path))
    assert refused.returncode == 1
    assert "not empty" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
