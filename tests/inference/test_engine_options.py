"""The evaluation script with another engine than its own: options, results' names, manifests, failures and repair."""

import json
from pathlib import Path

import pytest
from conftest import run_script
from servers import faulty_openai as faulty
from servers.faulty_openai import FaultyServer

EVALUATE = "scripts/evaluation/run_vlm_evaluation.py"


@pytest.mark.parametrize(
    "line",
    [
        "--engine openai --checkpoint models/tiny",
        "--engine openai --device cpu",
        "--engine hf --base_url http://127.0.0.1:1/v1",
        "--engine hf --vllm_python python",
        "--engine vllm --quantization 4bit",
        "--engine vllm --trust_remote_code",
        "--engine hf --workers -1",
        "--engine vllm --workers 0",
        "--batch_mode --engine openai",
        "--dimension baseline --engine openai",
        "--engine openai --base_url nonsense",
    ],
)
def test_an_option_that_an_engine_does_not_heed_is_wrong_usage(workspace: Path, line: str) -> None:
    done = run_script(EVALUATE, *line.split(), root=workspace)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_no_server_and_no_vllm_end_in_one_line(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEAP_VLLM_PYTHON", raising=False)
    for line, named in (
        ("--engine openai --base_url http://127.0.0.1:9/v1 --model m", "no server"),
        ("--engine vllm --checkpoint models/tiny --model_name m --vllm_python python3", "vLLM"),
    ):
        done = run_script(EVALUATE, *line.split(), "--dimension", "semantic", root=workspace)
        assert done.returncode == 1
        assert named in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_servers_failure_is_no_score_and_the_next_run_repairs_it(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", faulty.KEY)
    results = tmp_path / "results"
    options = f"--engine openai --dimension semantic spatial --output_dir {results} --input_price 1 --output_price 2"
    with FaultyServer(lambda seen: faulty.BAD_REQUEST if seen.number == 0 else None) as server:
        command = [*options.split(), "--base_url", server.url]
        failed = run_script(EVALUATE, *command, root=workspace)
        assert failed.returncode == 1
        assert "INCOMPLETE" in failed.stdout
        manifests = [json.loads(path.read_text()) for path in sorted(results.glob("*/tiny/manifest.json"))]
        assert sorted(manifest["counts"]["inference_error"] for manifest in manifests) == [0, 1]
        assert sum(manifest["counts"]["scored"] for manifest in manifests) == 3
        asked = len(server.seen)
        repaired = run_script(EVALUATE, *command, root=workspace)
        assert repaired.returncode == 0, repaired.stderr
        assert len(server.seen) == asked + 1
    for path in results.glob("*/tiny/manifest.json"):
        manifest = json.loads(path.read_text())
        assert manifest["status"] == "complete"
        assert manifest["model"] == {"name": "tiny", "weights": None, "endpoint": f"{server.url} tiny"}
        assert manifest["settings"]["engine"] == "openai"
        assert manifest["inference"][-1]["server_model"] == "tiny"
        usage = manifest["usage"]
        assert usage["answers_without_usage"] == 0
        assert usage["cost_usd"] == pytest.approx((usage["prompt_tokens"] + 2 * usage["new_tokens"]) / 1e6)
        assert faulty.KEY not in path.read_text()


def test_a_refusal_a_filter_and_an_empty_answer_score_zero_and_are_counted_apart(
    workspace: Path, tmp_path: Path
) -> None:
    """As upstream has it: they stay in the mean, and no run asks them again."""
    endings = [faulty.REFUSAL, faulty.FILTER_ERRORS[0], faulty.BLANK, faulty.FILTERED]
    command = ["--engine", "openai", "--dimension", "semantic", "spatial", "--output_dir", str(tmp_path)]
    with FaultyServer(lambda seen: endings[seen.number] if seen.number < 4 else None) as server:
        command += ["--base_url", server.url, "--concurrency", "1"]
        done = run_script(EVALUATE, *command, root=workspace)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(server.seen) == 4
        for kind in ("refused", "filtered", "empty"):
            assert kind in done.stdout
        assert run_script(EVALUATE, *command, root=workspace).returncode == 0
        assert len(server.seen) == 4
    folders = sorted(tmp_path.glob("*/tiny"))
    totals = [
        scores["total_score"]
        for folder in folders
        for task in json.loads((folder / "final_score.json").read_text()).values()
        for scores in task.values()
    ]
    assert totals == [0, 0, 0, 0]
    counts = [json.loads((folder / "manifest.json").read_text())["counts"] for folder in folders]
    apart = [(found["refused"], found["filtered"], found["empty"], found["format_error"]) for found in counts]
    assert apart == [(1, 1, 0, 0), (0, 1, 1, 0)]
    assert [found["scored"] for found in counts] == [2, 2]
    assert (
        "- tiny: 1 refused, 2 filtered, 1 empty answers, which hold no plan and score 0."
        in (tmp_path / "summary.md").read_text()
    )
    monitored = run_script("scripts/utils/monitor_evaluation.py", "--once", "--json", "--results", str(tmp_path))
    seen = json.loads(monitored.stdout)["evaluations"]
    assert [(one["done"], one["refused"], one["filtered"], one["empty"]) for one in seen] == [
        (2, 1, 1, 0),
        (2, 0, 1, 1),
    ]
    rescored = run_script(
        "scripts/evaluation/score_predictions.py", str(tmp_path), "--parse", "lenient", root=workspace
    )
    assert rescored.returncode == 0, rescored.stderr
    assert "filtered" in rescored.stdout


def test_one_odd_record_of_predictions_ends_no_evaluation(workspace: Path, tmp_path: Path) -> None:
    """It is passed over with a warning, its example is asked again, and the line is kept apart."""
    with FaultyServer() as server:
        command = f"--engine openai --base_url {server.url} --dimension semantic --output_dir {tmp_path}".split()
        assert run_script(EVALUATE, *command, root=workspace).returncode == 0
        (folder,) = tmp_path.glob("*/tiny")
        whole = (folder / "predictions.jsonl").read_bytes()
        scores = (folder / "final_score.json").read_bytes()
        first, *others = whole.splitlines(keepends=True)
        odd = first.replace(b'"text":"', b'"text":"\\ud800')
        strange = first.replace(b'"text":"', b'"text":7,"words":"')
        asked = len(server.seen)
        for line, again in ((odd, 0), (strange, 1)):
            (folder / "predictions.jsonl").write_bytes(line + b"".join(others))
            done = run_script(EVALUATE, *command, root=workspace)
            assert done.returncode == 0, done.stderr
            assert len(server.seen) == asked + again
            assert ("1 unreadable records are passed over (line 1: text: " in done.stderr) is bool(again)
    assert (folder / "predictions.jsonl").read_bytes() == whole
    assert (folder / "predictions.unreadable.jsonl").read_bytes() == strange
    assert (folder / "final_score.json").read_bytes() == scores


def test_another_engines_answers_are_not_mixed_in(workspace: Path, tmp_path: Path) -> None:
    options = f"--checkpoint models/tiny --model_name m --dimension semantic --output_dir {tmp_path} --num_episodes 1"
    small = "--image_tokens_min 4 --image_tokens_max 9 --max_new_tokens 3"
    assert run_script(EVALUATE, *options.split(), *small.split(), root=workspace).returncode == 0
    refused = run_script(EVALUATE, *options.split(), *small.split(), "--engine", "vllm", root=workspace)
    assert refused.returncode == 1
    assert "engine (hf there, vllm now)" in refused.stderr


@pytest.mark.parametrize("first", [["--vllm_args", "--quantization fp8"], []])
def test_a_servers_own_flags_are_part_of_how_answers_were_made(
    workspace: Path, tmp_path: Path, first: list[str]
) -> None:
    """No server starts, but the first call has noted already how its answers are to be made."""
    options = (
        f"--engine vllm --vllm_python {tmp_path}/none --checkpoint models/tiny --dimension semantic "
        f"--output_dir {tmp_path}/results"
    )
    other = [] if first else ["--vllm_args", "--dtype half"]
    assert run_script(EVALUATE, *options.split(), *first, root=workspace).returncode == 1
    (manifest,) = (json.loads(path.read_text()) for path in tmp_path.rglob("manifest.json"))
    assert manifest["settings"].get("engine_arguments", []) == "".join(first[1:]).split()
    again = run_script(EVALUATE, *options.split(), *first, root=workspace)
    assert "cannot be run as vLLM's Python" in again.stderr
    refused = run_script(EVALUATE, *options.split(), *other, root=workspace)
    there, now = ("['--quantization', 'fp8']", None) if first else (None, "['--dtype', 'half']")
    assert f"engine_arguments ({there} there, {now} now)" in refused.stderr
