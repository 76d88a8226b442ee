"""All results of a workspace as tables: one row an example, one row a (model, dimension)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leap.errors import LeapError, UsageError
from leap.evaluation.manifest import MANIFEST, read_manifest
from leap.evaluation.model_names import BASELINE
from leap.evaluation.repeats import PASS, SPREADS
from leap.evaluation.result_folder import SCORES
from leap.evaluation.score import read_scores as read_score_file
from leap.evaluation.setting_differences import Difference, setting_differences
from leap.records.files import is_file
from leap.records.litter import listed
from leap.report.unfinished import unfinished_note
from leap.statistics.means import MEAN
from leap.terminal import first_few, shown
from leap.vlabench.diagnosis import FLAGS, KINDS
from leap.vlabench.dimensions import DIMENSIONS, NAMES
from leap.vlabench.grounding import GROUNDED, SCORE_KEYS

NO_PLAN = ("refused", "filtered", "empty")  # answers that can hold no plan; manifests of older results lack them
WRITTEN = ("ids_as_text", "names")  # of the answers with a plan: what stands where an id should
COUNTS = ("examples", "scored", "format_error", *NO_PLAN, *WRITTEN, "truncated", "inference_error", "missing")
BLIND = {"floor": "floor", "best blind": "best_blind"}  # what never looks, and its key in a manifest
_MANY_TEXTS = 0.05  # of a model's plans: so many with ids as text are worth a sentence

TOTAL = "total_score"


def found_models(results: Path) -> list[str]:
    """The models that have results of any dimension. Raises LeapError where there are none."""
    models = {model for _, model, _ in result_folders(results, None)}
    if not models:
        raise LeapError(_nothing_there(results, None))
    return model_order(models)


def _nothing_there(results: Path, models: Iterable[str] | None) -> str:
    begun = unfinished_note(results, models)
    return f"{results}: no results there yet; {begun or 'run scripts/evaluation/run_vlm_evaluation.py first'}"


def chosen_models(results: Path, wanted: Sequence[str] | None) -> list[str]:
    """The wanted models, or all that have results. Raises UsageError for one that has none."""
    found = found_models(results)
    if unknown := [model for model in wanted or () if model not in found]:
        begun = unfinished_note(results, wanted)
        raise UsageError(
            f"no results of {', '.join(unknown)}; there are: {', '.join(found)}{f'; {begun}' if begun else ''}"
        )
    return list(wanted or found)


def chosen_baseline(wanted: str | None, models: list[str]) -> str | None:
    """The baseline by its name; None, after saying so, where the default one is not among the models.

    Raises UsageError where the wanted one is not.
    """
    if (wanted or BASELINE) in models:
        return wanted or BASELINE
    if wanted is not None:
        raise UsageError(f"--baseline {wanted}: not among the models; there are: {', '.join(models)}")
    print(f"no {BASELINE} among the models, so no improvement is shown; name another with --baseline")
    return None


def read_scores(results: Path, models: Iterable[str] | None = None) -> pd.DataFrame:
    """Columns dimension, model, task, example and every score; one row for each scored example. A score is NaN where
    the files are older than it is, and `grounded` where the reference names no object. Where any of the models were
    asked repeatedly, spreads and pass@k are further columns (`repeat_scores`).

    Empty where no example of these models could be scored. Raises LeapError where they have no results at all.
    """
    folders = result_folders(results, models)
    if not folders:
        raise LeapError(_nothing_there(results, models))
    rows = [
        {"dimension": dimension, "model": model, "task": task, "example": example, **scores}
        for dimension, model, folder in folders
        for task, examples in read_score_file(folder / SCORES).items()
        for example, scores in examples.items()
    ]
    further = repeat_scores(dict.fromkeys(name for row in rows for name in row))
    columns = dict.fromkeys([*SCORE_KEYS, *further], "float64")
    return pd.DataFrame(rows, columns=["dimension", "model", "task", "example", *columns]).astype(columns)


def repeat_scores(names: Iterable[str]) -> list[str]:
    """Those of the names that only examples that were asked repeatedly have: the spreads, then pass@k by k."""
    passes = [name for name in names if re.fullmatch(rf"{PASS}[0-9]{{1,4}}", name)]
    return [*(name for name in SPREADS.values() if name in names), *sorted(passes, key=_natural)]


def read_counts(results: Path, models: Iterable[str] | None = None) -> pd.DataFrame:
    """Columns dimension, model and what became of the examples (`COUNTS`); empty where there is no manifest."""
    rows: list[dict[str, Any]] = []
    for dimension, model, folder in result_folders(results, models):
        manifest = read_manifest(folder)
        rows.append({"dimension": dimension, "model": model, **manifest.get("counts", {})})
    return pd.DataFrame(rows, columns=["dimension", "model", *COUNTS]).astype(dict.fromkeys(COUNTS, "Int64"))


def read_blind(results: Path, models: Iterable[str] | None = None) -> pd.DataFrame:
    """Columns dimension, model, data (a fingerprint), and floor_<score> and best_blind_<score>: what a planner that
    never looks has there. Empty cells where results are older than this."""
    rows: list[dict[str, Any]] = []
    for dimension, model, folder in result_folders(results, models):
        blind = read_manifest(folder).get("blind", {})
        found = {f"{key}_{score}": value for key in BLIND.values() for score, value in blind.get(key, {}).items()}
        rows.append({"dimension": dimension, "model": model, "data": blind.get("fingerprint"), **found})
    numbers = [f"{key}_{score}" for score in (TOTAL, GROUNDED) for key in BLIND.values()]
    table = pd.DataFrame(rows, columns=["dimension", "model", "data", *numbers])
    return table.astype(dict.fromkeys(numbers, "float64"))


def read_kinds(results: Path, models: Iterable[str] | None = None) -> pd.DataFrame:
    """Columns dimension, model, `KINDS` and `FLAGS`: how many examples were diagnosed so. NA where results are older
    than the diagnosis."""
    rows: list[dict[str, Any]] = []
    none = dict.fromkeys([*KINDS, *FLAGS], 0)
    for dimension, model, folder in result_folders(results, models):
        found = read_manifest(folder).get("diagnosis", {})
        counted = {**none, **found.get("kinds", {}), **found.get("flags", {})} if found else {}
        rows.append({"dimension": dimension, "model": model, **counted})
    return pd.DataFrame(rows, columns=["dimension", "model", *none]).astype(dict.fromkeys(none, "Int64"))


def blind_means(blind: pd.DataFrame, score: str) -> pd.DataFrame:
    """`BLIND` in rows, dimensions and "mean" in columns: what never looking has of a score; NaN where it is not known,
    or where the models were evaluated on different data."""
    one = blind.groupby("dimension").filter(lambda rows: rows["data"].nunique(dropna=False) == 1)
    columns = [f"{key}_{score}" for key in BLIND.values()]
    means = one.groupby("dimension")[columns].first().reindex(list(NAMES)).T
    means.index, means.columns.name = pd.Index(BLIND), None
    means[MEAN] = means.mean(axis=1, skipna=False)
    return means


def ids_as_text_notes(scores: pd.DataFrame, counts: pd.DataFrame) -> list[str]:
    """A sentence on each model that writes ids as text in more than 5 % of its plans."""
    notes = []
    for model, found in counts.groupby("model")[list(COUNTS)].sum().iterrows():
        plans = found["scored"] - found["format_error"] - sum(found[name] for name in NO_PLAN)
        if found["ids_as_text"] <= _MANY_TEXTS * plans:
            continue
        one = scores[scores["model"] == model].groupby("dimension")[[TOTAL, "total_ids_as_numbers"]].mean().mean()
        named = f"; {found['names']} name objects instead" if found["names"] else ""
        notes.append(
            f'{model} writes ids as text ("3" for 3) in {found["ids_as_text"] / plans:.0%} of its {plans} plans, which '
            f"the official score takes for other ids: it has {one[TOTAL]:.1f} of 80, and would have "
            f"{one['total_ids_as_numbers']:.1f} with ids read as numbers{named}"
        )
    return notes


def dimension_means(
    scores: pd.DataFrame, score: str = "total_score", models: Iterable[str] | None = None
) -> pd.DataFrame:
    """Models in rows, dimensions in columns: the mean over examples. A dimension that was not run stays empty (NaN).

    The column "mean" is the mean of the six dimensions, and empty where one of them is. The rows are `models`, or else
    those that have a score.
    """
    means = scores.groupby(["model", "dimension"])[score].mean().unstack()
    means = means.reindex(index=model_order(means.index if models is None else set(models)), columns=list(NAMES))
    means.columns.name, means.index.name = None, "model"
    means[MEAN] = means.mean(axis=1, skipna=False)
    return means


def unscored_examples(counts: pd.DataFrame) -> pd.DataFrame:
    """Models in rows, dimensions and "mean" (their sum) in columns: how many examples have no score; NA if unknown."""
    rows = counts.assign(unscored=counts["examples"] - counts["scored"])
    table = rows.set_index(["model", "dimension"])["unscored"].unstack()
    table = table.reindex(index=model_order(table.index), columns=list(NAMES)).astype("Int64")
    table[MEAN] = rows.groupby("model")["unscored"].agg(lambda found: found.sum(skipna=False))
    return table


def incomplete_results(counts: pd.DataFrame) -> pd.DataFrame:
    """Models in rows, dimensions and "mean" (any of them) in columns: results not known to have every score."""
    rows = counts.assign(incomplete=(counts["examples"] != counts["scored"]).fillna(True).astype(bool))
    table = rows.set_index(["model", "dimension"])["incomplete"].unstack(fill_value=False)
    table = table.reindex(index=model_order(table.index), columns=list(NAMES), fill_value=False)
    table[MEAN] = table.any(axis=1)
    return table


def incomplete_note(counts: pd.DataFrame) -> str:
    """One line on the examples that have no score, and on results that do not say; "" where all have one."""
    rows = counts.set_index("model").loc[model_order(counts["model"].unique())]
    unscored = rows["examples"] - rows["scored"]
    found, unknown = rows[(unscored > 0).fillna(False)], rows[unscored.isna()]
    notes = []
    if len(found):
        results = [
            f"{row.Index}, {row.dimension}: {row.examples - row.scored} of {row.examples}" for row in found.itertuples()
        ]
        examples, scored = found["examples"].sum(), found["scored"].sum()
        notes.append(f"incomplete: {examples - scored} of {examples} examples unscored ({first_few(results, 6, '; ')})")
    if len(unknown):
        results = [f"{row.Index}, {row.dimension}" for row in unknown.itertuples()]
        notes.append(f"perhaps incomplete, without counts in {MANIFEST}: {first_few(results, 6, '; ')}")
    return "; ".join(notes)


def unlike_note(scores: pd.DataFrame, baseline: str) -> str:
    """One line on the results that are not over the same examples as the baseline's; "" where all are."""
    examples: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for row in scores.itertuples():
        examples.setdefault((row.model, row.dimension), set()).add((row.task, row.example))
    results = [
        f"{model}, {dimension}"
        for model in model_order(scores["model"].unique())
        for dimension in NAMES
        if (model, dimension) in examples and (baseline, dimension) in examples
        if examples[model, dimension] != examples[baseline, dimension]
    ]
    return f"not over the same examples as {baseline}: {first_few(results, 6, '; ')}" if results else ""


def unlike_settings(
    results: Path, models: Iterable[str] | None = None, baseline: str | None = None
) -> dict[tuple[str, str], list[Difference]]:
    """(model, dimension) -> what it was not asked and scored alike in with the baseline, or else with the first model
    that has results of the dimension."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for dimension, model, folder in result_folders(results, models):
        found.setdefault(dimension, {})[model] = read_manifest(folder)
    return {
        (model, dimension): differences
        for dimension, manifests in found.items()
        for first in [baseline if baseline in manifests else model_order(manifests)[0]]
        for model in model_order(manifests)
        if (differences := setting_differences(manifests[model], manifests[first]))
    }


def unlike_settings_note(results: Path, models: Iterable[str] | None = None, baseline: str | None = None) -> str:
    """Which models were asked or scored in another way than the baseline, or the first; "" if none. An image control is
    no news: the name says it."""
    found = unlike_settings(results, models, baseline).items()
    named = {key: [one for one in differences if one.name != "image_control"] for key, differences in found}
    unlike = {key: differences for key, differences in named.items() if differences}
    if not unlike:
        return ""
    places_of: dict[tuple[str, str], list[str]] = {}  # one for all dimensions that say the same
    for (model, dimension), differences in unlike.items():
        places_of.setdefault((model, "; ".join(map(str, differences))), []).append(dimension)
    places = {key: "" if len(names) == len(NAMES) else f" ({', '.join(names)})" for key, names in places_of.items()}
    listed = first_few([f"{model}{places[model, said]}: {said}" for model, said in places_of], 6, "; ")
    refused = any(one.matters for differences in unlike.values() for one in differences)
    verdict = "no difference of scores across these is called significant" if refused else "compare with care"
    return f"not asked alike, {verdict}: {listed}"


def prompt_note(results: Path, models: Iterable[str] | None = None) -> str:
    """Which models were asked with LEAP's prompt, whose scores stand beside no published table; "" if none."""
    prompts = {
        model: read_manifest(folder).get("settings", {}).get("prompt") or {}
        for _, model, folder in result_folders(results, models)
    }
    own = model_order(model for model, prompt in prompts.items() if prompt.get("source") == "leap")
    which = "all models" if len(own) == len(prompts) else ", ".join(own)
    return f"asked with LEAP's own prompt, not to compare with VLABench's published tables: {which}" if own else ""


def result_notes(
    results: Path,
    models: Sequence[str],
    baseline: str | None,
    scores: pd.DataFrame,
    counts: pd.DataFrame,
    begun: Sequence[str] | None,
) -> list[str]:
    """All that qualifies the scores of these models; of `begun`, or of all, what is not finished."""
    notes = (
        incomplete_note(counts),
        unfinished_note(results, begun),
        unlike_note(scores, baseline) if baseline else "",
        unlike_settings_note(results, models, baseline),
        prompt_note(results, models),
    )
    return [*filter(None, notes), *ids_as_text_notes(scores, counts)]


def without_verdicts(comparisons: pd.DataFrame, unlike: Mapping[tuple[str, str], Sequence[Difference]]) -> pd.DataFrame:
    """Comparisons with the baseline (`compare_all`), `significant` empty where settings differ that matter: nobody can
    say whether a difference is the models' then. Of the mean too, where it is so in one dimension."""
    confounded = {key for key, differences in unlike.items() if any(one.matters for one in differences)}
    confounded |= {(model, MEAN) for model, _ in confounded}
    keys = zip(comparisons["model"], comparisons["dimension"], strict=True)
    refused = pd.Series([key in confounded for key in keys], comparisons.index, dtype=bool)  # also where there is none
    return comparisons.assign(significant=comparisons["significant"].astype("boolean").mask(refused))


def model_order(models: Iterable[str]) -> list[str]:
    """The baseline first, then runs by name and checkpoints by step, each model's image controls behind it."""
    return sorted(models, key=lambda name: (name.split("_")[0] != BASELINE, _natural(name)))


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def result_folders(results: Path, models: Iterable[str] | None) -> list[tuple[str, str, Path]]:
    """(dimension, model, folder) of every result with scores, of these models or of all."""
    # Tables hold no bytes that are not UTF-8, and a name must be no command to a terminal: see leap.terminal.
    wanted = None if models is None else {shown(model) for model in models}
    return [
        (dimension.name, shown(folder.name), folder)
        for dimension in DIMENSIONS
        for folder in listed(results / dimension.name)
        if is_file(folder / SCORES) and (wanted is None or shown(folder.name) in wanted)
    ]
