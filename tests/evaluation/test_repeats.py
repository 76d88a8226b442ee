"""Every example asked several times: what is stored and resumed, and what the scores are means of."""

import itertools
import json
import random
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_script
from hypothesis import given
from hypothesis import strategies as st

from leap.evaluation.evaluation_progress import Monitor
from leap.evaluation.manifest import read_manifest
from leap.evaluation.predictions import read_repeats
from leap.evaluation.repeats import pass_at_k, score_repeats
from leap.evaluation.score import Counts, score_predictions
from leap.inference.generation import _Gumbel
from leap.inference.protocol import Decoding
from leap.records.benchmark import BenchmarkExample, Prediction
from leap.report.results import read_counts, read_scores, repeat_scores
from leap.report.results_summary import write_summary
from leap.report.tables import repeat_table
from leap.report.unfinished import unfinished_results
from leap.statistics.intervals import mean_interval
from leap.statistics.means import summarise
from leap.vlabench.dimensions import NAMES
from leap.vlabench.prompts import fenced_plan

EVALUATE = "scripts/evaluation/run_vlm_evaluation.py"
SCORE = "scripts/evaluation/score_predictions.py"
COMPARE = "scripts/evaluation/compare_models.py"
DRAW = "scripts/evaluation/draw_evaluation_results.py"
SMALL = (
    "--checkpoint models/tiny --model_name m --device cpu --image_tokens_min 4 --image_tokens_max 9 --max_new_tokens 3"
).split()
REPEATED = ["--repeats", "3", "--temperature", "1"]
NAME = "m_T1"
OF_THE_RUN = ("start", "end", "inference", "command", "code")


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_all_choices_that_hold_a_right_one(n: int, data: st.DataObject) -> None:
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    right = [place < correct for place in range(n)]
    expected = statistics.fmean(any(chosen) for chosen in itertools.combinations(right, k))
    assert pass_at_k(n, correct, k) == pytest.approx(expected, abs=1e-12)


def plan(*ids: int) -> list[dict[str, Any]]:
    steps = [({"target_entity_name": number}, {"target_container_name": 9}) for number in ids]
    return [
        {"name": name, "params": params} for step in steps for name, params in zip(("pick", "place"), step, strict=True)
    ]


def example(number: int) -> BenchmarkExample:
    return BenchmarkExample("Semantic", "task", number, Path("nowhere"), "Pick it.", {"skill_sequence": plan(1, 2)})


def predicted(number: int, repeat: int, text: str | None) -> Prediction:
    error = "the server is down" if text is None else None
    return Prediction(task="task", example=str(number), repeat=repeat, text=text, error=error)


TEXTS = {  # by example: of four repeats
    0: [fenced_plan(plan(1, 2)), fenced_plan(plan(1, 3)), "no plan", fenced_plan(plan(1, 2))],
    1: [fenced_plan(plan(3, 4)), fenced_plan(plan(3, 4)), None, fenced_plan(plan(1, 2))],
}


def test_scores_are_means_and_counts_are_of_responses() -> None:
    examples = [example(number) for number in TEXTS]
    repeats = [
        {("task", str(number)): predicted(number, repeat, texts[repeat]) for number, texts in TEXTS.items()}
        for repeat in range(4)
    ]
    scores, counts, first = score_repeats(examples, repeats)
    alone = [score_predictions(examples, one)[0].get("task", {}) for one in repeats]
    assert first == {"task": alone[0]}
    for number, found in scores["task"].items():
        for name, value in found.items():
            single = [one[number][name] for one in alone if number in one and name in one[number]]
            if single:
                assert value == pytest.approx(statistics.fmean(single))
    zero, one = scores["task"]["0"], scores["task"]["1"]
    assert zero["total_score"] == pytest.approx((80 + 70 + 0 + 80) / 4)
    assert zero["grounded_std"] == pytest.approx(statistics.stdev([100, 75, 0, 100]))
    assert zero["pass@1"] == 50
    assert zero["pass@2"] == pytest.approx(100 * (1 - 1 / 6))
    assert zero["pass@4"] == 100
    # One of the second example's repeats has no answer: no score, and nothing that takes four.
    assert one["pass@1"] == pytest.approx(100 / 3)
    assert one["pass@2"] == pytest.approx(100 * (1 - 1 / 3))
    assert "pass@4" not in one
    assert counts == Counts(8, scored=7, format_error=1, truncated=0, inference_error=1, missing=0)
    assert score_repeats(examples, repeats[:1]) == (*score_predictions(examples, repeats[0]), first)


# --- of a real evaluation


@pytest.fixture(scope="module")
def bench(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repeats")
    for part in ("dataset", "models/tiny"):
        shutil.copytree(workspace / part, root / part)
    return root


def evaluate(root: Path, *options: str) -> None:
    done = run_script(EVALUATE, *SMALL, *options, root=root)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole(bench: Path) -> Path:
    """An unbroken run's results: three responses to each of two examples of each dimension."""
    evaluate(bench, *REPEATED)
    return Path(shutil.move(bench / "eva_results", bench / "whole"))


@pytest.fixture
def results(bench: Path, whole: Path) -> Iterator[Path]:
    """The place of results with a copy of them."""
    path = Path(shutil.copytree(whole, bench / "eva_results"))
    yield path
    shutil.rmtree(path)


def final_files(results: Path) -> dict[str, bytes]:
    files = {str(path.relative_to(results)): path.read_bytes() for path in results.glob("*/*/*") if path.is_file()}
    for name in [name for name in files if name.endswith("manifest.json")]:
        manifest = json.loads(files[name])
        files[name] = json.dumps({key: value for key, value in manifest.items() if key not in OF_THE_RUN}).encode()
    return files


def test_each_repeat_is_stored_and_drawn_anew(whole: Path) -> None:
    for name in NAMES:
        folder = whole / name / NAME
        lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        assert [(line.get("repeat"), line["example"]) for line in lines] == [
            (repeat, number) for repeat in (None, 1, 2) for number in ("0", "1")
        ]
        assert len({line["request"] for line in lines}) == 2  # as often as there are examples
        manifest = read_manifest(folder)
        assert (manifest["repeats"], manifest["data"]["examples"], manifest["counts"]["examples"]) == (3, 2, 6)
        assert manifest["settings"]["decoding"]["temperature"] == 1
        assert sum(manifest["diagnosis"]["kinds"].values()) == 2  # of the first repeat
        (scores,) = json.loads((folder / "final_score.json").read_text()).values()
        assert {"total_score_std", "pass@1", "pass@2", "pass@3"} <= scores["0"].keys()
    first = read_repeats(whole / "Spatial" / NAME / "predictions.jsonl")
    texts = [[prediction.text for prediction in one.values()] for one in first]
    assert texts[0] != texts[1] != texts[2]
    assert len(set(texts[0])) == 2  # examples draw different random numbers, too


def test_a_broken_run_ends_as_an_unbroken_one(bench: Path, whole: Path, results: Path) -> None:
    """As kills leave it: some answers, in the order in which they came, and no scores."""
    rng = random.Random(5)
    for name in NAMES:
        folder = results / name / NAME
        lines = (folder / "predictions.jsonl").read_bytes().splitlines(keepends=True)
        kept = rng.sample(lines, rng.randrange(len(lines)))
        (folder / "predictions.jsonl").write_bytes(b"".join(kept) + lines[0][:20])
        (folder / "final_score.json").unlink()
        manifest = read_manifest(folder)
        (folder / "manifest.json").write_text(json.dumps(manifest | {"status": "running"}))
    assert all(one.endswith("of 6") for one in unfinished_results(results))
    assert {progress.total for progress in Monitor(results).read()} == {6}
    evaluate(bench, *REPEATED, "--batch_size", "5")
    assert final_files(results) == final_files(whole)


def test_more_repeats_are_added_and_fewer_take_none_away(bench: Path, whole: Path, results: Path) -> None:
    shutil.rmtree(results)
    evaluate(bench, "--temperature", "1", "--dimension", "Spatial")
    once = json.loads((results / "Spatial" / NAME / "final_score.json").read_text())
    assert "pass@1" not in json.dumps(once)
    before = (results / "Spatial" / NAME / "predictions.jsonl").read_bytes()
    evaluate(bench, *REPEATED)
    assert (results / "Spatial" / NAME / "predictions.jsonl").read_bytes().startswith(before)
    assert final_files(results) == final_files(whole)
    evaluate(bench, "--temperature", "1")
    assert final_files(results) == final_files(whole)


def test_greedy_results_stay_as_they_are_and_apart(bench: Path, results: Path) -> None:
    evaluate(bench, "--dimension", "Spatial")
    greedy = results / "Spatial" / "m"
    before = {path.name: path.read_bytes() for path in greedy.iterdir()}
    evaluate(bench, *REPEATED, "--dimension", "Spatial")
    assert {path.name: path.read_bytes() for path in greedy.iterdir()} == before
    for name in ("predictions.jsonl", "manifest.json", "final_score.json"):
        assert b'"repeat' not in before[name]
        assert b"pass@" not in before[name]


def test_scoring_anew_changes_nothing(bench: Path, whole: Path, results: Path) -> None:
    done = run_script(SCORE, "eva_results", root=bench, folder=bench)
    assert done.returncode == 0, done.stderr
    for name in NAMES:
        for file in ("final_score.json", "diagnosis.jsonl"):
            assert (results / name / NAME / file).read_bytes() == (whole / name / NAME / file).read_bytes()
        assert read_manifest(results / name / NAME)["counts"] == read_manifest(whole / name / NAME)["counts"]


def test_greedy_repeats_are_refused(bench: Path) -> None:
    done = run_script(EVALUATE, *SMALL, "--repeats", "2", root=bench)
    assert done.returncode == 2
    assert done.stderr == "error: --repeats 2: greedy responses are all alike; give a --temperature too\n"


# --- in tables


def write_result(results: Path, model: str, dimension: str, totals: list[float], passes: list[float] | None) -> None:
    folder = results / dimension / model
    folder.mkdir(parents=True)
    scores = {}
    for number, total in enumerate(totals):
        repeated = {"total_score_std": 4.0, "pass@1": passes[number], "pass@2": passes[number]} if passes else {}
        scores[str(number)] = {"total_score": total, "grounded": total, **repeated}
    (folder / "final_score.json").write_text(json.dumps({"task": scores}))
    times = 2 if passes else 1
    counts = dict.fromkeys(Counts.__dataclass_fields__, 0) | dict.fromkeys(("examples", "scored"), times * len(totals))
    (folder / "manifest.json").write_text(json.dumps({"counts": counts, **({"repeats": times} if passes else {})}))


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    for dimension in NAMES:
        write_result(tmp_path, "Baseline", dimension, [10.0, 20.0, 30.0], None)
        write_result(tmp_path, "one_T1", dimension, [10.0, 25.0, 40.0], [0.0, 50.0, 100.0])
        write_result(tmp_path, "two_T1", dimension, [40.0, 25.0, 10.0], [50.0, 50.0, 100.0])
    return tmp_path


def test_the_example_is_what_is_resampled(tables: Path) -> None:
    """Three examples, however often each was asked: the interval is that of their three means."""
    scores = read_scores(tables, ["one_T1"])
    (row,) = summarise(scores)[lambda table: table["dimension"] == NAMES[0]].itertuples()
    expected = mean_interval([[10.0, 25.0, 40.0]])
    assert (row.n, row.low, row.high) == (3, pytest.approx(expected.low), pytest.approx(expected.high))
    assert read_counts(tables, ["one_T1"])["examples"].tolist() == [6] * len(NAMES)


def test_tables_have_what_only_repeats_have(tables: Path) -> None:
    scores = read_scores(tables)
    assert repeat_scores(scores.columns) == ["total_score_std", "pass@1", "pass@2"]
    table = repeat_table(scores)
    assert table.index.tolist() == ["one_T1", "two_T1"]
    assert table.loc["two_T1"].tolist() == pytest.approx([4, 200 / 3, 200 / 3])
    assert repeat_table(read_scores(tables, ["Baseline"])).empty
    write_summary(tables)
    page, content = (tables / "summary.md").read_text(), json.loads((tables / "summary.json").read_text())
    assert "| repeats | total_score_std | pass@1 | pass@2 |" in page.replace("\\_", "_")
    assert "counts are of responses" in page
    (mean,) = [row for row in content["repeats"]["pass@2"] if (row["model"], row["dimension"]) == ("two_T1", "mean")]
    assert mean["mean"] == pytest.approx(200 / 3)
    assert mean["low"] < mean["mean"] < mean["high"]
    assert ",pass@2" in (tables / "summary.csv").read_text().splitlines()[0]
    shutil.rmtree(tables / "Spatial" / "one_T1")
    assert repeat_table(read_scores(tables)).loc["one_T1", "pass@1"] == 50  # the mean of what was run


def test_a_summary_without_repeats_says_nothing_of_them(tables: Path) -> None:
    for folder in [*tables.glob("*/one_T1"), *tables.glob("*/two_T1")]:
        shutil.rmtree(folder)
    write_summary(tables)
    for name in ("summary.md", "summary.json", "summary.csv"):
        text = (tables / name).read_text()
        assert "repeat" not in text
        assert "pass@" not in text


def test_pass_at_k_is_compared(tables: Path) -> None:
    done = run_script(COMPARE, "one_T1", "two_T1", "--score", "pass@2", "--results_dir", str(tables))
    assert done.returncode == 0, done.stderr
    assert "one_T1 against two_T1: pass@2" in done.stdout
    assert "Repeats: std of the responses" in done.stdout
    content = json.loads((tables / "comparisons" / "one_T1_vs_two_T1.json").read_text())
    assert content["rows"][0]["difference"] == pytest.approx(-50 / 3)
    assert [row["model"] for row in content["repeats"]] == ["one_T1", "two_T1"]
    for options, code, message in (
        (["one_T1", "Baseline", "--score", "pass@2"], 1, "Baseline: no such scores of this model; there are one_T1"),
        (["one_T1", "two_T1", "--score", "pass@8"], 1, "there is no score 'pass@8'"),
        (["one_T1", "two_T1", "--score", "pass"], 2, "choose from skill_match_score"),
    ):
        done = run_script(COMPARE, *options, "--results_dir", str(tables))
        assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    done = run_script(DRAW, "--results_dir", str(tables), "--figure", "metrics")
    assert done.returncode == 0, done.stderr
    assert "pass@2" in (tables / "figures" / "repeats.csv").read_text()


# --- sampling


def test_noise_draws_from_the_softmax() -> None:
    """20,000 draws, one a row: shares within four standard errors of their probabilities."""
    draws = 20_000
    logits = torch.tensor([1.0, 0.0, -1.0, -torch.inf])
    noise = _Gumbel(range(draws), "cpu")
    tokens = noise(torch.empty(0), logits.expand(draws, -1)).argmax(dim=-1)
    shares = tokens.bincount(minlength=4) / draws
    expected = logits.softmax(dim=-1)
    assert shares[3] == 0
    assert ((shares - expected).abs() < 4 * (expected * (1 - expected) / draws).sqrt() + 1e-9).all()


def test_a_row_draws_the_same_in_every_batch() -> None:
    logits = torch.zeros(3, 50)
    together = _Gumbel([7, 8, 9], "cpu")
    for _ in range(2):
        alone = _Gumbel([8], "cpu")
        steps = [alone(torch.empty(0), logits[:1])[0] for _ in range(3)]
    for step in steps:
        assert torch.equal(together(torch.empty(0), logits)[1], step)
    assert not torch.equal(steps[0], steps[1])


def test_greedy_decoding_has_one_seed() -> None:
    greedy, sampled = Decoding(seed=3), Decoding(temperature=0.5, seed=3)
    assert greedy.of_request(("a", "1")) == greedy
    seeds = [sampled.of_request(key).seed for key in (("a", "1"), ("a", "2"), ("a", "1", "1"), ("a", "11"))]
    assert len(set(seeds)) == 4
    assert sampled.of_request(("a", "1")).seed == seeds[0]
    assert all(0 <= seed < 2**31 for seed in seeds)
