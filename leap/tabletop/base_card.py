"""The card of the base model: how it was made, what it can see, measured, and what it is not for."""

from pathlib import Path
from typing import Any

from leap.records.files import write_atomic
from leap.records.json_files import read_object, write_json

FACTS = "training.json"  # of the training, beside the weights
RESULTS = "perception.json"  # what was measured

_CARD = """\
---
license: mit
library_name: transformers
pipeline_tag: image-text-to-text
tags: [qwen3_vl, robotics, tabletop]
---
# leap-tabletop

A Qwen3-VL of {parameters:.1f} million parameters (bfloat16) that sees LEAP's tabletop scenes, and plans nothing: a base
to fine-tune on plans. It has the architecture, chat format and processor of Qwen3-VL, a vocabulary of its own, and
reads images of 256x256 pixels.

**Provenance.** Trained by LEAP's authors from random weights (seed {seed}) on scenes that LEAP renders itself
(`leap/tabletop`); no weights, text or image of anybody else went in. Its questions (`leap/tabletop/perception.py`) are
about what stands on a table: the object at a number, the number of an object, places, colours, categories, and what
is known of such things (which block is denser, which card beats which). There is no plan, no instruction of the demo's
benchmark and no scene of it among them; the tokenizer alone has seen the texts of plans, in the wording of training.
License: MIT, as LEAP's.

**Training.** {training}

**What it sees.** {validation} scenes that it was not trained on, one question of each sort, both images. A response
counts where every token of it is the most likely one (what greedy decoding writes).

| question | n | own images | another scene's | blank |
|---|---:|---:|---:|---:|
{rows}

**Limits.** It knows {kinds} kinds of things, numbers from 1 to 8, four camera views and nothing else of the world. It
is for showing and testing fine-tuning, evaluation and controls, not for robots.
"""

_RUN = """\
{scenes:,} scenes, {samples:,} samples ({steps:,} steps of {samples_per_step}), each under numbers of its own, on
{device}. AdamW, {learning_rate} with a cosine{stopped}; rendering took {render} s, training {train} s.

```bash
{command}
```"""

_WENT_ON = "\n\nIt went on from there, with more sorts of questions (today's code asks all in both):\n"


def write_results(folder: Path, accuracy: dict[str, Any], scenes: int) -> None:
    """What was measured (see `base_exam.examine`) on so many scenes, and the card of the model in `folder`."""
    write_json(folder / RESULTS, {"validation_scenes": scenes, "accuracy": accuracy})
    write_atomic(folder / "README.md", card(read_object(folder / FACTS), accuracy, scenes))


def card(facts: dict[str, Any], accuracy: dict[str, Any], scenes: int) -> str:
    """The model card, from what `pretraining` wrote down and `base_exam` measured."""
    from leap.tabletop.catalogue import KINDS

    own = accuracy["own images"]
    rows = [
        f"| {sort} | {asked['questions']} | "
        + " | ".join(f"{100 * of[sort]['right']:.1f} %" for of in accuracy.values())
        for sort, asked in own.items()
    ]
    return _CARD.format(
        seed=_first(facts)["seed"],
        parameters=facts["parameters"] / 1e6,
        training=_training(facts),
        validation=scenes,
        kinds=len(KINDS),
        rows="\n".join(f"{row} |" for row in rows),
    )


def _first(facts: dict[str, Any]) -> dict[str, Any]:
    return _first(facts["started_from"]) if "started_from" in facts else facts


def _training(facts: dict[str, Any]) -> str:
    """What was trained with which command; first what that went on from."""
    before = f"{_training(facts['started_from'])}{_WENT_ON}" if "started_from" in facts else ""
    steps, planned, seconds = facts["steps"], facts["planned_steps"], facts["seconds"]
    stopped = "" if steps == planned else f", ended after {steps:,} of {planned:,} steps"
    return before + _RUN.format(
        **{name: facts[name] for name in ("scenes", "samples_per_step", "device", "learning_rate", "command")},
        samples=steps * facts["samples_per_step"],
        steps=steps,
        stopped=stopped,
        **seconds,
    )
