"""A blind review from outputs to figures, by the scripts, at a server that fails in every way."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai
import pandas as pd
import pytest
from conftest import REPOSITORY, Finished, run_script
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from servers import faulty_openai as faulty
from servers.faulty_openai import Fault, FaultyServer, Seen

from leap.data.image import ImageSize
from leap.errors import LeapError, UsageError
from leap.inference.protocol import Decoding
from leap.judge.criteria import CRITERIA
from leap.judge.judges import RUBRIC, JudgeOptions, find_judges
from leap.judge.review_files import (
    OUTPUT_COLUMNS,
    PAIR_COLUMNS,
    SCORE_COLUMNS,
    read_pairs,
    read_scores,
    read_table,
    write_table,
)
from leap.records.judging import join_images, split_images

ANALYZE, DRAW = "scripts/evaluation/analyze_output_results.py", "scripts/evaluation/draw_blind10_scores.py"
QUICK = "--repeats 2 --retry_sleep 0.01 --max_retries 3 --timeout 20 --image_tokens_min 1 --image_tokens_max 4".split()
MODELS = ("Baseline", "secretive-model", "checkpoint-77")
SAMPLES = 4
QUALITY = {"Baseline": 1, "secretive-model": 4, "checkpoint-77": 3}  # steps of the reference that its plans have
STEPS = [f"Do thing {number}." for number in range(4)]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "JENIYA_")):
            monkeypatch.delenv(name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with the outputs of three models on four samples; the last model failed on the last of them."""
    folder = tmp_path / "space"
    (folder / "data" / "images").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for model in MODELS:
        for sample in range(SAMPLES):
            image = f"images/{sample}.png"
            Image.effect_noise((32, 32), 20 + sample).convert("RGB").save(folder / "data" / image)
            failed = model == MODELS[-1] and sample == SAMPLES - 1
            plan = " ".join(f"{n}) {step}" for n, step in enumerate(STEPS[: QUALITY[model]], 1)) + f" Sample {sample}."
            rows.append(
                {
                    "model_name": model,
                    "sample_idx": sample,
                    "image_paths": image,
                    "prompt_text": f"Do all things, number {sample}.",
                    "model_output": "" if failed else plan,
                    "reference_steps": " ".join(f"{n}) {step}" for n, step in enumerate(STEPS, 1)),
                    "error": "out of memory" if failed else "",
                }
            )
    save = folder / "eva_results" / "blind_10"
    save.mkdir(parents=True)
    table = pd.DataFrame(rows, columns=list(OUTPUT_COLUMNS)).fillna("")
    table.to_csv(save / "blind10_outputs_20260101_000000.csv", index=False)
    return folder


def plans_of(body: Mapping[str, Any]) -> list[str]:
    """The candidates in a judge's request."""
    return re.findall(r"<<<CANDIDATE[ AB]* \w+>>>\n(.*?)\n<<<END", faulty.last_text(body), re.DOTALL)


def judge(body: Mapping[str, Any]) -> str:
    """A judge that counts steps, and is the stricter the more of them the system message's criteria come first."""
    counts = [len(re.findall(r"\d\) Do", plan)) for plan in plans_of(body)]
    if len(counts) == 2:
        better = "tie" if counts[0] == counts[1] else "AB"[counts[1] > counts[0]]
        return json.dumps({"rationale": "counted", "better": better})
    order = list(body["response_format"]["json_schema"]["schema"]["properties"])
    scores = dict.fromkeys(CRITERIA, min(5, counts[0] + 1))
    scores[order[1]] = max(1, scores[order[1]] - 1)
    return json.dumps({"rationale": "counted", **scores})


def analyze(root: Path, server: FaultyServer | None, *options: str) -> Finished:
    address = ["--api_base", server.url, "--model", faulty.MODEL] if server else []
    return run_script(ANALYZE, *QUICK, *address, *options, root=root)


def newest(root: Path, stem: str) -> Path:
    return max((root / "eva_results" / "blind_10").glob(f"{stem}_*"), key=lambda path: path.stat().st_mtime_ns)


def scores_of(root: Path) -> pd.DataFrame:
    return read_scores(newest(root, "blind10_score"))


# What a judge gets, and what becomes of it


def test_a_review_and_what_the_judge_saw(root: Path) -> None:
    with FaultyServer(response=judge) as server:
        done = analyze(root, server, "--judge", faulty.MODEL, "rubric")
        bodies = [seen.body for seen in server.seen]
    assert done.returncode == 1, done.stderr  # one plan is missing
    assert "3 verdicts are missing" in done.stdout
    sent = json.dumps(bodies)
    for secret in (*MODELS, str(root), "images/", ".png", "out of memory", "sample_idx"):
        assert secret not in sent
    assert len(bodies) == 2 * (len(MODELS) * SAMPLES - 1)
    for body in bodies:
        assert body["temperature"] == 0
        assert body["response_format"]["type"] == "json_schema"
        assert [part["type"] for part in body["messages"][1]["content"]] == ["image_url", "text"]
    asked = [QUALITY_OF[len(re.findall(r"\d\) Do", plans_of(body)[0]))] for body in bodies]
    assert asked != sorted(asked, key=MODELS.index)  # shuffled

    table = read_table(newest(root, "blind10_score"))
    seeds = ["model_name", "sample_idx", "judge_raw", *CRITERIA, "final_score"]
    assert list(table.columns)[: len(seeds)] == seeds
    scores = scores_of(root)
    judged = scores[(scores["judge"] == faulty.MODEL) & scores["final_score"].notna()]
    assert judged["final_score"].to_numpy() == pytest.approx(judged[list(CRITERIA)].mean(axis=1).to_numpy())
    assert set(judged[judged["model_name"] == "Baseline"]["final_score"]) == {1.75}
    failed = table[(table["model_name"] == MODELS[-1]) & (table["sample_idx"] == "3")]
    assert set(failed["final_score"]) == {""}
    assert all("out of memory" in error for error in failed["error"])

    summary = json.loads(newest(root, "blind10_summary").with_suffix(".json").read_text())
    rows = [row for row in summary["comparisons"] if row["judge"] == faulty.MODEL]
    (compared,) = [row for row in rows if row["model_name"] == MODELS[-1]]
    assert (compared["pairs"], compared["wins"], compared["difference"]) == (3, 3, pytest.approx(2.0))
    statistics = {row["statistic"] for row in summary["agreement"]}
    assert statistics == {"Krippendorff's alpha", "Spearman's rho", "Kendall's tau-b"}
    (rho,) = [row["value"] for row in summary["agreement"] if row["statistic"] == "Spearman's rho"]
    assert rho > 0.9
    assert "4 samples" in summary["power"]
    manifest = json.loads(newest(root, "blind10_manifest").read_text())
    assert manifest["spent"]["requests"] == len(bodies)
    assert manifest["judges"][0]["inference"][0]["takes_json_schema"] is True
    markdown = newest(root, "blind10_summary").with_suffix(".md").read_text()
    assert RUBRIC in markdown
    assert "Traceback" not in done.stderr


QUALITY_OF = {count: model for model, count in QUALITY.items()}


def test_every_fault_is_overcome_or_counted(root: Path) -> None:
    """429, 500, cut, slow, prose: asked again. Out of range: asked again twice. Refusals: unscored."""
    faults = (*faulty.PASSING, faulty.STALLING, faulty.PROSE, faulty.OUT_OF_RANGE, faulty.BROKEN_JSON)

    def plan(seen: Seen) -> Fault | None:
        if plans_of(seen.body) == ["1) Do thing 0. Sample 0."]:
            return faulty.REFUSAL
        return faults[seen.number % len(faults)] if seen.attempt == 0 else None

    with FaultyServer(plan, response=judge) as server:
        done = analyze(root, server, "--only_models", ",".join(MODELS[:2]), "--timeout", "1", "--repeats", "1")
    scores = scores_of(root)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (missing,) = scores[scores["final_score"].isna()].to_dict("records")
    assert (missing["model_name"], missing["sample_idx"]) == ("Baseline", 0)
    assert "the model refused" in missing["error"]
    assert len(scores) == 2 * SAMPLES
    assert pd.to_numeric(scores["unusable"]).sum() == sum(seen.fault is faulty.OUT_OF_RANGE for seen in server.seen)


def test_unusable_verdicts_are_unscored_and_counted(root: Path) -> None:
    with FaultyServer(lambda seen: faulty.OUT_OF_RANGE, response=judge) as server:
        done = analyze(root, server, "--only_models", "Baseline", "--repeats", "1", "--verdict_retries", "1")
        assert len(server.seen) == 2 * SAMPLES
    assert done.returncode == 1
    scores = scores_of(root)
    assert scores["final_score"].isna().all()
    assert set(scores["unusable"]) == {"2"}
    assert all(error.startswith("unusable verdict: completeness") for error in scores["error"])
    cut = Fault("cut off", body=faulty.completion('{"completeness": 3', "length"))
    with FaultyServer(lambda seen: cut) as server:
        options = ("--only_models", "Baseline", "--repeats", "1", "--verdict_retries", "0", "--continue_on_error")
        assert analyze(root, server, *options).returncode == 0
    assert all("cut at the limit" in error for error in scores_of(root)["error"])


def test_a_server_that_takes_no_schema_is_asked_without(root: Path) -> None:
    refusing = Fault("400", 400, faulty.error("response_format is not supported"))

    def plan(seen: Seen) -> Fault | None:
        return refusing if "response_format" in seen.body else None

    with FaultyServer(plan, response=lambda body: json.dumps(dict.fromkeys(CRITERIA, 4))) as server:
        done = analyze(root, server, "--only_models", "Baseline", "--concurrency", "1")
    assert done.returncode == 0, done.stderr
    manifest = json.loads(newest(root, "blind10_manifest").read_text())
    assert manifest["judges"][0]["inference"][0]["takes_json_schema"] is False


def test_fields_that_a_hosted_model_refuses_can_be_left_out(root: Path) -> None:
    refusing = Fault("400", 400, faulty.error("temperature does not support 0 with this model"))

    def plan(seen: Seen) -> Fault | None:
        return refusing if "temperature" in seen.body else None

    with FaultyServer(plan, response=judge) as server:
        done = analyze(root, server, "--only_models", "Baseline", "--concurrency", "1")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("refuses temperature: left out from now on") == 1
        assert sum("temperature" in seen.body for seen in server.seen) == 1
        manifest = json.loads(newest(root, "blind10_manifest").read_text())
        assert manifest["judges"][0]["inference"][0]["fields_refused"] == ["temperature"]
        before = len(server.seen)
        assert analyze(root, server, "--only_models", "Baseline", "--omit_fields", "temperature,seed").returncode == 0
        assert not any({"temperature", "seed"} & seen.body.keys() for seen in server.seen[before:])


@pytest.mark.parametrize(
    ("odd", "scored"),
    [
        ('{"rationale": "a \\ud800 b", %s}', True),
        ('{"rationale": "a \ud800 b", %s}', True),
        ('{"rationale": "a \\u0000 \\r \\u2028 =cmd|x", %s}', True),
        ('{"rationale": "r", %s, "note": NaN}', True),
        ('{"rationale": "r", %s, "note": 1' + "0" * 5000 + "}", False),
        ('{"rationale": "r", %s, "note": ' + "[" * 5000 + "]" * 5000 + "}", False),
    ],
    ids=["surrogate", "surrogate in the body", "control characters", "NaN", "long number", "deep"],
)
def test_one_odd_verdict_ends_no_review(root: Path, odd: str, scored: bool) -> None:
    """It is read or it is unusable, now and at every later start, and the others have their scores."""

    def answer(body: Mapping[str, Any]) -> str:
        verdict = judge(body)
        return odd % verdict.partition(", ")[2][:-1] if "Sample 1." in plans_of(body)[0] else verdict

    options = ("--only_models", "Baseline", "--repeats", "1", "--verdict_retries", "0")
    with FaultyServer(response=answer) as server:
        for _ in range(2):
            done = analyze(root, server, *options)
            assert "Traceback" not in done.stderr
            assert done.returncode == (0 if scored else 1), done.stderr
            assert scores_of(root).set_index("sample_idx")["final_score"].notna().to_list() == [
                scored or sample != 1 for sample in range(SAMPLES)
            ]
        assert len(server.seen) == SAMPLES


def test_a_store_is_read_beside_what_cannot_be(root: Path) -> None:
    """Odd lines are passed over with one warning, and only what they held is asked again."""
    store = root / "eva_results" / "blind_10" / "verdicts.jsonl"
    options = ("--only_models", "Baseline", "--repeats", "1")
    with FaultyServer(response=judge) as server:
        assert analyze(root, server, *options).returncode == 0
        first, second, third, fourth = store.read_text().splitlines()
        first = json.dumps({**json.loads(first), "prompt_tokens": -5, "made": {"run": 3}})
        second = json.dumps({**json.loads(second), "text": 5})
        store.write_text("\n".join(["[]", '{"key": "\\ud800"', first, second, third, fourth]) + "\n")
        server.reset(faulty.faultless)
        done = analyze(root, server, *options)
        assert done.returncode == 0, done.stderr
        assert len(server.seen) == 1
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("warning")]
    assert f"{store}: 3 unreadable records are passed over (line 1: " in warning
    assert scores_of(root)["final_score"].notna().all()


@pytest.mark.parametrize("content", ["{", "[]", '{"tables": 3}', '{"spent": {"requests": "many"}, "outputs": 7}'])
def test_a_broken_manifest_of_an_earlier_run_ends_no_review(root: Path, content: str) -> None:
    options = ("--judge", "rubric", "--only_models", "Baseline")
    assert analyze(root, None, *options).returncode == 0
    newest(root, "blind10_manifest").write_text(content)
    again = analyze(root, None, *options)
    assert again.returncode == 0, again.stderr
    assert "blind10_manifest" in again.stderr.splitlines()[0]
    assert json.loads(newest(root, "blind10_manifest").read_text())["tables"] == [newest(root, "blind10_score").name]


def test_nothing_is_paid_for_twice(root: Path) -> None:
    """Failed verdicts are asked again by the same command, others never; the table is that of an unbroken run."""

    def broken(seen: Seen) -> Fault | None:
        return faulty.BAD_REQUEST if "Sample 2." in plans_of(seen.body)[0] else None

    options = ("--only_models", ",".join(MODELS[:2]))
    with FaultyServer(broken, response=judge) as server:
        assert analyze(root, server, *options).returncode == 1
        first = json.loads(newest(root, "blind10_manifest").read_text())
        server.reset(faulty.faultless)
        assert analyze(root, server, *options, "--concurrency", "3").returncode == 0
        assert Counter("Sample 2." in plans_of(seen.body)[0] for seen in server.seen) == {True: 4}
        resumed = newest(root, "blind10_score").read_bytes()
        kept = newest(root, "blind10_manifest").read_bytes()
        server.reset(faulty.faultless)
        assert analyze(root, server, *options).returncode == 0
        assert server.seen == []
        assert newest(root, "blind10_manifest").read_bytes() == kept
        assert analyze(root, server, *options, "--no_resume").returncode == 0
        assert len(server.seen) == 2 * 2 * SAMPLES
    assert newest(root, "blind10_score").read_bytes() == resumed
    message = json.loads(kept)
    assert message["spent"]["requests"] == 4
    assert [run["spent"] for run in message["spent_before"]] == [first["spent"]]
    commands = [note["run"]["command"] for note in message["judges"][0]["inference"]]
    assert commands == [first["command"], message["command"]]
    again = json.loads(newest(root, "blind10_manifest").read_text())
    assert [run["spent"]["requests"] for run in again["spent_before"]] == [first["spent"]["requests"], 4]
    assert [note["run"]["command"] for note in again["judges"][0]["inference"]] == [again["command"]]


def test_pairs_of_an_earlier_run_join_a_later_table(root: Path) -> None:
    """Nothing is asked, and yet the manifest must name the pairs, and all that was spent."""

    def broken(seen: Seen) -> Fault | None:
        return faulty.BAD_REQUEST if len(plans_of(seen.body)) == 1 and "Sample 2." in plans_of(seen.body)[0] else None

    options = ("--only_models", ",".join(MODELS[:2]), "--repeats", "1")
    with FaultyServer(broken, response=judge) as server:
        assert analyze(root, server, *options, "--pairwise").returncode == 1
        server.reset(faulty.faultless)
        assert analyze(root, server, *options).returncode == 0
        table = newest(root, "blind10_score")
        server.reset(faulty.faultless)
        assert analyze(root, server, *options, "--pairwise").returncode == 0
        assert server.seen == []
    manifest = json.loads(newest(root, "blind10_manifest").read_text())
    assert manifest["tables"] == [table.name, newest(root, "blind10_pairs").name]
    assert [run["spent"]["requests"] for run in manifest["spent_before"]] == [16, 2]
    assert len(manifest["judges"][0]["inference"]) == 2


def test_equal_plans_are_judged_once(root: Path) -> None:
    path = newest(root, "blind10_outputs")
    table = read_table(path)
    copy = table[table["model_name"] == "Baseline"].assign(model_name="twin")
    pd.concat([table[table["model_name"] == "Baseline"], copy]).to_csv(path, index=False)
    with FaultyServer(response=judge) as server:
        assert analyze(root, server, "--pairwise").returncode == 0
        assert len(server.seen) == 2 * SAMPLES
        spent = json.loads(newest(root, "blind10_manifest").read_text())["spent"]
        columns = ["prompt_tokens", "new_tokens"]
        for _ in range(2):  # the second time from the store
            table = scores_of(root)
            assert list(table[columns].astype(int).sum()) == [spent[name] for name in columns]  # what was billed
            scores = table.set_index(["model_name", "sample_idx", "repeat"])["final_score"]
            assert scores["Baseline"].equals(scores["twin"])
            assert set(read_table(newest(root, "blind10_pairs"))["outcome"]) == {"tie"}
            newest(root, "blind10_score").unlink()
            assert analyze(root, server, "--pairwise").returncode == 0


# Money


def test_the_limit_of_cost_is_kept_and_reported(root: Path) -> None:
    """A request costs USD 2 here. Its reserve is more, so that the limit is never passed."""

    def billed(seen: Seen) -> Fault:
        usage = {"prompt_tokens": 1990, "completion_tokens": 10}
        return Fault("billed", body=faulty.completion(judge(seen.body), usage=usage))

    prices = ("--input_price", "1000", "--output_price", "1000", "--max_new_tokens", "10", "--only_models", "Baseline")
    with FaultyServer(billed) as server:
        refused = analyze(root, server, "--max_cost", "1")
        assert refused.returncode == 2
        assert "--input_price" in refused.stderr
        nothing = analyze(root, server, *prices, "--max_cost", "1")
        assert "stopped before USD 1" in nothing.stdout
        assert server.seen == []
        done = analyze(root, server, *prices, "--max_cost", "12")
        asked = len(server.seen)
        assert 1 < asked <= 6
        assert done.returncode == 1
        assert "stopped before USD 12 (--max_cost)" in done.stdout
        spent = json.loads(newest(root, "blind10_manifest").read_text())["spent"]
        assert spent["stopped_by_max_cost"] is True
        assert spent["cost_usd"] == pytest.approx(2.0 * asked)
        assert scores_of(root)["final_score"].notna().sum() == asked
        assert analyze(root, server, *prices, "--max_cost", "100").returncode == 0
        assert len(server.seen) == 2 * SAMPLES
        server.reset(lambda seen: Fault("no usage", body=faulty.completion(judge(seen.body))))
        blind = analyze(root, server, *prices, "--max_cost", "100", "--no_resume")
    assert blind.returncode == 1
    assert "how many tokens" in blind.stderr


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1_000_000, "completion_tokens": -1_000_000},
        {"prompt_tokens": 1990, "completion_tokens": -10},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": 1990, "completion_tokens": 0},
        {"prompt_tokens": 10**30, "completion_tokens": 10},
        {"prompt_tokens": 1.5, "completion_tokens": "10"},
        {},
        [1990, 10],
        None,
    ],
    ids=["negative", "negative-new", "none", "no-new", "beyond-all", "no-whole-numbers", "empty", "a list", "missing"],
)
def test_tokens_that_nobody_has_counted_keep_no_limit(root: Path, usage: Any) -> None:
    """One answer shows it. It is paid for and kept; no other is asked for."""
    prices = ("--input_price", "1000", "--output_price", "1000", "--max_new_tokens", "10", "--only_models", "Baseline")
    with FaultyServer(lambda seen: Fault("odd", body=faulty.completion(judge(seen.body), usage=usage))) as server:
        done = analyze(root, server, *prices, "--max_cost", "12")
        assert done.returncode == 1
        assert "does not say how many tokens" in done.stderr
        assert len(server.seen) == 1
        assert analyze(root, server, *prices).returncode == 0
        assert len(server.seen) == 2 * SAMPLES
    spent = json.loads(newest(root, "blind10_manifest").read_text())["spent"]
    assert (spent["answers_without_usage"], spent["cost_usd"]) == (2 * SAMPLES - 1, 0)


def test_requests_that_failed_count_against_the_limit(root: Path) -> None:
    """A server may bill what it then refuses, and does not say: four of eight reserves are the limit here."""
    refusing = Fault("an ending of its own", body=faulty.completion("Hm.", finish="error"))
    prices = ("--input_price", "0", "--output_price", "1000000", "--max_new_tokens", "10", "--only_models", "Baseline")
    with FaultyServer(lambda seen: refusing) as server:
        done = analyze(root, server, *prices, "--max_cost", "40")
        assert done.returncode == 1
        assert len(server.seen) == 4
    assert "stopped before USD 40" in done.stdout


def test_an_answer_that_passes_the_limit_is_the_last(root: Path) -> None:
    """The first answer is short, and its like would all fit; the others cost more than the limit each."""

    def thinking(seen: Seen) -> Fault:
        usage = {"prompt_tokens": 10, "completion_tokens": 10 if seen.number == 0 else 50_000}
        return Fault("billed", body=faulty.completion(judge(seen.body), usage=usage))

    prices = ("--input_price", "0", "--output_price", "1000", "--max_new_tokens", "10", "--max_cost", "12")
    with FaultyServer(thinking, hold=0.3) as server:
        done = analyze(root, server, *prices, "--only_models", "Baseline", "--concurrency", "1")
        assert done.returncode == 1
        assert len(server.seen) < 2 * SAMPLES
    assert "stopped before USD 12" in done.stdout


def test_answers_beyond_max_tokens_are_paid_for_and_counted(root: Path) -> None:
    """As with hidden reasoning: each answer costs USD 5 where 0.01 was to be expected, and is refused."""
    usage = {"prompt_tokens": 1990, "completion_tokens": 5000}

    def thinking(seen: Seen) -> Fault:
        return faulty.ERROR_503 if seen.number == 0 else Fault("long", body=faulty.completion("Hm.", usage=usage))

    prices = ("--input_price", "0", "--output_price", "1000", "--max_new_tokens", "10", "--max_cost", "12")
    with FaultyServer(thinking) as server:
        assert analyze(root, server, *prices, "--only_models", "Baseline").returncode == 1
        assert len(server.seen) == 3  # one that failed, and two answers; a third could pass the limit
    spent = json.loads(newest(root, "blind10_manifest").read_text())["spent"]
    assert (spent["requests"], spent["new_tokens"], spent["cost_usd"]) == (2, 10000, pytest.approx(10))
    assert spent["stopped_by_max_cost"] is True


# Pairs


def test_pairs_are_shown_in_both_orders(root: Path) -> None:
    with FaultyServer(response=judge) as server:
        done = analyze(root, server, "--pairwise", "--only_models", ",".join(MODELS[:2]))
        assert done.returncode == 0, done.stderr
        pairs = [plans_of(seen.body) for seen in server.seen if len(plans_of(seen.body)) == 2]
    assert Counter(map(tuple, pairs)) == Counter(tuple(reversed(pair)) for pair in pairs)
    table = read_table(newest(root, "blind10_pairs"))
    assert set(table["outcome"]) == {"b"}
    summary = json.loads(newest(root, "blind10_summary").with_suffix(".json").read_text())
    (row,) = summary["pairs"]
    assert (row["model_a"], row["wins"], row["losses"], row["pairs"]) == ("Baseline", 0, SAMPLES, SAMPLES)
    (bias,) = summary["position_bias"]
    assert (bias["consistent"], bias["first"], bias["second"]) == (2 * SAMPLES, 0, 0)


def test_a_judge_that_always_prefers_the_first_decides_nothing(root: Path) -> None:
    def first(body: Mapping[str, Any]) -> str:
        return '{"better": "A"}' if len(plans_of(body)) == 2 else judge(body)

    with FaultyServer(response=first) as server:
        assert analyze(root, server, "--pairwise", "--only_models", ",".join(MODELS[:2])).returncode == 0
    assert set(read_table(newest(root, "blind10_pairs"))["outcome"]) == {"tie"}
    (bias,) = json.loads(newest(root, "blind10_summary").with_suffix(".json").read_text())["position_bias"]
    assert (bias["consistent"], bias["first"], bias["p"]) == (0, 2 * SAMPLES, pytest.approx(2 / 2**SAMPLES))


# Figures


def test_figures_of_the_rubric_alone(root: Path) -> None:
    assert analyze(root, None, "--judge", "rubric", "--continue_on_error").returncode == 0
    drawn = run_script(DRAW, "--output_dir", "figures", "--format", "pdf", root=root)
    assert drawn.returncode == 0, drawn.stderr
    names = ("final_scores", "criteria", "improvement")
    assert drawn.stdout.split() == [str(root / "figures" / f"blind10_{name}.pdf") for name in names]


@pytest.mark.slow
def test_figures_of_two_judges_and_the_rubric(root: Path) -> None:
    with FaultyServer(response=judge, models=("tiny", "other")) as server:
        judges = ("--judge", "tiny", "other", "rubric", "--pairwise", "--continue_on_error")
        done = run_script(ANALYZE, *QUICK, "--api_base", server.url, *judges, root=root)
    assert done.returncode == 0, done.stderr
    assert "weighted kappa" in done.stdout
    drawn = run_script(DRAW, "--baseline", "secretive-model", root=root)
    assert drawn.returncode == 0, drawn.stderr
    names = ("final_scores", "criteria", "improvement", "agreement", "pairs")
    written = [Path(path) for path in drawn.stdout.split()]
    assert [path.name for path in written] == [f"blind10_{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert all(path.stat().st_size > 10_000 for path in written)
    unknown = run_script(DRAW, "--baseline", "nobody", root=root)
    assert unknown.returncode == 2
    assert "nobody" in unknown.stderr


# Bad input


def test_a_missing_image_stops_or_warns(root: Path) -> None:
    (root / "data" / "images" / "2.png").unlink()
    with FaultyServer(response=judge) as server:
        stopped = analyze(root, server)
        assert stopped.returncode == 1
        assert "sample 2" in stopped.stderr
        assert "--warn_missing_image" in stopped.stderr
        assert server.seen == []
        warned = analyze(root, server, "--warn_missing_image", "--only_models", "Baseline")
    assert warned.returncode == 0
    assert "warning: judged without an image: sample 2" in warned.stderr
    assert set(scores_of(root).groupby("sample_idx")["pictures"].first().loc[[1, 2]]) == {"1", "0"}


def test_an_image_path_may_hold_a_semicolon(root: Path) -> None:
    """LEAP writes a list where a path has one; a table by others is read by what is on the disk."""
    folder = root / "data" / "images"
    for name in ("a;b.png", "c; d.png"):
        shutil.copy(folder / "0.png", folder / name)
    path = newest(root, "blind10_outputs")
    table = read_table(path).query("model_name == 'Baseline'").copy()
    table["image_paths"] = [
        "images/a;b.png",
        join_images(["images/a;b.png", "images/1.png"]),
        "images/2.png; images/3.png",
        join_images(["images/c; d.png"]),
    ]
    table.to_csv(path, index=False)
    with FaultyServer(response=judge) as server:
        done = analyze(root, server, "--repeats", "1")
    assert done.returncode == 0, done.stderr
    assert list(scores_of(root)["pictures"]) == ["1", "2", "2", "1"]


@given(st.lists(st.text(min_size=1) | st.text('a;[]" ,', min_size=1), max_size=3))
def test_any_image_paths_come_back_from_their_cell(paths: list[str]) -> None:
    assert split_images(join_images(paths)) == paths
    if not any(set(path) & set(';["') or path != path.strip() for path in paths):
        assert join_images(paths) == ";".join(paths)  # as the seeds have it


@pytest.mark.parametrize(
    ("stem", "column", "value", "message"),
    [
        ("score", "final_score", "7", "row 1: final_score"),
        ("score", "completeness", "nan", "row 1: completeness"),
        ("score", "granularity", "inf", "row 1: granularity"),
        ("score", "sample_idx", "9" * 5000, "row 1: sample_idx"),
        ("score", "sample_idx", "1" + "0" * 30, "row 1: sample_idx"),
        ("score", "repeat", "-1", "row 1: repeat"),
        ("score", "unusable", "many", "row 1: unusable"),
        ("score", "sample_idx", "1", "row 2: a second one of judge rubric (deterministic), model_name Baseline"),
        ("pairs", "outcome", "A", "row 1: outcome"),
        ("pairs", "shown_ab", "a", "row 1: shown_ab"),
        ("pairs", "sample_idx", "", "row 1: sample_idx"),
    ],
)
def test_a_changed_table_is_reported_by_row(root: Path, stem: str, column: str, value: str, message: str) -> None:
    save = root / "eva_results" / "blind_10"
    if stem == "score":
        path = write_table(save, "blind10_score", [score_row(sample) for sample in range(2)], SCORE_COLUMNS)
    else:
        path = write_table(save, "blind10_pairs", [pair_row()], PAIR_COLUMNS)
    read = read_scores if stem == "score" else read_pairs
    assert len(read(path)) == (2 if stem == "score" else 1)
    table = read_table(path)
    table.loc[0, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(LeapError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: {message}")
    table.drop(columns=column).to_csv(path, index=False)
    with pytest.raises(LeapError, match=f"no column {column}"):
        read(path)


def score_row(sample: int) -> dict[str, Any]:
    scores: dict[str, Any] = dict.fromkeys((*CRITERIA, "final_score"), 1 + sample)
    return (
        dict.fromkeys(SCORE_COLUMNS, "")
        | scores
        | {"model_name": "Baseline", "sample_idx": sample, "judge": RUBRIC, "repeat": 1}
    )


def pair_row() -> dict[str, Any]:
    row = {"model_a": "a", "model_b": "b", "sample_idx": 0, "judge": "j", "repeat": 1, "outcome": "tie"}
    return dict.fromkeys(PAIR_COLUMNS, "") | row


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="model_output"), "no column model_output"),
        (lambda table: table.assign(sample_idx="first"), "row 1: sample_idx"),
        (lambda table: pd.concat([table, table]), "a second one of model_name Baseline, sample_idx 0"),
        (lambda table: table.head(0), "no rows"),
    ],
)
def test_a_broken_table_is_reported_by_row(root: Path, change: Any, message: str) -> None:
    path = newest(root, "blind10_outputs")
    change(read_table(path)).to_csv(path, index=False)
    done = analyze(root, None, "--judge", "rubric")
    assert done.returncode == 1
    assert message in done.stderr
    assert str(path) in done.stderr


def test_the_seeds_own_six_columns_are_enough(root: Path) -> None:
    path = newest(root, "blind10_outputs")
    read_table(path).drop(columns=["error", "finish", "prompt_tokens", "new_tokens"]).to_csv(path, index=False)
    assert analyze(root, None, "--judge", "rubric", "--input_csv", str(path)).returncode == 0


def test_wrong_usage(root: Path) -> None:
    for options, message in (
        (["--judge", "rubric", "--pairwise"], "--pairwise"),
        (["--judge", "rubric", "--only_models", "nobody"], "nobody"),
        ([], "--judge rubric"),
    ):
        done = run_script(ANALYZE, *options, root=root)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
    assert run_script(ANALYZE, "--judge", "rubric", "--save_dir", "elsewhere", root=root).returncode == 1


# Who judges


def options(**given: Any) -> JudgeOptions:
    return JudgeOptions(Decoding(), ImageSize(1, 4), **given)


def test_a_key_goes_to_its_own_server_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://openai.test/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "openai-key")
    monkeypatch.setenv("OTHER_KEY", "other-key")
    wanted = ["one", "two@http://other.test/v1", "three@http://third.test/v1,key=OTHER_KEY,input=1,output=2"]
    found = [judge.endpoint for judge in find_judges(wanted, options()) if not isinstance(judge, str)]
    assert [(end.model, end.base_url, end.api_key) for end in found] == [
        ("one", "http://openai.test/v1", "openai-key"),
        ("two", "http://other.test/v1", "none"),
        ("three", "http://third.test/v1", "other-key"),
    ]
    assert (found[2].input_price, found[2].output_price) == (1, 2)
    monkeypatch.setenv("JENIYA_API_BASE", "http://jeniya.test/v1")
    monkeypatch.setenv("JENIYA_MODEL", "four")
    (first,) = find_judges([], options())
    assert not isinstance(first, str)
    assert (first.endpoint.base_url, first.endpoint.model, first.endpoint.api_key) == (
        "http://jeniya.test/v1",
        "four",
        "none",  # the key of another family is not sent here
    )
    monkeypatch.setenv("JENIYA_API_KEY", "jeniya-key")
    (first,) = find_judges([], options())
    assert not isinstance(first, str)
    assert first.endpoint.api_key == "jeniya-key"
    assert "jeniya-key" not in repr(first)
    assert find_judges(["rubric"], options()) == [RUBRIC]


def test_openais_key_alone_means_openais_own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does to the client library. Another family's key is not sent there, and no server is asked for names."""
    monkeypatch.setenv("JENIYA_API_KEY", "jeniya-key")
    with pytest.raises(UsageError, match="no judge"):
        find_judges(["gpt-4o"], options())
    monkeypatch.setenv("OPENAI_API_KEY", "openai-key")
    (found,) = find_judges(["gpt-4o,input=2.5,output=10"], options())
    assert not isinstance(found, str)
    assert (found.endpoint.model, found.endpoint.api_key) == ("gpt-4o", "openai-key")
    with openai.OpenAI(api_key="any") as client:
        assert str(client.base_url) == f"{found.endpoint.base_url}/"
    with pytest.raises(UsageError, match="no judge"):
        find_judges([], options())
    monkeypatch.setenv("JENIYA_API_BASE", "http://jeniya.test/v1")
    (found,) = find_judges(["gpt-4o"], options())
    assert not isinstance(found, str)
    assert (found.endpoint.base_url, found.endpoint.api_key) == ("http://jeniya.test/v1", "jeniya-key")


@pytest.mark.parametrize(
    "judge_flag",
    [
        "m@http://a.test/v1,colour=red",
        "m@http://a.test/v1,input=cheap",
        "m@http://a.test/v1,input=nan,output=1",
        "m@http://a.test/v1,input=-1,output=1",
        "m@http://a.test/v1,input=1,output=inf",
        "m,key=NOWHERE",
    ],
)
def test_a_judge_that_cannot_be_understood(judge_flag: str) -> None:
    with pytest.raises(UsageError, match="--judge"):
        find_judges([judge_flag], options(base_url="http://b.test/v1"))


def test_two_judges_of_one_name_are_distinguished() -> None:
    found = find_judges(["m@http://a.test/v1", "m@http://b.test/v1"], options())
    assert [judge.name for judge in found if not isinstance(judge, str)] == ["m@http://a.test/v1", "m@http://b.test/v1"]


@pytest.mark.parametrize(
    "requests", [["m", "m,input=1,output=2"], ["m@http://b.test/v1/", "m@http://b.test/v1,input=1,output=2"]]
)
def test_a_judge_that_is_named_twice_is_refused(requests: list[str]) -> None:
    given = options(base_url="http://a.test/v1")
    with pytest.raises(UsageError, match=r"m@http://.\.test/v1 is to judge twice"):
        find_judges(requests, given)
    with pytest.raises(UsageError, match="judge twice"):
        find_judges(["m,input=1,output=2", "rubric"], options(base_url="http://a.test/v1", model="m"))
    assert len(find_judges(["m", "m", "rubric"], given)) == 2  # the very same words: no doubt


# Kills


@pytest.mark.slow
def test_a_killed_review_goes_on_where_it_was(root: Path) -> None:
    with FaultyServer(hold=0.3, response=judge) as server:
        command = [sys.executable, str(REPOSITORY / ANALYZE), *QUICK, "--api_base", server.url, "--model", faulty.MODEL]
        command += ["--concurrency", "2", "--only_models", ",".join(MODELS[:2])]
        environment = {**os.environ, "LEAP_ROOT": str(root), "PYTHONPATH": str(REPOSITORY)}
        store = root / "eva_results" / "blind_10" / "verdicts.jsonl"
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 120
            while not (store.is_file() and len(store.read_bytes().splitlines()) >= 5):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
        kept = len(store.read_bytes().splitlines())
        server.reset(faulty.faultless)
        server.hold = 0
        assert analyze(root, server, "--only_models", ",".join(MODELS[:2])).returncode == 0
        assert len(server.seen) == 2 * 2 * SAMPLES - kept
    (message,) = json.loads(newest(root, "blind10_manifest").read_text())["judges"]
    assert len({note["run"]["start"] for note in message["inference"]}) == 2  # what the killed run did is told too
    assert scores_of(root)["final_score"].notna().all()
