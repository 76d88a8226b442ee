"""Step two of a blind review: every plan to every judge, and the verdicts in a CSV table.

A judge sees the scene, the task, the reference and a plan; which model wrote it stays here. Verdicts are kept as they
come, by the hash of all that was asked: the same command goes on from there and pays for nothing twice.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from leap.data.image import resolve_image
from leap.errors import LeapError, UsageError
from leap.judge.ask import NOT_ASKED, Interview, Question, Reply
from leap.judge.budget import Budget
from leap.judge.criteria import CRITERIA, Verdict, final_score
from leap.judge.judges import RUBRIC, Judge, refuse_in_vain
from leap.judge.prompts import pair_request, plan_request, preference_schema, verdict_schema
from leap.judge.review_files import PAIR_COLUMNS, PAIRS, SCORE_COLUMNS, SCORES, write_table
from leap.judge.rubric import rubric_scores
from leap.judge.store import ResponseStore, distinct
from leap.records.judging import Output, Preference

STORE = "verdicts.jsonl"


@dataclass(frozen=True)
class ReviewSettings:
    """How a review is done; equal for all judges."""

    image_roots: tuple[Path, ...]
    repeats: int = len(CRITERIA)  # each criterion stands in each place once
    pairwise: bool = False
    seed: int = 0
    retries: int = 2  # of an unusable verdict
    max_cost: float | None = None  # USD
    warn_missing_image: bool = False
    reuse: bool = True

    def to_dict(self) -> dict[str, Any]:
        names = ("repeats", "pairwise", "seed", "retries", "max_cost", "warn_missing_image", "reuse")
        return {name: getattr(self, name) for name in names}


@dataclass
class Review:
    """What was written, and what it took."""

    scores: Path
    pairs: Path | None
    budget: Budget
    unscored: int
    stopped: bool  # by the limit of cost
    priced: bool  # whether every judge that is a model has a price
    judges: list[dict[str, Any]] = field(default_factory=list)  # for the manifest

    def spent(self) -> dict[str, Any]:
        """What this run took; verdicts from an earlier one are free here. `cost_usd` is None without prices."""
        return {
            "requests": self.budget.requests,
            "prompt_tokens": self.budget.prompt_tokens,
            "new_tokens": self.budget.new_tokens,
            "answers_without_usage": self.budget.uncounted,
            "cost_usd": self.budget.spent if self.priced else None,
            "stopped_by_max_cost": self.stopped,
        }

    def message(self) -> str:
        """What a person should know of it at the end; "" where nothing was asked and nothing is missing."""
        parts = []
        if self.budget.requests:
            cost = f", USD {self.budget.spent:.4f}" if self.priced else ""
            tokens = f"{self.budget.prompt_tokens} + {self.budget.new_tokens} tokens"
            parts.append(f"{self.budget.requests} requests, {tokens}{cost}")
        if self.unscored:
            parts.append(f"{self.unscored} verdicts are missing (column error)")
        if self.stopped:
            parts.append(f"stopped before USD {self.budget.limit:g} (--max_cost); the same command continues")
        return "; ".join(parts)


def review(
    outputs: Sequence[Output],
    judges: Sequence[Judge | str],
    settings: ReviewSettings,
    folder: Path,
    origin: Mapping[str, Any],
) -> Review:
    """Judge the outputs into `folder`, which the caller holds; `origin` is kept with the verdicts.

    Raises UsageError for a limit or a choice in vain.
    """
    refuse_in_vain(judges, settings.pairwise, settings.max_cost)
    images = {output.image_paths: _images(output, settings) for output in outputs}
    budget = Budget(settings.max_cost)
    rows: list[dict[str, Any]] = []
    pair_rows: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    with ResponseStore(folder / STORE, origin, settings.reuse) as store:
        for judge in judges:
            if isinstance(judge, str):
                rows += [_rubric_row(output) for output in outputs]
                notes.append({"judge": RUBRIC, "measures": "leap/judge/rubric.py"})
                continue
            interview = Interview(judge, Verdict, store, budget, settings.retries, settings.seed)
            rows += _judged(outputs, images, interview, settings)
            if settings.pairwise:
                comparing = Interview(judge, Preference, store, budget, settings.retries, settings.seed, "pairs")
                pair_rows += _compared(outputs, images, comparing, settings)
                interview.made += comparing.made
            notes.append({"judge": judge.name, **judge.to_dict(), "inference": distinct(interview.made)})
    asked = budget.requests > 0
    scores = write_table(folder, SCORES, rows, SCORE_COLUMNS, asked)
    pairs = write_table(folder, PAIRS, pair_rows, PAIR_COLUMNS, asked) if settings.pairwise else None
    errors = [row["error"] for row in [*rows, *pair_rows] if row["error"]]
    stopped = any(NOT_ASKED in error for error in errors)
    priced = all(None not in judge.prices for judge in judges if isinstance(judge, Judge))
    return Review(scores, pairs, budget, len(errors), stopped, priced, notes)


def chosen_outputs(
    outputs: Sequence[Output], max_samples: int | None = None, only_models: Sequence[str] = ()
) -> list[Output]:
    """The outputs of these models (all) on the first samples (all). Raises UsageError for a model without any."""
    known = list(dict.fromkeys(output.model_name for output in outputs))
    if unknown := [name for name in only_models if name not in known]:
        raise UsageError(f"--only_models: no outputs of {', '.join(unknown)}; there are those of {', '.join(known)}")
    samples = set(sorted({output.sample_idx for output in outputs})[:max_samples])
    wanted = set(only_models or known)
    return [output for output in outputs if output.model_name in wanted and output.sample_idx in samples]


def _images(output: Output, settings: ReviewSettings) -> tuple[Path, ...]:
    """Raises LeapError for one that is missing, unless only a warning is wanted; then the judge sees the others."""
    if ";" in output.image_paths:  # one path with a ";" in it, in a table by others?
        with suppress(LeapError, OSError):  # OSError: too long for a path
            return (resolve_image(output.image_paths, settings.image_roots),)
    found = []
    for image in output.images:
        try:
            found.append(resolve_image(image, settings.image_roots))
        except LeapError as error:
            message = f"sample {output.sample_idx}: " + str(error).replace("--image_root", "--workspace_root")
            if not settings.warn_missing_image:
                raise LeapError(f"{message}; or judge without it (--warn_missing_image)") from error
            print(f"warning: judged without an image: {message}", file=sys.stderr)
    return tuple(found)


def _judged(
    outputs: Sequence[Output], images: dict[str, tuple[Path, ...]], interview: Interview, settings: ReviewSettings
) -> Iterator[dict[str, Any]]:
    """A row for every output and repeat."""
    answered = [output for output in outputs if not output.error]
    questions = [
        Question(
            key,
            plan_request(key, output, images[output.image_paths], settings.seed, repeat),
            repeat,
            verdict_schema(repeat),
        )
        for output in answered
        for repeat in range(settings.repeats)
        for key in [(output.model_name, str(output.sample_idx), str(repeat))]
    ]
    replies = interview.replies(questions)
    for output in outputs:
        for repeat in range(settings.repeats):
            reply = replies.get((output.model_name, str(output.sample_idx), str(repeat)))
            shown = len(images[output.image_paths])
            yield _score_row(output, interview.judge.name, repeat, reply or _no_response(output), shown)


def _no_response(output: Output) -> Reply:
    return Reply(error=f"the model gave no answer: {output.error}")


def _score_row(output: Output, judge: str, repeat: int, reply: Reply, images: int) -> dict[str, Any]:
    verdict = reply.verdict
    scores: dict[str, Any] = dict.fromkeys((*CRITERIA, "final_score"), "")
    rationale = ""
    if isinstance(verdict, Verdict):
        scores = {name: getattr(verdict, name) for name in CRITERIA}
        scores["final_score"], rationale = final_score(scores), verdict.rationale
    return {
        "model_name": output.model_name,
        "sample_idx": output.sample_idx,
        "judge_raw": reply.raw,
        **scores,
        "judge": judge,
        "repeat": repeat + 1,
        "error": reply.error,
        "rationale": rationale,
        "pictures": images,
        "tries": reply.tries,
        "unusable": reply.unusable,
        "prompt_tokens": reply.prompt_tokens,
        "new_tokens": reply.new_tokens,
    }


def _rubric_row(output: Output) -> dict[str, Any]:
    if output.error:
        return _score_row(output, RUBRIC, 0, _no_response(output), 0)
    found = rubric_scores(output.model_output, output.reference_steps)
    scores = {name: round(value, 4) for name, value in found.scores.items()}
    row = _score_row(output, RUBRIC, 0, Reply(), 0)
    return row | scores | {"final_score": round(final_score(found.scores), 4), "rationale": found.explained}


def _compared(
    outputs: Sequence[Output], images: dict[str, tuple[Path, ...]], interview: Interview, settings: ReviewSettings
) -> Iterator[dict[str, Any]]:
    """A row for every pair of answers to one sample and every repeat, each asked in both orders."""
    answered: dict[int, list[int]] = defaultdict(list)  # sample -> places in the table
    for place, output in enumerate(outputs):
        if not output.error:
            answered[output.sample_idx].append(place)
    places = sorted(pair for same in answered.values() for pair in combinations(same, 2))
    pairs = [(outputs[one], outputs[other]) for one, other in places]
    schema = preference_schema()
    questions = [
        Question(
            key,
            pair_request(key, *shown, images[one.image_paths], settings.seed, repeat),
            repeat,
            schema,
        )
        for one, other in pairs
        if one.model_output != other.model_output
        for repeat in range(settings.repeats)
        for order, shown in (("ab", (one, other)), ("ba", (other, one)))
        for key in [_pair_key(one, other, repeat, order)]
    ]
    replies = interview.replies(questions)
    for one, other in pairs:
        for repeat in range(settings.repeats):
            both = [replies.get(_pair_key(one, other, repeat, order)) for order in ("ab", "ba")]
            yield _pair_row(one, other, interview.judge.name, repeat, both)


def _pair_key(one: Output, other: Output, repeat: int, order: str) -> tuple[str, ...]:
    return one.model_name, other.model_name, str(one.sample_idx), str(repeat), order


def _pair_row(one: Output, other: Output, judge: str, repeat: int, replies: Sequence[Reply | None]) -> dict[str, Any]:
    """`outcome` is a, b or tie, for equal plans and where the two orders disagree too; empty where one is unscored."""
    known = [reply for reply in replies if reply is not None]
    said = [reply.verdict if isinstance(reply.verdict, Preference) else None for reply in known]
    row: dict[str, Any] = {"shown_ab": "", "shown_ba": "", "error": "", "rationale_ab": "", "rationale_ba": ""}
    if not known:
        outcome = "tie"  # the very same answer: not asked
    elif None in said:
        outcome, row["error"] = "", "; ".join(reply.error for reply in known if reply.error)
    else:
        outcome = {("A", "B"): "a", ("B", "A"): "b"}.get((said[0].better, said[1].better), "tie")  # type: ignore[union-attr]
    for order, verdict in zip(("ab", "ba"), said, strict=False):
        if verdict is not None:
            row |= {f"shown_{order}": verdict.better, f"rationale_{order}": verdict.rationale}
    return row | {
        "model_a": one.model_name,
        "model_b": other.model_name,
        "sample_idx": one.sample_idx,
        "judge": judge,
        "repeat": repeat + 1,
        "outcome": outcome,
        "prompt_tokens": sum(reply.prompt_tokens for reply in known),
        "new_tokens": sum(reply.new_tokens for reply in known),
    }
