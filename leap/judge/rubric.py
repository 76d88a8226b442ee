"""A judge without a model: a plan's distance from the reference, in numbers that anybody can check.

It sees neither the image nor what a sentence means: another wording of a right step counts as invented. So it is
named "rubric (deterministic)" wherever its scores stand, to be compared with a judge, not taken for one.

The measures, each from 0 to 1, make scores of 1 + 4 x measure (1 to 5, not rounded):

- A step is a numbered item, a line, a sentence where there are neither, or a skill of a JSON plan.
- Two steps are as similar as their words: Dice's coefficient 2 |A & B| / (|A| + |B|) of their multisets, lower case,
  without articles; a Chinese character is a word (Dice 1945).
- Steps are matched one to one, the most similar first, from 0.5 on; of equal ones those whose places differ least.
- completeness: the similarities of all matches, by the number of the reference's steps.
- logical_sequence: the longest common subsequence of matched steps, by the number of the reference's steps.
- hallucination_redundancy: the same similarities by the number of the plan's steps. Steps without a match are invented
  or repeated.
- granularity: the mean of two ratios, the smaller by the larger: of the numbers of steps, and of words a step.

Of a longer text the first 50,000 characters and 300 steps are read, and the rationale says so: comparing each step
with each takes time by the square of their number.
"""

import re
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import Any

from leap.judge.criteria import DESCRIBED, Matched
from leap.vlabench.parsing import LONGEST_READ, parse_plan

MATCHED_FROM = 0.5
_MOST_STEPS = 300
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERED = re.compile(r"(?:^|(?<=\s))(?:step\s*)?\(?\d{1,3}[.):、．）](?!\d)\s*", re.IGNORECASE)
_BULLET = re.compile(r"^\s*[-*•]\s*")
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")


@dataclass(frozen=True)
class RubricScores:
    """The four criteria (1 to 5), and the counts that they come from."""

    scores: dict[str, float]
    explained: str


def rubric_scores(response: str, reference: str) -> RubricScores:
    """The rubric's scores of an answer. An answer without a step has 1 in everything."""
    (ours, all_ours), (theirs, all_theirs) = _read(response), _read(reference)
    unread = [name for name, whole in (("plan", all_ours), ("reference", all_theirs)) if not whole]
    matches = match_steps(ours, theirs)
    alike = sum(_similarity(ours[place], theirs[other]) for place, other in matches.items())
    ordered = _longest_ascent([matches[place] for place in sorted(matches)])
    repeated = _repeated(ours, matches)
    found = Matched(len(ours), len(theirs), alike, ordered, _mean_words(ours), _mean_words(theirs))
    mean = alike / len(matches) if matches else 0.0
    explained = (
        f"{len(matches)} of {len(theirs)} reference steps matched (similarity {mean:.2f}), {ordered} in order; "
        f"{len(ours)} steps, of which {len(ours) - len(matches) - repeated} invented and {repeated} repeated"
    )
    if unread:
        explained += f"; {' and '.join(unread)} read up to {LONGEST_READ} characters and {_MOST_STEPS} steps only"
    return RubricScores({criterion.name: 1 + 4 * criterion.measure(found) for criterion in DESCRIBED}, explained)


def _read(text: str) -> tuple[list[Counter[str]], bool]:
    """(the steps that are compared, whether they are all of the text)."""
    steps = steps_of(text[:LONGEST_READ])
    return steps[:_MOST_STEPS], len(text) <= LONGEST_READ and len(steps) <= _MOST_STEPS


def steps_of(text: str) -> list[Counter[str]]:
    """The words of every step of a plan, steps without a word left out."""
    return [words for step in _split(text) if (words := _words(step))]


def match_steps(ours: list[Counter[str]], theirs: list[Counter[str]]) -> dict[int, int]:
    """Step of the plan -> step of the reference."""
    pairs = [
        (-similarity, abs(place - other), place, other)
        for place, step in enumerate(ours)
        for other, reference in enumerate(theirs)
        if (similarity := _similarity(step, reference)) >= MATCHED_FROM
    ]
    matches: dict[int, int] = {}
    taken: set[int] = set()
    for _, _, place, other in sorted(pairs):
        if place not in matches and other not in taken:
            matches[place] = other
            taken.add(other)
    return matches


def _split(text: str) -> list[str]:
    plan = parse_plan(text, "lenient").plan if "{" in text else None
    if isinstance(plan, list) and plan:
        return [" ".join(_values(skill)) for skill in plan]
    if len(_NUMBERED.findall(text)) > 1:
        return _NUMBERED.split(text)[1:]  # the first piece is what stands before the plan
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        return [_NUMBERED.sub("", _BULLET.sub("", line)) for line in lines]
    return re.split(r"(?<=[.;!?])\s+|(?<=[。；！？])", _NUMBERED.sub("", text))


def _values(skill: Any) -> list[str]:
    """A skill's name and ids in any order, without the names of its fields, which all skills share."""
    values, waiting = [], [skill]
    while waiting:  # no recursion: a plan may be nested as deep as Python's own limit
        part = waiting.pop()
        if isinstance(part, dict | list):
            waiting += part.values() if isinstance(part, dict) else part
        else:
            values.append(str(part))
    return values


def _words(step: str) -> Counter[str]:
    return Counter(word for word in _WORD.findall(step.lower()) if word not in _ARTICLES)


def _similarity(one: Counter[str], other: Counter[str]) -> float:
    return 2 * (one & other).total() / (one.total() + other.total())


def _longest_ascent(places: list[int]) -> int:
    """Length of the longest increasing subsequence: of a one-to-one matching, its longest common subsequence."""
    ends: list[int] = []
    for place in places:
        at = bisect_left(ends, place)
        ends[at : at + 1] = [place]
    return len(ends)


def _repeated(steps: list[Counter[str]], matches: dict[int, int]) -> int:
    """Unmatched steps that say the same as another one before them."""
    words = [frozenset(step.items()) for step in steps]
    first = {step: place for place, step in reversed(list(enumerate(words)))}
    return sum(place not in matches and first[step] < place for place, step in enumerate(words))


def _mean_words(steps: list[Counter[str]]) -> float:
    return sum(step.total() for step in steps) / len(steps) if steps else 0.0
