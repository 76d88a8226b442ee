"""The demo workspace: a benchmark, training data and a small model, in a folder that is a LEAP_ROOT of its own.

<root>/dataset/vlm_evaluation_v1.0/<dimension>/<task>/exampleN/...   scenes for evaluation alone
<root>/data/train_demo.jsonl, test_demo.jsonl, blind_10.jsonl, images/; fresh_SEED_N.jsonl where they are asked for
<root>/models/leap-tabletop/     the base that sees
<root>/workspace.json            written last; says with which values all of it was made
"""

import hashlib
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from leap.errors import LeapError, UsageError
from leap.preparation.build import phrasing
from leap.preparation.build.benchmark_samples import plan_sample
from leap.progress import track
from leap.records.files import is_file, unfinished, write_atomic
from leap.records.json_files import object_if_there, read_object, write_json
from leap.records.litter import is_bare, listed
from leap.records.training import Target, TrainingSample
from leap.tabletop.catalogue import KINDS
from leap.tabletop.render import RenderJob, render_many
from leap.tabletop.tasks import TASKS, Episode, make_episode
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.prompts import leap_instructions

MARKER = "workspace.json"
TEST_SHARE = 10  # one test sample for ten training samples
BLIND_SAMPLES = 10
BASE = Path(__file__).resolve().parents[2] / "models" / "leap-tabletop"


@dataclass(frozen=True)
class DemoSize:
    """How much to make; `size` is the edge of one of an image's four views, in pixels."""

    seed: int = 0
    tasks_per_dimension: int = 3
    examples_per_task: int = 6
    training_samples: int = 1440
    size: int = 240

    def __post_init__(self) -> None:
        smallest = {"seed": 0, "tasks_per_dimension": 1, "examples_per_task": 1, "training_samples": 3, "size": 64}
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise UsageError(f"--{name} {getattr(self, name)}: at least {least} is needed")


@dataclass(frozen=True)
class _Sample:
    """A training sample before rendering. `scene` names its images in data/images/."""

    scene: str
    episode: Episode
    sample: TrainingSample


def make_workspace(root: Path, size: DemoSize) -> bool:
    """Make all of it; False where it is there already, made with the same values. Continues an interrupted making."""
    values = {**asdict(size), "generator": _generator_hash()}
    if _already_made(root, values):
        return False
    write_json(root / MARKER, {**values, "complete": False})
    benchmark = benchmark_episodes(size)
    kept_out = {scene_key(episode) for _, episode in benchmark}
    files = training_files(size, kept_out)
    jobs = [*_write_benchmark(root, benchmark), *_sample_images(root, files)]
    _render(jobs, size.size)
    for name, samples in files.items():
        _write_samples(root / "data" / name, samples)
    _copy_base(root / "models" / BASE.name)
    write_json(root / MARKER, {**values, "complete": True})
    return True


def make_fresh_samples(root: Path, count: int, seed: int) -> Path:
    """A file of `count` plan samples of the workspace's tasks, their scenes rendered: none is in its other files, or in
    its benchmark. Those of a larger file of the same seed begin with those of a smaller one. Continues an interrupted
    making. Raises LeapError where `root` is no demo workspace."""
    if not is_complete(root):
        make = "make one: python scripts/utils/make_demo_workspace.py, and name it with LEAP_ROOT"
        raise LeapError(f"{root}: fresh scenes are for a demo workspace, which this is not; {make}")
    found = read_object(root / MARKER)
    size = DemoSize(**{field.name: found[field.name] for field in fields(DemoSize)})
    path = fresh_file(root, count, seed)
    if path.is_file():
        return path
    name = f"fresh_{seed}"
    seen = {scene_key(episode) for _, episode in benchmark_episodes(size)}
    seen |= {scene_key(one.episode) for samples in training_files(size, seen).values() for one in samples}
    episodes = _fresh_episodes(size, name, count, seen)
    samples = [_plan_sample(f"{name}-{index:06d}", episode) for index, episode in enumerate(episodes)]
    _render(_sample_images(root, {path.name: samples}), size.size)
    _write_samples(path, samples)
    return path


def fresh_file(root: Path, count: int, seed: int) -> Path:
    """Where `make_fresh_samples` writes them."""
    return root / "data" / f"fresh_{seed}_{count}.jsonl"


def _render(jobs: Sequence[RenderJob], size: int) -> None:
    missing = [job for job in jobs if not (job.image.is_file() and job.numbered.is_file())]
    for _ in track(render_many(missing, size), "rendering scenes", total=len(missing)):
        pass


def _write_samples(path: Path, samples: Sequence[_Sample]) -> None:
    write_atomic(path, "".join(sample.sample.model_dump_json(exclude_none=True) + "\n" for sample in samples))


def _copy_base(folder: Path) -> None:
    """Whole or not at all."""
    if not folder.is_dir():
        shutil.copytree(BASE, unfinished(folder), dirs_exist_ok=True).replace(folder)


def is_complete(root: Path) -> bool:
    """Whether a whole demo workspace is there, of whatever size."""
    return bool(object_if_there(root / MARKER).get("complete"))


def scene_key(episode: Episode) -> str:
    """sha256 of scene and instruction: equal keys would be the same example."""
    return hashlib.sha256(f"{episode.scene.fingerprint()}\0{episode.instruction}".encode()).hexdigest()


def benchmark_episodes(size: DemoSize) -> list[tuple[int, Episode]]:
    """(example number, episode) for every dimension and task, in the wording kept for evaluation."""
    return [
        (number, make_episode(dimension, task, random.Random(f"{size.seed}/benchmark/{task}/{number}"), "eval"))
        for dimension, tasks in _tasks(size).items()
        for task in tasks
        for number in range(size.examples_per_task)
    ]


def training_files(size: DemoSize, kept_out: set[str]) -> dict[str, list[_Sample]]:
    """The samples of each file. No sample shares scene and instruction with `kept_out` (the benchmark) or another file.

    Every scene gives a sample whose answer is the plan, every other one also a sample in plain language.
    """
    both = {"train_demo": size.training_samples, "test_demo": max(3, size.training_samples // TEST_SHARE)}
    seen = set(kept_out)
    files: dict[str, list[_Sample]] = {}
    for stem, count in both.items():
        samples = []
        for index, episode in enumerate(_fresh_episodes(size, stem, -(-count * 2 // 3), seen)):
            samples.append(_plan_sample(f"{stem}-{index:05d}", episode))
            if index % 2:
                samples.append(_plain_sample(f"{stem}-{index:05d}", episode, size.seed))
        files[f"{stem}.jsonl"] = samples[:count]
    blind = _fresh_episodes(size, "blind", BLIND_SAMPLES, seen)
    files["blind_10.jsonl"] = [
        _plain_sample(f"blind-{index:05d}", episode, size.seed) for index, episode in enumerate(blind)
    ]
    return files


def _fresh_episodes(size: DemoSize, stem: str, count: int, seen: set[str]) -> list[Episode]:
    """`count` episodes, the tasks in turn, none of them in `seen` (to which they are added)."""
    tasks = [(dimension, task) for dimension, names in _tasks(size).items() for task in names]
    episodes: list[Episode] = []
    for index in range(count):
        rng = random.Random(f"{size.seed}/{stem}/{index}")
        episode = make_episode(*tasks[index % len(tasks)], rng)
        while scene_key(episode) in seen:
            episode = make_episode(*tasks[index % len(tasks)], rng)
        seen.add(scene_key(episode))
        episodes.append(episode)
    return episodes


def _tasks(size: DemoSize) -> dict[str, list[str]]:
    names = {dimension: [maker.name for maker in makers] for dimension, makers in TASKS.items()}
    fewest = min(map(len, names.values()))
    if not 1 <= size.tasks_per_dimension <= fewest:
        raise LeapError(
            f"--tasks_per_dimension {size.tasks_per_dimension}: the demo has 1 to {fewest} in each dimension"
        )
    return {dimension: tasks[: size.tasks_per_dimension] for dimension, tasks in names.items()}


def _plan_sample(scene: str, episode: Episode) -> _Sample:
    """A request in the benchmark's form; the answer names what the plan needs by number, then is the fenced plan.

    A model that has named an object only copies its number into the plan: with 1,440 samples the demo's base then plans
    from what it sees, while the plan alone teaches it hardly more than a plan's form.
    """
    images = Path(f"images/{scene}.png"), Path(f"images/{scene}_numbered.png")
    request = leap_instructions().text, images, episode.instruction
    sample = plan_sample(f"{scene}-plan", *request, episode.skill_sequence)
    nouns = {placed.number: KINDS[placed.kind].noun for placed in episode.scene.objects}
    needed = dict.fromkeys(number for step in episode.skill_sequence for number in step["params"].values())
    names = ", ".join(f"{nouns[number]} {number}" for number in needed)
    target = Target(steps=f"{names}\n{sample.target.steps}")
    return _Sample(scene, episode, sample.model_copy(update={"target": target}))


def _plain_sample(scene: str, episode: Episode, seed: int) -> _Sample:
    """A question in plain language about the plain image; the answer is numbered steps."""
    question = phrasing.plain_request(episode.instruction, random.Random(f"{seed}/question/{scene}"))
    sample = phrasing.plain_sample(f"{scene}-steps", f"images/{scene}.png", question, episode.steps)
    return _Sample(scene, episode, sample)


def _sample_images(root: Path, files: dict[str, list[_Sample]]) -> list[RenderJob]:
    images = root / "data" / "images"
    images.mkdir(parents=True, exist_ok=True)
    scenes = {sample.scene: sample.episode.scene for samples in files.values() for sample in samples}
    return [RenderJob(scene, images / f"{name}.png", images / f"{name}_numbered.png") for name, scene in scenes.items()]


def _write_benchmark(root: Path, episodes: Sequence[tuple[int, Episode]]) -> list[RenderJob]:
    """Write every example's text files in VLABench's layout; the images are still to be rendered."""
    folders = {dimension.name: dimension.folder for dimension in DIMENSIONS}
    jobs = []
    for number, episode in episodes:
        task = root / "dataset" / "vlm_evaluation_v1.0" / folders[episode.dimension] / episode.task
        example = task / f"example{number}"
        write_atomic(example / "input" / "instruction.txt", episode.instruction)
        write_json(example / "output" / "operation_sequence.json", {"skill_sequence": episode.skill_sequence})
        config = {"task": episode.task, "targets": list(episode.targets), "scene": episode.scene.to_dict()}
        write_json(example / "env_config" / "env_config.json", config)
        images = example / "input" / "input.png", example / "input" / "input_mask.png"
        jobs.append(RenderJob(episode.scene, *images))
    return jobs


def _generator_hash() -> str:
    """sha256 of the demo's own code, wording, prompt and base: a workspace made by others is not the same workspace.

    Raises LeapError where the repository lacks the base.
    """
    weights = BASE / "model.safetensors"
    if not is_file(weights):
        raise LeapError(f"{BASE}: the demo's base model is missing; restore it (git checkout -- {BASE})")
    digest = hashlib.sha256(leap_instructions().text.encode())
    for path in [*listed(Path(__file__).parent, "**/*.py"), Path(phrasing.__file__), weights]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _already_made(root: Path, values: dict[str, Any]) -> bool:
    """Whether the very same workspace is there. Another one, or somebody's folder, raises LeapError."""
    marker = root / MARKER
    if not is_file(marker):
        if root.is_dir() and not is_bare(root):
            raise LeapError(f"{root}: not empty and no demo workspace; give another folder (--root)")
        return False
    found = read_object(marker)
    different = [f"{name}={found.get(name)}" for name, value in values.items() if found.get(name) != value]
    if different:
        what = ", ".join(different) if len(json.dumps(different)) < 200 else "other values"
        raise LeapError(
            f"{root}: this workspace was made with {what} (or by another version of LEAP). "
            f"Remove it (rm -r {root}) to make it anew, or give another folder (--root)"
        )
    return bool(found["complete"])
