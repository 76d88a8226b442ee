"""The model card of an exported checkpoint: how it was made, what it scores, how it is asked and served.

The metadata is huggingface_hub's, so that the hub's filters, "fine-tuned from" trees and leaderboards read it. A card
names no path of this machine.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from leap.data.image import ImageSize
from leap.data.sample_datasets import SampleDataset, find_samples
from leap.evaluation.manifest import read_manifest
from leap.evaluation.settings import without_control
from leap.hub.hub_models import HubModel, hub_origin, local_folder, named_model
from leap.hub.notes import read_listing
from leap.inference.vllm_server import VllmSettings, serve_command
from leap.models.checkpoints import (
    ADAPTER,
    is_same_model,
    named_base,
    read_config,
    read_marker,
    small_files,
    weights_hash,
)
from leap.models.export import EXPORTED, Format
from leap.models.families import COMPONENTS
from leap.progress import duration
from leap.records.files import is_file, read_text
from leap.records.remote import is_remote
from leap.records.table_cells import markdown_block, markdown_text
from leap.report.results import (
    TOTAL,
    model_order,
    read_blind,
    read_counts,
    read_scores,
    result_folders,
    unlike_settings_note,
)
from leap.report.results_summary import HEADLINES, INCOMPLETE, METHOD, markdown_table, summarise_scores
from leap.report.style import CONTROLS
from leap.statistics.means import MEAN
from leap.training.recipe import Recipe
from leap.training.training_report import read_report
from leap.vlabench.dimensions import NAMES
from leap.vlabench.grounding import GROUNDED
from leap.vlabench.prompts import leap_instructions, request_parts

_TASK, _WHOSE = "image-text-to-text", {"leap": "LEAP's", "vlabench": "VLABench's"}
_METRICS = {TOTAL: f"{TOTAL}, of 80", GROUNDED: f"{GROUNDED}, percent"}
_NO_KEYS = {"processes", "own_reward"}  # of a marker's recipe, and of no recipe file
_INSTRUCTION = "Put the pear into the basket."
_USE = """\
from transformers import AutoModelForImageTextToText, AutoProcessor

name = {name!r}
instructions = \"\"\"{instructions}\"\"\"
processor = AutoProcessor.from_pretrained(name)
model = AutoModelForImageTextToText.from_pretrained(name, dtype="auto", device_map="auto")
content = [
    {parts},
]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": content}}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
).to(model.device)
plan = model.generate(**inputs, max_new_tokens=512, do_sample=False)[0, inputs["input_ids"].shape[1] :]
print(processor.decode(plan, skip_special_tokens=True))
"""


@dataclass(frozen=True)
class Export:
    """What is exported: a checkpoint, an adapter's with its base, under a name. `root` is the workspace."""

    checkpoint: Path
    base: Path | None
    name: str  # the repository's, or the folder's
    output: Path
    dtype: Format
    images: ImageSize  # that it is asked at
    root: Path
    results: Path
    commit: str | None = None  # LEAP's own
    license: str | None = None

    @cached_property
    def run(self) -> dict[str, Any]:
        """The checkpoint's marker; {} where LEAP did not train it."""
        return read_marker(self.checkpoint)

    @cached_property
    def report(self) -> dict[str, Any]:
        """Of the checkpoint's own run; {} where that lies elsewhere."""
        found = read_report(self.checkpoint.parent)
        same = self.run and (found.get("data") or {}).get("fingerprint") == self.run.get("data")
        return found if same else {}

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """Values of a recipe that trains it again."""
        stored = self.report.get("recipe") or self.run.get("recipe", {})
        # A run with rewards has keys of its own, whose recipe is of a room above this one.
        known = stored.keys() - _NO_KEYS if self.rewarded else Recipe.model_fields.keys()
        return {key: _portable(value) for key, value in stored.items() if key in known}

    @property
    def rewarded(self) -> bool:
        """Whether it learned from rewards (GRPO)."""
        return "reward_weights" in self.run.get("recipe", {})

    @property
    def files(self) -> list[str]:
        """Of training samples, as the recipe names them; the marker of a run with rewards names none."""
        given = self.run.get("recipe", {}).get("train_file") or self.report.get("recipe", {}).get("train_file") or []
        return [given] if isinstance(given, str) else [one["file"] if isinstance(one, dict) else one for one in given]

    @cached_property
    def base_folder(self) -> Path | None:
        """Where the base lies, if it is still what the checkpoint was trained on."""
        if self.base or not self.run.get("recipe", {}).get("model_name_or_path"):
            return self.base
        folder = local_folder(named_model(self.run["recipe"]["model_name_or_path"], self.root), self.root)
        there = folder != self.checkpoint and (folder / "config.json").is_file()
        return folder if there and weights_hash(folder) == self.run.get("base_model") else None

    @cached_property
    def base_on_hub(self) -> str | None:
        """The base's repository."""
        origin = self.run.get("base_hub") or (self.base_folder and hub_origin(self.base_folder)) or {}
        named = named_base(self.checkpoint, self.root) if (self.checkpoint / ADAPTER).is_file() else None
        return origin.get("repository") or (named.repository if isinstance(named, HubModel) else None)


def model_card(export: Export) -> str:
    """The card's text, with the results of these very weights that lie in `export.results`."""
    from huggingface_hub import ModelCard, ModelCardData

    measured = _Measured(export)
    kind = read_config(export.base or export.checkpoint).get("model_type")
    lora = export.base is not None
    data = ModelCardData(
        base_model=export.base_on_hub,
        base_model_relation="finetune" if export.base_on_hub else None,
        datasets=_datasets(export) or None,
        **_license(export),
        library_name="transformers",
        pipeline_tag=_TASK,
        tags=["leap", "robotics", "task-planning", *([kind] if kind else []), *(["lora"] if lora else [])],
        model_name=export.name,
        eval_results=list(measured.eval_results()) or None,
    )
    done = "Fine-tuned as a robot task planner" if export.run else "Exported"
    lead = f"{done} with [LEAP](https://github.com/Evan-Joseph/leap-code) (Logical Embodied Action Planning)."
    sections = {
        "": f"{lead}\n\n" + "\n".join(f"- {fact}" for fact in _facts(export)),
        "Use": _use(export),
        "Serve": _serve(export),
        "Scores": measured.text(),
        "Training": _training(export),
    }
    text = "\n\n".join(f"## {title}\n\n{section}" if title else section for title, section in sections.items())
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {markdown_text(export.name)}\n\n{text}\n"))


def serving(export: Export, model: str | None = None, unmerged: bool = False) -> str:
    """The `vllm serve` line of the exported `model`, or of the adapter beside its base."""
    settings = VllmSettings(export.base or export.checkpoint, export.images, dtype=export.dtype)
    if unmerged:
        return serve_command(replace(settings, lora=export.checkpoint), str(export.base))
    return serve_command(settings, model or export.name)


def _portable(value: Any) -> Any:
    """Without the folders of this machine."""
    if isinstance(value, dict):
        return {name: _portable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_portable(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _facts(export: Export) -> Iterator[str]:
    run, base, versions = export.run, export.base_folder, export.run.get("versions", {})
    named = export.run.get("recipe", {}).get("model_name_or_path") or (base.name if base else "not recorded")
    how = "a LoRA adapter, merged into its base" if export.base else "a whole model"
    on = run.get("base_model") or (weights_hash(base) if base else "unknown")
    yield f"what: {how}; {export.dtype} weights for {_TASK} generation with `transformers`"
    yield f"base model: {markdown_text(export.base_on_hub or Path(named).name)}"
    yield f"sha256 over the base's weight files: {on}"
    yield f"images: {export.images} of 32x32 pixels each, as its processor has them"
    yield f"step: {run.get('step', 'unknown')}"
    yield f"training data, sha256 of its file: {run.get('data', 'unknown')}"
    yield f"LEAP's commit: {run.get('commit') or 'unknown'} (training), {export.commit or 'unknown'} (export)"
    yield f"versions: {', '.join(f'{name} {version}' for name, version in versions.items()) or 'unknown'}"


def _datasets(export: Export) -> list[str]:
    """Data sets of the hub that it was trained on, by the recipe or by what a download noted."""
    return list(dict.fromkeys(found for name in export.files if (found := _dataset(name, export.root))))


def _dataset(name: str, root: Path) -> str | None:
    if is_remote(name):
        owner, _, rest = name.removeprefix("hf://datasets/").partition("/")
        return f"{owner}/{rest.partition('/')[0].partition('@')[0]}" if name.startswith("hf://datasets/") else None
    source, place = find_samples(name, root, root), root / name
    if isinstance(source, SampleDataset) and source.cache is None:
        return source.name
    for folder in place.parents:
        if listing := read_listing(folder):
            return listing.repository if place.relative_to(folder).as_posix() in listing.files else None
    return None


def _license(export: Export) -> dict[str, Any]:
    """As it was given, or the base's by its own card."""
    from huggingface_hub import ModelCard

    if export.license or export.base_folder is None or not is_file(card := export.base_folder / "README.md"):
        return {"license": export.license} if export.license else {}
    try:
        found = ModelCard(read_text(card), ignore_metadata_errors=True).data.to_dict()
    except (ValueError, yaml.YAMLError):  # somebody's card without the metadata that the hub reads
        return {}
    return {name: found[name] for name in ("license", "license_name", "license_link") if name in found}


def _use(export: Export) -> str:
    instructions = leap_instructions()
    images = Path("scene.png"), Path("scene_numbered.png")
    first, *others = (part.model_dump() for part in request_parts(instructions.text, images, _INSTRUCTION))
    parts = ['{"type": "text", "text": instructions}', *(json.dumps(part) for part in others)]
    code = _USE.format(name=export.name, instructions=first["text"], parts=",\n    ".join(parts))
    return (
        f"Two images of one scene, plain and with a number on every object, and an instruction make a plan. The prompt "
        f"is LEAP's (sha256 {instructions.sha256[:12]}).\n\n{markdown_block(code, 'python')}"
    )


def _serve(export: Export) -> str:
    return markdown_block(f"{serving(export)}\n", "bash") + (
        "\n\nIt answers OpenAI's chat completions as `leap`, with the content above (images as `image_url`)."
    )


def _training(export: Export) -> str:
    if not export.recipe:
        return "Not recorded: LEAP did not train it."
    processes = export.run.get("recipe", {}).get("processes", 1)
    script = f"scripts/training/{'run-grpo' if export.rewarded else 'run-finetuning'}.py --recipe recipe.yaml"
    start = f"torchrun --standalone --nproc_per_node {processes}" if processes > 1 else "python"
    facts = "\n".join(f"- {fact}" for fact in _training_facts(export))
    recipe = markdown_block(yaml.safe_dump(export.recipe, sort_keys=False), "yaml")
    command = markdown_block(f"{start} {script}\n", "bash")
    return f"{facts}\n\nThe recipe, and the command that trains with it:\n\n{recipe}\n\n{command}"


def _training_facts(export: Export) -> Iterator[str]:
    recipe = export.recipe  # as it was stored: an older LEAP had fewer keys
    if recipe.get("finetuning") == "lora":
        layers, components = (
            ", ".join(recipe.get("lora_target_modules", [])),
            " and ".join(recipe.get("lora_parts", [])),
        )
        yield f"trained: LoRA of rank {recipe.get('lora_r')} on {layers} of the {components}"
    else:
        frozen = [component for component in COMPONENTS if recipe.get(f"freeze_{component}")]
        trained = [component for component in COMPONENTS if component not in frozen]
        yield f"trained: {' and '.join(trained)}; frozen: {' and '.join(frozen) or 'nothing'}"
    yield f"files: {markdown_text(', '.join(_portable(export.files))) or 'not recorded'}"
    if export.rewarded:
        yield f"learned from rewards, by GRPO with {recipe['num_generations']} responses to each prompt"
    if report := export.report:
        environment, data, sessions = report["environment"], report["data"], report["throughput"]["sessions"]
        yield f"samples: {data['rows']:,}"
        yield f"steps: {export.run.get('step')} of {report['of_steps']}"
        yield f"device: {environment['processes']} x {environment['device']}"
        yield f"time of the whole run: {duration(sum(session['seconds'] for session in sessions))}"


class _Measured:
    """The results of these weights, of the exported ones if those were evaluated, and of their base."""

    def __init__(self, export: Export) -> None:
        self._results = export.results
        self._checkpoint = weights_hash(export.checkpoint, export.base)
        models = [
            (export.checkpoint, export.base),
            *([(export.output, None)] if is_file(export.output / EXPORTED) else []),
        ]
        known = [(weights_hash(*model), small_files(*model)) for model in models]
        base = export.run.get("base_model") or (export.base and weights_hash(export.base))
        self.own = self._named(lambda model: any(is_same_model(model, *one) for one in known))
        self.base = self._named(lambda model: bool(base) and model.get("weights") == base)

    def _named(self, is_it: Callable[[Mapping[str, Any]], bool]) -> list[str]:
        found: dict[str, bool] = {}
        for _, name, folder in result_folders(self._results, None):
            found[name] = found.get(name, True) and is_it(read_manifest(folder).get("model") or {})
        return model_order(name for name, is_its in found.items() if is_its)

    @cached_property
    def _tables(self) -> dict[str, Any]:
        names = [*self.own, *self.base]
        return summarise_scores(read_scores(self._results, names), read_blind(self._results, names), None, {})

    def _manifests(self, name: str) -> dict[str, dict[str, Any]]:
        return {dimension: read_manifest(folder) for dimension, _, folder in result_folders(self._results, [name])}

    @property
    def _plain(self) -> str | None:
        """The result that stands for the model: asked as models are compared, in the most dimensions."""
        plain = [name for name in self.own if all(map(_is_plain, self._manifests(name).values()))]
        return max(plain, key=lambda name: (-len(self._partial(name)), len(self._manifests(name))), default=None)

    def _partial(self, name: str) -> list[str]:
        """Dimensions that it does not have, or is not known to have a score of every example of."""
        manifests = self._manifests(name)
        return [dimension for dimension in NAMES if not _is_whole(manifests.get(dimension, {}))]

    def eval_results(self) -> Iterator[Any]:
        """huggingface_hub's, of each whole dimension and of the mean of all; intervals are among a metric's arguments.

        A part of the examples would stand there as the benchmark's score: the card's text alone has it.
        """
        from huggingface_hub import EvalResult

        if (name := self._plain) is None:
            return
        manifests = self._manifests(name)
        data, partial = _data_set(next(iter(manifests.values()))), self._partial(name)
        left_out = {*partial, *([MEAN] if partial else [])}
        for score, found in self._tables.items():
            means = found.means
            known = (means["model"] == name) & means["mean"].notna() & ~means["dimension"].isin(left_out)
            for row in means[known].to_dict("records"):
                ends = [round(row[end], 2) for end in ("low", "high") if not math.isnan(row[end])]
                yield EvalResult(
                    task_type=_TASK,
                    task_name="robot task planning",
                    dataset_type=data.name,
                    dataset_name=f"{data.name}, {row['dimension']}",
                    dataset_config=row["dimension"],
                    dataset_revision=data.revision,
                    metric_type=score,
                    metric_name=_METRICS[score],
                    metric_value=round(row["mean"], 2),
                    metric_args={**({"interval_95": ends} if ends else {}), "examples": row["n"]},
                )

    def text(self) -> str:
        if not self.own:
            return "Not evaluated: there were no results of these weights where it was exported."
        counts = read_counts(self._results, [*self.own, *self.base])
        tables = [markdown_table(score, found.readable(counts)) for score, found in self._tables.items()]
        return "\n".join([self._asked(), *tables, *(f"- {note}." for note in self._notes())])

    def _asked(self) -> str:
        name = self._plain or self.own[0]
        manifest = next(iter(self._manifests(name).values()))
        settings = {"prompt": {}, "decoding": {}, "image_tokens": [], **manifest.get("settings", {})}
        prompt, decoding = settings["prompt"], settings["decoding"]
        before = " before its export" if manifest.get("model", {}).get("weights") == self._checkpoint else ""
        whose, size = _WHOSE.get(prompt.get("source"), "an unknown"), " to ".join(map(str, settings["image_tokens"]))
        return (
            f"{markdown_text(name)}, the model{before}: on {_data_set(manifest).title}, asked by "
            f"`{settings.get('engine')}` in {settings.get('dtype')} with {whose} prompt (sha256 "
            f"{str(prompt.get('sha256'))[:12]}), images of {size} tokens, at most {decoding.get('max_new_tokens')} new "
            f"tokens, temperature {decoding.get('temperature')}.\n"
        )

    def _notes(self) -> Iterator[str]:
        names = [*self.own, *self.base]
        for name in names:
            if control := without_control(name)[1]:
                yield f"{markdown_text(name)}: asked with {CONTROLS[control][1]}"
        if self.base:
            yield f"{markdown_text(', '.join(self.base))}: the base model"
        yield from (f"{markdown_text(score)}: {meaning}" for score, meaning in HEADLINES.items())
        yield from (f"{name}: {METHOD[name]}" for name in ("floor", "best blind"))
        yield f"[low, high]: {METHOD['interval']}"
        if note := unlike_settings_note(self._results, names):
            yield markdown_text(note)
        yield f"`{INCOMPLETE}` behind a number: some examples have no score"
        for name in names:
            if partial := [one for one in self._partial(name) if one in self._manifests(name)]:
                which = "" if len(partial) == len(NAMES) else f" in {', '.join(partial)}"
                yield f"{markdown_text(name)}: not known to have a score of every example{which}: no benchmark score"


class _DataSet(NamedTuple):
    """What was answered: a repository and its commit where a download noted them, else a folder's name."""

    name: str
    revision: str | None
    title: str


def _data_set(manifest: Mapping[str, Any]) -> _DataSet:
    data = manifest.get("data", {})
    place = Path(data.get("path", "unknown"))
    if listing := read_listing(place):
        return _DataSet(listing.repository, listing.commit, listing.repository)
    return _DataSet(
        place.name, None, f"{place.name} (a data set in VLABench's form, sha256 {data.get('fingerprint', '')[:12]})"
    )


def _is_whole(manifest: Mapping[str, Any]) -> bool:
    """Whether all examples that lay there were asked, and each has a score."""
    counts, there = manifest.get("counts", {}), manifest.get("blind", {}).get("examples")
    return there == manifest.get("data", {}).get("examples", 0) and counts.get("examples", 0) == counts.get("scored")


def _is_plain(manifest: Mapping[str, Any]) -> bool:
    """Whether a model was asked as models are compared: one greedy answer to each example, without any help."""
    settings = manifest.get("settings", {})
    changed = [settings.get(name) for name in ("few_shot", "with_cot", "quantization")]
    greedy = not (settings.get("decoding") or {}).get("temperature")
    english = (settings.get("prompt") or {}).get("language", "en") == "en"
    return greedy and english and not any(changed) and settings.get("image_control", "none") == "none"
