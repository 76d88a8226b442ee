"""Scores of one predicted plan against the reference: VLABench's official five, and LEAP's own beside them.

The official rules are those of OpenMOSS/VLABench 47b04bf, evaluation/utils.py, and the results are equal to its to the
last bit, on odd input too. Ids compare there as Python compares them: 3 == 3.0 and 1 == True, but "3" != 3.
LEAP's own scores are over normalised ids (see `normalise_id`), so a number written as a string is not a wrong answer.
All scores are percentages unless a docstring says otherwise.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from types import MappingProxyType
from typing import Any, NamedTuple

from leap.vlabench.skills import CONTAINER, ENTITY, find_subtasks

OFFICIAL_KEYS = (
    "skill_match_score",
    "entity_match_score",
    "skill_with_entity_match_score",
    "exact_match_score",
    "total_score",
)
ZERO_SCORES: Mapping[str, float] = MappingProxyType(dict.fromkeys(OFFICIAL_KEYS, 0))
"""What upstream records for an answer that it cannot parse or score: integer zeros, as in its JSON."""

LEAP_KEYS = (
    "weighted_total",
    "total_ids_as_numbers",
    "skill_precision",
    "skill_f1",
    "entity_precision",
    "entity_f1",
    "skill_with_entity_precision",
    "skill_with_entity_f1",
    "length_ratio",
)

SEQ_INDEPENDENT_TASKS = frozenset({"cook_dishes", "texas_holdem"})

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(?:\.0*)?")
_Key = tuple[Any, ...]


def dependency_of(task: str) -> str:
    """How a task's subtasks hang together: "Seq-independent" (any order) or "Sequential".

    Source: OpenMOSS/VLABench 47b04bf, evaluation/evaluator/vlm.py.
    """
    return "Seq-independent" if task in SEQ_INDEPENDENT_TASKS else "Sequential"


def official_scores(reference: Any, prediction: Any, dependency: Any) -> dict[str, float]:
    """VLABench's five scores under upstream's names; five zeros where upstream's code raises.

    `reference` is the right skill sequence, `prediction` the model's (any JSON value), `dependency` "Sequential",
    "Seq-independent" or {node: [nodes that depend on it]} with nodes counted from 1. `total_score` is 0.4 skill +
    0.4 entity, so a perfect plan has 80: upstream declares weights for the other two but does not add them.
    Source: OpenMOSS/VLABench 47b04bf, evaluation/utils.py.
    """
    scores = _scores_unless_malformed(reference, prediction, dependency)
    return dict(ZERO_SCORES) if scores is None else scores


def plan_scores(reference: Any, prediction: Any, dependency: Any) -> dict[str, float]:
    """The official five, and LEAP's own scores (`LEAP_KEYS`), all over normalised ids. Where the five are zeros because
    upstream's code raises, the others are zeros too.

    - weighted_total: 0.4 skill + 0.4 entity + 0.1 skill_with_entity + 0.1 exact, the weights that upstream declares;
      at most 100. Like the official five it is a recall: steps added to a correct plan do not lower it.
    - total_ids_as_numbers: what total_score would be if it took "3" for 3.
    - *_precision and *_f1 of skills, entities and skill-with-entity: overlap in percent of what the model says, and
      of the mean of both. Invented steps lower them (those of entities, when the steps name any); 0 for 0 of 0.
    - length_ratio: the model's number of skills divided by the reference's, a plain ratio.
    """
    official = _scores_unless_malformed(reference, prediction, dependency)
    if official is None:
        return {**ZERO_SCORES, **dict.fromkeys(LEAP_KEYS, 0.0)}
    return {**official, **_leap_scores(_with_normal_ids(reference), _with_normal_ids(prediction), dependency)}


def normalise_id(value: Any) -> Any:
    """An id in one form: "3", " 3 ", "3.0" and 3.0 become 3; other strings lose outer blanks; the rest is unchanged."""
    if isinstance(value, str):
        text = value.strip()
        return int(text.partition(".")[0]) if _WHOLE_NUMBER.fullmatch(text) else text
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


class _Bags(NamedTuple):
    """What a plan says, regardless of order: multisets with their counts."""

    skills: Counter[Any]  # names
    entities: Counter[Any]  # (kind of parameter, id)
    skills_with_entities: Counter[Any]  # (name, entity, container)


def plan_bags(plan: Any) -> _Bags | None:
    """What a plan says to the official rules, regardless of order; None where upstream's code raises on it."""
    try:
        return _bags(plan)
    except Exception:  # noqa: BLE001  (upstream's own rule, see below)
        return None


def _scores_unless_malformed(reference: Any, prediction: Any, dependency: Any) -> dict[str, float] | None:
    try:
        return _scores(reference, prediction, dependency)
    except Exception:  # noqa: BLE001
        # The benchmark's own rule, not a convenience: its evaluator takes whatever exception the scorer raises (a skill
        # without params, an id that cannot be hashed, a reference without subtasks, ...) as five zeros. A prediction is
        # any JSON value, and naming the exceptions would be a second, diverging, statement of that rule.
        return None


def _scores(reference: Any, prediction: Any, dependency: Any) -> dict[str, float]:
    expected, model = _bags(reference), _bags(prediction)
    skill = _recall(expected.skills, model.skills)
    entity = _recall(expected.entities, model.entities)
    return {
        "skill_match_score": skill,
        "entity_match_score": entity,
        "skill_with_entity_match_score": _recall(expected.skills_with_entities, model.skills_with_entities),
        "exact_match_score": _exact_match(reference, prediction, dependency),
        "total_score": 0.4 * skill + 0.4 * entity,
    }


def _leap_scores(reference: list[Any], prediction: list[Any], dependency: Any) -> dict[str, float]:
    recall = _scores(reference, prediction, dependency)
    expected, model = _bags(reference), _bags(prediction)
    unadded = 0.1 * recall["skill_with_entity_match_score"] + 0.1 * recall["exact_match_score"]
    scores = {"weighted_total": recall["total_score"] + unadded, "total_ids_as_numbers": recall["total_score"]}
    for name, expected_bag, model_bag in zip(("skill", "entity", "skill_with_entity"), expected, model, strict=True):
        matched, said = _overlap(expected_bag, model_bag), model_bag.total()
        scores[f"{name}_precision"] = 100.0 * matched / said if said else 0.0
        either = said + expected_bag.total()
        scores[f"{name}_f1"] = 200.0 * matched / either if either else 0.0
    scores["length_ratio"] = len(prediction) / len(reference)
    return scores


def _with_normal_ids(skill_sequence: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"name": skill["name"], "params": {key: normalise_id(skill["params"].get(key)) for key in (ENTITY, CONTAINER)}}
        for skill in skill_sequence
    ]


def _bags(skill_sequence: Iterable[Mapping[str, Any]]) -> _Bags:
    triples = [(s["name"], s["params"].get(ENTITY), s["params"].get(CONTAINER)) for s in skill_sequence]
    entities = [("entity", entity) for _, entity, _ in triples if entity is not None]
    entities += [("container", container) for _, _, container in triples if container is not None]
    return _Bags(Counter([name for name, _, _ in triples]), Counter(entities), Counter(triples))


def _overlap(expected: Counter[Any], model: Counter[Any]) -> int:
    return sum(min(count, model.get(item, 0)) for item, count in expected.items())


def _recall(expected: Counter[Any], model: Counter[Any]) -> float:
    total = expected.total()
    # Divided first: (m / n) * 100 and 100 * m / n differ in the last bit. A reference without names has the integer.
    return (_overlap(expected, model) / total) * 100 if total else 0


def _exact_match(reference: Any, prediction: Any, dependency: Any) -> float:
    """Percentage of the reference's subtasks that the model has in the same layer of the graph, after the same ones.
    Raises ZeroDivisionError for a reference without any subtask, ValueError for a graph that has no layers."""
    expected, model = _layers(reference, dependency), _layers(prediction, dependency)
    matched = 0
    for ours, theirs in zip(expected, model, strict=False):
        # Each of the reference's with the first free one that fits. The order counts: fitting is not symmetric when two
        # subtasks before one are alike.
        for key, before in ours:
            fits = (
                i for i, (k, b) in enumerate(theirs) if k == key and len(b) == len(before) and set(before) <= set(b)
            )
            if (found := next(fits, None)) is not None:
                del theirs[found]
                matched += 1
    return (matched / sum(map(len, expected))) * 100


def _layers(skill_sequence: Any, dependency: Any) -> list[list[tuple[_Key, list[_Key]]]]:
    """(key, keys of the subtasks right before it) of a plan's subtasks, by their longest distance from the start.

    `graphlib` keeps a layer in the order in which upstream's networkx has it, on which the greedy matching depends, as
    long as edges are added in upstream's order."""
    keys = [("START",), *map(_subtask_key, find_subtasks(skill_sequence))]
    before: list[list[_Key]] = [[] for _ in keys]
    graph = TopologicalSorter[int]()
    for source, target in _edges(len(keys) - 1, dependency):
        before[target].append(keys[source])
        graph.add(target, source)
    graph.prepare()  # ValueError for a cycle
    layers = []
    while nodes := graph.get_ready():
        layers.append([(keys[node], before[node]) for node in nodes])
        graph.done(*nodes)
    return layers[1:]


def _edges(n_subtasks: int, dependency: Any) -> Iterable[tuple[int, int]]:
    """The graph's edges from the start (0) on, each once, in upstream's order; raises for what upstream fails on."""
    nodes = range(1, n_subtasks + 1)
    if dependency == "Sequential":
        return zip(range(n_subtasks), nodes, strict=True)
    edges: dict[tuple[int, int], None] = {}
    if dependency != "Seq-independent":
        # Upstream builds a graph without edges for what is no dict, and fails when it lays out the subtasks.
        for source, targets in dependency.items():
            for target in targets:
                if not (source <= n_subtasks and target <= n_subtasks):
                    raise ValueError(f"dependency {source!r} -> {target!r} is outside the {n_subtasks} subtasks")
                # Indexing from 0 keeps what upstream's does: 0 and below count from the end, True is 1, a float or a
                # string is a TypeError, and a source without targets is never looked at.
                edges[nodes[source - 1], nodes[target - 1]] = None
    has_source = {target for _, target in edges}
    return [*edges, *((0, node) for node in nodes if node not in has_source)]


def _subtask_key(subtask: Iterable[Mapping[str, Any]]) -> _Key:
    """Pattern, entity and container of a subtask: the last ids that it names, else None."""
    pattern, entity, container = [], None, None
    for skill in subtask:
        pattern.append(skill["name"])
        if (named := skill["params"].get(ENTITY)) is not None:
            entity = named
        if (named := skill["params"].get(CONTAINER)) is not None:
            container = named
    if entity != entity or container != container:
        # NaN equals nothing, not even itself, but inside a tuple Python takes an object for equal to itself.
        return ("-".join(pattern), entity, container, object())
    return ("-".join(pattern), entity, container)
