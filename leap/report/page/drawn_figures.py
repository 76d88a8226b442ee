"""The figures that the page shows: of the evaluation and the blind review drawn anew, of ablations as they are."""

from collections.abc import Sequence
from pathlib import Path

from leap.judge.review_files import SCORES, find_newest, find_pairs, read_pairs, read_scores
from leap.records.litter import listed
from leap.report.curves import read_loss
from leap.report.figures import Evaluation, draw_figures
from leap.report.review_figures import ReviewFigures, draw_review

_FORMATS = ["svg"]


def draw_all(
    results: Path, models: Sequence[str], baseline: str | None, review: Path, run: Path, folder: Path
) -> dict[str, list[Path]]:
    """Title -> files, drawn under `folder`; a title without any is left out."""
    figures = {
        "Evaluation": _of_evaluation(results, models, baseline, run, folder / "evaluation"),
        "Blind review": _of_review(review, baseline, folder / "review"),
        **{path.name.replace("_", " ").capitalize(): _in_one_form(path) for path in listed(results, "ablation*/")},
    }
    return {title: files for title, files in figures.items() if files}


def _of_evaluation(results: Path, models: Sequence[str], baseline: str | None, run: Path, folder: Path) -> list[Path]:
    evaluation = Evaluation.of_results(results, models, baseline)
    return draw_figures(evaluation, read_loss(run), folder, formats=_FORMATS)


def _of_review(review: Path, baseline: str | None, folder: Path) -> list[Path]:
    path = find_newest(review, SCORES)
    if path is None:
        return []
    scores, pairs = read_scores(path), find_pairs(path)
    judged = baseline if baseline in set(scores["model_name"]) else None
    return draw_review(ReviewFigures(scores, read_pairs(pairs) if pairs else None, judged), folder, _FORMATS)


def _in_one_form(folder: Path) -> list[Path]:
    """The figures in a folder, each as SVG, or else as PNG."""
    found = {path.stem: path for suffix in ("png", "svg") for path in listed(folder, f"*.{suffix}")}
    return list(found.values())
