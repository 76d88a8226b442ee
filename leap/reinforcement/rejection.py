"""Rejection sampling: several responses to each prompt, the best of them kept by the same rewards, and fine-tuning on
what was kept. The simple baseline of any run with rewards, of parts that exist: the `hf` engine and LEAP's trainer."""

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from leap.data.image import ImageSize
from leap.environment import world_size
from leap.errors import LeapError, UsageError
from leap.evaluation.predictions import as_prediction, read_repeats
from leap.inference.protocol import Decoding, Request
from leap.models.checkpoints import MARKER
from leap.models.loading import pick_device
from leap.preparation.check.checked_dataset import CheckedFile
from leap.progress import track
from leap.records.benchmark import Prediction
from leap.records.files import write_atomic
from leap.records.json_files import JsonlAppender, write_json
from leap.records.training import Target
from leap.reinforcement.own_reward import OwnReward
from leap.reinforcement.policy_prompts import Places, Prompt, read_prompts
from leap.reinforcement.policy_recipe import PolicyRecipe
from leap.training.checkpoint_folder import training_in
from leap.training.fine_tune import Run, check_run, plan_and_train
from leap.training.recipe import Recipe
from leap.training.resume import adapter_to_start
from leap.vlabench.rewards import reward_terms, weighted

if TYPE_CHECKING:
    from leap.training.loop import Benchmark

SAMPLING, RESPONSES, KEPT, SUMMARY = "sampling", "responses.jsonl", "kept.jsonl", "sampling_report.json"
_TASK = "prompt"  # of the responses' records, whose example is the prompt's number


def learn_rft(
    recipe: PolicyRecipe,
    own: OwnReward | None,
    places: Places,
    cache: Path,
    dry_run: bool,
    callbacks: Sequence[Any] = (),
    benchmark: "Callable[[Recipe], Benchmark] | None" = None,
) -> None:
    """Sample into <output_dir>/sampling, then train on what was kept, each going on where it was stopped.

    Raises UsageError where several ranks were started: they would all sample the same.
    """
    sampling = f"{recipe.output_dir}/{SAMPLING}"
    if world_size() > 1:
        raise UsageError(
            f"--method rft: one process samples, not {world_size()}; start it without torchrun (and, once it has "
            f"sampled, train on {sampling}/{KEPT} with as many as you like: torchrun … run-finetuning.py)"
        )
    run = check_run(recipe.model_copy(update={"output_dir": sampling}), places.root, cache, report=not dry_run)
    assert isinstance(run.train, CheckedFile), "a PolicyRecipe names one file"
    prompts = read_prompts(run.train)[: recipe.num_prompts]
    print(
        f"prompts     {len(prompts)} of {run.train.path} ({len(run.train)} samples)\n"
        f"sampling    {recipe.num_generations} responses to each, temperature {recipe.temperature:g}"
    )
    replayed = _count_replayed(recipe, sampling, places, cache)
    if dry_run:
        return
    with training_in(run.output):
        write_json(run.output / MARKER, run.identity)
        _sample(run, recipe, prompts)
        kept, number = _keep(run, recipe, own, prompts)
    name = str(kept.relative_to(places.root) if kept.is_relative_to(places.root) else kept)
    learned: Any = name
    if replayed:
        learned = [{"file": name}, {"file": recipe.replay_file, "weight": number / replayed}]
    plan_and_train(
        recipe.plain(train_file=learned, output_dir=recipe.output_dir),
        places.root, cache, places.repository, places.logs, callbacks, dry_run, benchmark,
    )  # fmt: skip


def _count_replayed(recipe: PolicyRecipe, sampling: str, places: Places, cache: Path) -> int:
    """The samples of replay_file, which are checked before anything is sampled."""
    if not recipe.replay_file:
        return 0
    only = recipe.model_copy(update={"train_file": recipe.replay_file, "output_dir": sampling})
    number = len(check_run(only, places.root, cache, report=False).train)
    print(f"replay      {number} samples of {recipe.replay_file}, as often as what is kept")
    return number


def _sample(run: Run, recipe: PolicyRecipe, prompts: Sequence[Prompt]) -> None:
    """All responses that are not there yet. A sampled one depends on the seed and its own key alone."""
    from leap.inference.hf import HfEngine

    path = run.output / RESPONSES
    done = {
        (prediction.example, repeat)
        for repeat, found in enumerate(read_repeats(path))
        for prediction in found.values()
        if prediction.error is None
    }
    requests = [
        Request((_TASK, _TASK, str(number), str(repeat)), tuple(prompt.sample.messages), prompt.images)
        for number, prompt in enumerate(prompts)
        for repeat in range(recipe.num_generations)
        if (str(number), repeat) not in done
    ]
    if not requests:
        return
    size = ImageSize(recipe.image_tokens_min, recipe.image_tokens_max)
    device = pick_device()
    adapter = adapter_to_start(run.recipe, run.root) if run.recipe.resume_from_lora else None
    model, base = (adapter, run.model) if adapter else (run.model, None)
    decoding = Decoding(
        recipe.max_completion_length, temperature=recipe.temperature, top_p=recipe.top_p, seed=recipe.seed
    )
    with closing(HfEngine(model, size, device, recipe.dtype, base)) as engine, JsonlAppender(path) as file:
        for response in track(engine.responses(requests, decoding), "sampling responses", total=len(requests)):
            file.append(as_prediction(response, ""))


def _keep(run: Run, recipe: PolicyRecipe, own: OwnReward | None, prompts: Sequence[Prompt]) -> tuple[Path, int]:
    """Write the samples to learn from: of each prompt the best response, the shortest of equals, where it has more than
    the mean over all responses to all prompts. Returns their file and how many they are; raises LeapError where
    responses are missing or none is kept."""
    repeats = read_repeats(run.output / RESPONSES)
    scored: list[list[tuple[float, str]]] = []
    for number, prompt in enumerate(prompts):
        texts = [_text(found.get((_TASK, str(number)))) for found in repeats[: recipe.num_generations]]
        scored.append([(_reward(text, prompt, recipe, own), text) for text in texts if text is not None])
    rewards = [reward for responses in scored for reward, _ in responses]
    if len(rewards) < len(prompts) * recipe.num_generations:
        missing = len(prompts) * recipe.num_generations - len(rewards)
        raise LeapError(f"{run.output / RESPONSES}: {missing} responses failed; run the same command again")
    mean = fmean(rewards)
    best = [max(responses, key=lambda found: (found[0], -len(found[1]))) for responses in scored]
    kept = [
        prompt.sample.model_copy(update={"target": Target(steps=text)})
        for prompt, (reward, text) in zip(prompts, best, strict=True)
        if reward > mean and text.strip()
    ]
    if not kept:
        raise LeapError(f"{run.output / RESPONSES}: all responses earn {mean:g}: there is nothing to choose from")
    summary = {
        "prompts": len(prompts), "responses": len(rewards), "kept": len(kept),
        "mean_reward": mean, "mean_reward_of_the_best": fmean(reward for reward, _ in best),
    }  # fmt: skip
    write_json(run.output / SUMMARY, summary)
    print(
        f"kept        {len(kept)} of {len(prompts)} prompts; mean reward {mean:.3f}, of the best "
        f"{summary['mean_reward_of_the_best']:.3f}",
        file=sys.stderr,
    )
    path = run.output / KEPT
    write_atomic(path, "".join(sample.model_dump_json(exclude_none=True) + "\n" for sample in kept))
    return path, len(kept)


def _text(prediction: Prediction | None) -> str | None:
    return None if prediction is None or prediction.error is not None else prediction.text


def _reward(text: str, prompt: Prompt, recipe: PolicyRecipe, own: OwnReward | None) -> float:
    terms = reward_terms(text, prompt.reference)
    return weighted({**terms, "own": own(text, prompt.reference)} if own else terms, recipe.weights)
