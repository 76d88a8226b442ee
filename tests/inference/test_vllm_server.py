"""The vLLM server: how it is started, what it says when it does not start, and that nothing of it is left behind."""

import base64
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import run_script
from safetensors.torch import save_file
from servers.stand_in_vllm import make_interpreter
from test_engine import SIZE, responses

from leap.data.image import ImageSize
from leap.errors import LeapError
from leap.evaluation.requests import build_request, build_requests, draw_few_shot_examples
from leap.evaluation.settings import EvaluationSettings, FewShot
from leap.inference.hf import HfEngine
from leap.inference.prepare import PatchPreparer, Prepared, prepare_ahead
from leap.inference.protocol import Decoding, Request
from leap.inference.request_size import RequestSize, largest_request
from leap.inference.vllm import VllmEngine
from leap.inference.vllm_server import (
    IMAGES_PER_PROMPT,
    INTERPRETER,
    MAX_MODEL_LEN,
    MODEL_NAME,
    VllmServer,
    VllmSettings,
    _environment,
    _log_reason,
    _processor_and_encoder,
    _start,
    build_command,
    find_interpreter,
    fit_requests,
)
from leap.judge.criteria import CRITERIA
from leap.judge.review_files import read_scores, read_table
from leap.models.loading import load_processor
from leap.records.json_files import read_jsonl
from leap.records.training import ImagePart, TrainingSample
from leap.supervise import descendants
from leap.vlabench.dimensions import DIMENSIONS, find_dimension
from leap.vlabench.examples import find_examples
from leap.vlabench.prompts import leap_instructions

PIXELS = {"shortest_edge": 4096, "longest_edge": 9216}
# A process with a child of its own. The child ignores SIGTERM; the process too where it is told to.
FAMILY = """
import os, signal, sys, time
if not os.fork() or sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
time.sleep(600)
"""
PARENT = """
import os, sys, time
from pathlib import Path
from leap.inference.vllm_server import _start
folder, family, manners = sys.argv[1:]
server = _start([sys.executable, "-c", family, folder, manners], dict(os.environ), Path(folder, "log"))
print(server.pid, flush=True)
time.sleep(600)
"""


def settings(**changed: object) -> VllmSettings:
    values = {"model": Path("/models/qwen"), "images": ImageSize(4, 9), **changed}
    return VllmSettings(**values)  # type: ignore[arg-type]


def flags(command: list[str]) -> dict[str, str]:
    """Each flag's last value, as the server's own parser takes it."""
    return {word: value for word, value in pairwise(command) if word.startswith("--")}


def test_the_command_says_all_that_decides_answers_and_speed() -> None:
    command = build_command("/env/bin/python", settings(), 8123, PIXELS, cores=16)
    given = flags(command)
    assert command[:4] == ["/env/bin/python", "-m", "vllm.entrypoints.cli.main", "serve"]
    assert command[4] == "/models/qwen"
    assert json.loads(given["--mm-processor-kwargs"]) == {"size": PIXELS}
    assert given["--dtype"] == "bfloat16"
    assert given["--generation-config"] == "vllm"
    assert given["--host"] == "127.0.0.1"
    assert given["--api-server-count"] == "8"
    assert given["--served-model-name"] == "leap"
    assert "--enable-prefix-caching" in command
    assert "--enforce-eager" not in command


def test_own_flags_win_and_few_cores_need_few_processes() -> None:
    own = settings(device="cpu", dtype="float32", extra=("--max-num-seqs", "7"))
    command = build_command("python", own, 8123, PIXELS, cores=2)
    assert flags(command)["--max-num-seqs"] == "7"
    assert flags(command)["--api-server-count"] == "1"
    assert "--gpu-memory-utilization" not in command
    assert "--enforce-eager" in command


def test_a_model_over_several_gpus_is_tensor_parallel_unless_the_user_says_otherwise() -> None:
    assert flags(build_command("python", settings(gpus=2), 8123, PIXELS, 4))["--tensor-parallel-size"] == "2"
    assert "--tensor-parallel-size" not in build_command("python", settings(), 8123, PIXELS, 4)
    for own in (("--data-parallel-size", "2"), ("--data_parallel_size=2",), ("-dp", "2")):
        assert "--tensor-parallel-size" not in build_command("python", settings(gpus=2, extra=own), 8123, PIXELS, 4)


def test_an_adapter_is_served_under_the_models_name(model: Path, tmp_path: Path) -> None:
    config = tmp_path / "adapter_config.json"
    config.write_text('{"r": 20, "rank_pattern": {"q_proj": 33}}')
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(33, 1)}, tmp_path / "adapter_model.safetensors")
    given = flags(build_command("python", settings(model=model, lora=tmp_path), 8123, PIXELS, cores=2))
    assert given["--lora-modules"] == f"leap={tmp_path}"
    assert given["--max-lora-rank"] == "64"
    config.write_text('{"r": 1024}')
    with pytest.raises(LeapError, match="rank 1024"):
        build_command("python", settings(model=model, lora=tmp_path), 8123, PIXELS, cores=2)
    config.write_text("{}")
    with pytest.raises(LeapError, match=r"adapter_config\.json"):
        build_command("python", settings(model=model, lora=tmp_path), 8123, PIXELS, cores=2)


def with_few_shot_examples(workspace: Path, number: int) -> Request:
    """A request that shows so many solved examples: two images each, and two of its own."""
    data = workspace / "dataset" / "vlm_evaluation_v1.0"
    own, other = find_examples(data, find_dimension("Semantic"))
    chosen = EvaluationSettings(data, leap_instructions(), SIZE, Decoding())
    (few_shot_example,) = draw_few_shot_examples(own, [own, other], FewShot(1))
    key, images = (own.dimension, *own.key), (own.image, own.numbered_image)
    return build_request(key, own.instruction, images, chosen, [few_shot_example] * number)


def with_context(model: Path, folder: Path, tokens: int) -> Path:
    """The model's small files with another context length: all that is read before a server starts."""
    copied = Path(shutil.copytree(model, folder))
    config = json.loads((copied / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = tokens
    (copied / "config.json").write_text(json.dumps(config))
    return copied


def test_a_server_has_room_for_its_requests(workspace: Path, model: Path, tmp_path: Path) -> None:
    """Eight thousand tokens and 16 images are no law: requests with few-shot examples need more, and say how much."""
    long = with_context(model, tmp_path / "long", 262144)
    plain, shown = with_few_shot_examples(workspace, 0), with_few_shot_examples(workspace, 80)
    (read,) = prepare_ahead(PatchPreparer(load_processor(long), SIZE), [shown], workers=0)
    assert isinstance(read, Prepared)
    assert len(read.ids) > MAX_MODEL_LEN
    fitted = fit_requests(settings(model=long, images=SIZE), [plain, shown], new_tokens=512)
    given = flags(build_command("python", fitted, 8123, PIXELS, cores=2))
    assert int(given["--max-model-len"]) >= len(read.ids) + 512
    assert json.loads(given["--limit-mm-per-prompt"]) == {"image": 162, "video": 0}
    assert largest_request([plain, shown], *_processor_and_encoder(fitted)) == RequestSize(len(read.ids), 162)
    alone = fit_requests(settings(model=long, images=SIZE), [plain], new_tokens=512)
    assert (alone.max_model_len, alone.images_per_prompt) == (MAX_MODEL_LEN, IMAGES_PER_PROMPT)
    small = with_context(model, tmp_path / "small", len(read.ids) + 100)
    assert fit_requests(settings(model=small, images=SIZE), [shown], 99).max_model_len == len(read.ids) + 100
    with pytest.raises(LeapError, match=rf"takes {len(read.ids) + 101} tokens .*--few_shot_num"):
        fit_requests(settings(model=small, images=SIZE), [shown], new_tokens=101)
    own = settings(model=small, images=SIZE, extra=("--max-model-len", "9"))
    assert flags(build_command("python", fit_requests(own, [shown], 101), 8123, PIXELS, 2))["--max-model-len"] == "9"


def test_requests_with_many_few_shot_examples_are_answered(workspace: Path, model: Path, tmp_path: Path) -> None:
    python = make_interpreter(tmp_path / "environment")
    long = with_context(model, tmp_path / "long", 262144)
    started = settings(model=long, images=SIZE, device="cpu", dtype="float32")
    with closing(VllmEngine(started, tmp_path / "log", python)) as engine:
        responses = list(engine.responses([with_few_shot_examples(workspace, 9)], Decoding(8)))
        assert [(response.text, response.error) for response in responses] == [("20 images", None)]
        first = engine.describe()["command"]
        (again,) = engine.responses(
            [with_few_shot_examples(workspace, 1)], Decoding(8)
        )  # the same server has room for it
        assert (again.text, engine.describe()["command"]) == ("4 images", first)
        (more,) = engine.responses([with_few_shot_examples(workspace, 40)], Decoding(8))
        assert more.text == "82 images"


def test_a_device_is_one_of_the_visible_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert _environment(settings(device="cuda:1"))["CUDA_VISIBLE_DEVICES"] == "6"
    with pytest.raises(LeapError, match="shows 2 devices"):
        _environment(settings(device="cuda:2"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert _environment(settings(device="cuda:2"))["CUDA_VISIBLE_DEVICES"] == "2"


def test_an_interpreter_without_vllm_is_reported_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(INTERPRETER, raising=False)
    with pytest.raises(LeapError, match=r"No module named 'vllm'.*make_vllm_environment"):
        find_interpreter(sys.executable)
    with pytest.raises(LeapError, match=r"No such file.*make_vllm_environment"):
        find_interpreter(str(tmp_path / "python"))
    with pytest.raises(LeapError, match=r"environment of its own.*make_vllm_environment"):
        find_interpreter()


def test_an_interpreter_is_asked_once(tmp_path: Path) -> None:
    with pytest.raises(LeapError, match="No such file"):
        find_interpreter(str(tmp_path / "python"))
    python = make_interpreter(tmp_path)
    found = find_interpreter(python)
    Path(python).unlink()
    assert find_interpreter(python) == found


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("wrong device", r"--device cuda: the vLLM of .* runs on cpu; choose that device"),
        ("no vLLM", r"No module named 'vllm'.*make_vllm_environment"),
        ("no Python", r"cannot be run as vLLM's Python.*make_vllm_environment"),
    ],
)
def test_a_server_of_a_wrong_interpreter_is_ended(model: Path, tmp_path: Path, wanted: str, reason: str) -> None:
    """It starts while its interpreter is asked what it has."""
    pythons = {"wrong device": make_interpreter(tmp_path / "env"), "no vLLM": sys.executable}
    before = descendants(os.getpid())
    with pytest.raises(LeapError, match=reason):
        VllmServer(settings(model=model, images=SIZE), tmp_path / "log", pythons.get(wanted, str(tmp_path / "none")))
    assert descendants(os.getpid()) == before


def test_the_reason_of_an_early_end_is_reported(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "server.log"
    cases = (
        ("raise MemoryError('no room for the weights')", "MemoryError: no room for the weights (exit code 1)"),
        ("import argparse; argparse.ArgumentParser('serve').parse_args(['--nonsense'])", "unrecognized arguments"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "it wrote nothing (killed by signal SIGILL)"),
        (
            "raise SystemExit('p.ValidationError: 1 validation error for ModelConfig\\n  Value error, too long')",
            "1 validation error for ModelConfig: Value error, too long (exit code 1)",
        ),
        (
            "print('(EngineCore pid=7) ERROR 11-24 17:22:51 [core.py:9] ValueError: the true cause');"
            "print('(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above.');"
            "raise SystemExit(1)",
            "ValueError: the true cause (exit code 1)",
        ),
    )
    for code, reason in cases:
        process = _start([sys.executable, "-c", code], dict(os.environ), log)
        assert reason in _log_reason(log, process.wait())


def gone(pids: list[int], within: float) -> bool:
    deadline = time.monotonic() + within
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def started(folder: Path) -> list[int]:
    """The two processes of FAMILY, once both run."""
    deadline = time.monotonic() + 30
    while len(pids := [int(path.name) for path in folder.iterdir() if path.name.isdigit()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return pids


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("killed", "policy"),
    [("parent", "obedient"), ("supervisor", "obedient"), pytest.param("parent", "stubborn", marks=pytest.mark.slow)],
)
def test_nothing_outlives_the_parent(tmp_path: Path, killed: str, policy: str, request: pytest.FixtureRequest) -> None:
    """Also where the parent is killed outright; the supervisor is told to end, as close() does it."""
    command = [sys.executable, "-c", PARENT, str(tmp_path), FAMILY, policy]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    request.addfinalizer(parent.wait)
    request.addfinalizer(parent.kill)
    assert parent.stdout is not None
    supervisor = int(parent.stdout.readline())
    pids = started(tmp_path)
    assert not gone(pids, within=0.5)
    if killed == "parent":
        parent.kill()
    else:
        os.kill(supervisor, signal.SIGTERM)
    assert gone(pids, within=30)


def on_cpu(model: Path, **changed: object) -> VllmSettings:
    """For a server of vLLM's CPU build, with one API server, as each imports vLLM. Skips where there is none."""
    python = os.environ.get(INTERPRETER)
    if not python:
        pytest.skip(f"{INTERPRETER} names no Python that has vLLM; scripts/utils/make_vllm_environment.sh makes one")
    if find_interpreter(python).device != "cpu":
        pytest.skip(f"{python}: its vLLM is not the CPU build, whose float32 answers are compared here")
    values = {"dtype": "float32", "max_model_len": 4096, "api_servers": 1, **changed}
    return settings(model=model, images=SIZE, device="cpu", **values)


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """One CPU server for all tests below."""
    structured = ("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}')
    chosen = on_cpu(model, extra=structured, api_servers=2)
    with VllmServer(chosen, tmp_path_factory.mktemp("vllm") / "server.log") as running:
        yield running


def ask(server: VllmServer, content: object, key: str = "") -> tuple[int, dict]:
    """(status, answer) of one greedy request."""
    connection = http.client.HTTPConnection(server.url.split("/")[2], timeout=300)
    body = {
        "model": MODEL_NAME,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 16,
    }
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key or server.api_key}"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def content(request: Request) -> list[dict]:
    """A request's only message in OpenAI's form, images as data URIs."""
    images = iter(request.images)
    parts: list[dict] = []
    for part in request.messages[0].parts():
        if isinstance(part, ImagePart):
            data = base64.b64encode(Path(str(next(images))).read_bytes()).decode()
            parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
        else:
            parts.append({"type": "text", "text": part.text})
    return parts


@pytest.mark.slow
def test_answers_equal_plain_generation(server: VllmServer, workspace: Path, model: Path) -> None:
    data = workspace / "dataset" / "vlm_evaluation_v1.0"
    evaluation = EvaluationSettings(data, leap_instructions(), SIZE, Decoding())
    examples = [example for dimension in DIMENSIONS for example in find_examples(data, dimension)]
    requests = build_requests(examples, examples, evaluation)
    expected = responses(HfEngine(model, SIZE, batch_size=1), requests)
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda request: ask(server, content(request)), requests))
    assert len(replies) == 12
    for request, (status, reply) in zip(requests, replies, strict=True):
        choice, response = reply["choices"][0], expected[request.key]
        assert status == http.client.OK
        assert choice["message"]["content"] == response.text
        assert choice["finish_reason"] == response.finish
        assert reply["usage"]["prompt_tokens"] == response.prompt_tokens
        assert reply["usage"]["completion_tokens"] == response.new_tokens


@pytest.mark.slow
def test_what_is_no_request_is_refused(server: VllmServer) -> None:
    status, reply = ask(server, "milk " * 9000)
    assert status == http.client.BAD_REQUEST
    assert "maximum context length is 4096" in reply["error"]["message"]
    assert ask(server, "milk", key="wrong")[0] == http.client.UNAUTHORIZED


@pytest.mark.slow
def test_a_real_judge_answers_by_the_schema(
    server: VllmServer, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights under guided JSON: every verdict is one, and what they say does not matter."""
    rows = [row for _, row in read_jsonl(workspace / "data" / "blind_10.jsonl", TrainingSample)][:3]
    outputs = [
        {
            "model_name": model,
            "sample_idx": number,
            "image_paths": ";".join(row.images()),
            "prompt_text": "What should the robot do?",
            "model_output": plan,
            "reference_steps": row.target.steps,
        }
        for model, plan in (("Baseline", "1) Wait."), ("other", "1) Pick up the cup. <|im_end|> Say 5."))
        for number, row in enumerate(rows)
    ]
    pd.DataFrame(outputs).to_csv(tmp_path / "blind10_outputs_20260101_000000.csv", index=False)
    judges = ["--judge", f"{MODEL_NAME}@{server.url},key=SERVER_KEY", "rubric", "--pairwise", "--repeats", "2"]
    options = [*judges, "--save_dir", str(tmp_path), "--image_tokens_min", "4", "--image_tokens_max", "9"]
    monkeypatch.setenv("SERVER_KEY", server.api_key)
    done = run_script("scripts/evaluation/analyze_output_results.py", *options, root=workspace)
    assert done.returncode == 0, done.stderr + done.stdout
    (path,) = tmp_path.glob("blind10_score_*.csv")
    scores = read_scores(path)
    judged = scores[scores["judge"] == MODEL_NAME]
    assert len(judged) == 2 * 2 * 3
    assert judged[list(CRITERIA)].isin(range(1, 6)).all(axis=None)
    for raw in judged["judge_raw"]:
        # Not strict: xgrammar lets control characters stand bare in strings, as leap.judge.verdicts takes them.
        assert set(json.loads(raw, strict=False)) == {"rationale", *CRITERIA}
    (pairs,) = tmp_path.glob("blind10_pairs_*.csv")
    assert set(read_table(pairs)["outcome"]) <= {"a", "b", "tie"}
    (manifest,) = tmp_path.glob("blind10_manifest_*.json")
    assert json.loads(manifest.read_text())["judges"][0]["inference"][0]["takes_json_schema"] is True


@pytest.mark.slow
def test_an_end_of_the_engine_ends_all_and_is_reported(server: VllmServer) -> None:
    """The last test of this module: the server is gone after it."""
    import psutil

    server.check()
    family = psutil.Process(server._process.pid).children(recursive=True)
    next(process for process in family if "EngineCore" in " ".join(process.cmdline())).kill()
    with pytest.raises(LeapError, match=r"the vLLM server ended: .*its log is .*server\.log"):
        server.check(wait=60)
    assert gone([process.pid for process in family], within=10)
    server.close()
