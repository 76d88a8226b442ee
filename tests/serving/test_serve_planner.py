"""A planner as a service: a real process with a small model that has learned two plans, asked as strangers may ask."""

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import openai
import pytest
import torch
from conftest import REPOSITORY, TINY_RECIPE, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from servers.local import Handler, LocalServer
from servers.stand_in_vllm import make_interpreter

from leap.data.image import ImageSize
from leap.inference.hf import HfEngine
from leap.inference.protocol import Decoding, Request
from leap.inference.vllm_server import INTERPRETER, find_interpreter
from leap.records.benchmark import BenchmarkExample
from leap.records.training import ImagePart, Message, TextPart
from leap.serving.page import LABELS
from leap.serving.sent_images import MOST_PIXELS
from leap.supervise import descendants
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import find_examples
from leap.vlabench.parsing import parse_plan
from leap.vlabench.prompts import fenced_plan, leap_instructions, request_parts

pytest.importorskip("python_multipart", reason="the extra 'serve' is not installed")
pytestmark = pytest.mark.slow
SCRIPT = "scripts/evaluation/serve_planner.py"
SIZE = "--image_tokens_min 4 --image_tokens_max 9".split()
QUICK = [*SIZE, "--prompt", "leap", "--device", "cpu", "--max_new_tokens", "48"]
ADDRESS = re.compile(r"(\S+) at http://127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class Served:
    """A running service."""

    process: subprocess.Popen
    model: str
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """(status, JSON, headers)."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, json.loads(response.read()), dict(response.getheaders())
        finally:
            connection.close()

    def post(self, path: str, value: Any, **headers: str) -> tuple[int, Any]:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.ask("POST", path, body, {"Content-Type": "application/json", **headers})[:2]


@contextmanager
def serving(root: Path, log: Path, *flags: str, **environment: str) -> Iterator[Served]:
    mine = QUICK if "openai" not in flags else [*SIZE, "--prompt", "leap", "--max_new_tokens", "48"]
    command = [sys.executable, str(REPOSITORY / SCRIPT), *mine, "--port", "0", *flags]
    inherited = {name: value for name, value in os.environ.items() if name != INTERPRETER}
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd="/", env={**inherited, "LEAP_ROOT": str(root), **environment}, stdout=file, stderr=file
        )
    try:
        found = None
        while not (found := ADDRESS.search(log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        served = Served(process, found[1], int(found[2]), log)
        while not is_healthy(served):
            assert process.poll() is None, log.read_text()
        yield served
    finally:
        process.terminate()
        process.wait(30)


def is_healthy(served: Served) -> bool:
    try:
        return served.ask("GET", "/health")[0] == 200
    except ConnectionError:
        time.sleep(0.05)
        return False


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """So small a model is slower on several, by far where cores are shared. Servers that are started have it too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scenes(workspace: Path) -> list[BenchmarkExample]:
    """Two with different plans."""
    data = workspace / "dataset" / "vlm_evaluation_v1.0"
    first, *others = [example for dimension in DIMENSIONS for example in find_examples(data, dimension)]
    return [first, next(other for other in others if other.skill_sequence != first.skill_sequence)]


@pytest.fixture(scope="module")
def planner(workspace: Path, scenes: list[BenchmarkExample]) -> Path:
    """The tiny model, overfitted to the two scenes' plans: it must tell them apart by their instructions."""
    lines = []
    for scene in scenes:
        parts = request_parts(leap_instructions().text, (scene.image, scene.numbered_image), scene.instruction)
        content = [part.model_dump() for part in parts]
        target = {"steps": fenced_plan(scene.skill_sequence)}
        lines.append(json.dumps({"messages": [{"role": "user", "content": content}], "target": target}))
    (workspace / "data" / "two_plans.jsonl").write_text("\n".join(lines) + "\n")
    flags = "--max_steps 40 --save_steps 40 --warmup_steps 5 --learning_rate 3e-3 --per_device_train_batch_size 2"
    words = [*flags.split(), *SIZE, "--train_file", "data/two_plans.jsonl", "--output_dir", "output"]
    done = run_script("scripts/training/run-finetuning.py", "--recipe", TINY_RECIPE, *words, root=workspace)
    assert done.returncode == 0, done.stderr
    return workspace / "output" / "checkpoint-40"


@pytest.fixture(scope="module")
def served(workspace: Path, planner: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(
        workspace, tmp_path_factory.mktemp("served") / "log", "--checkpoint", str(planner), "--no_page"
    ) as running:
        yield running


def uri(image: Path | bytes) -> str:
    content = image if isinstance(image, bytes) else image.read_bytes()
    return "data:image/png;base64," + base64.b64encode(content).decode()


def asked_as_json(scene: BenchmarkExample, **others: Any) -> dict[str, Any]:
    images = {"image": uri(scene.image), "numbered_image": uri(scene.numbered_image)}
    return {"instruction": scene.instruction, **images, **others}


def form(**fields: str | Path) -> tuple[bytes, dict[str, str]]:
    """A multipart body; paths are files."""
    pieces = []
    for name, value in fields.items():
        is_file = isinstance(value, Path)
        file = f'; filename="{value.name}"\r\nContent-Type: image/png' if isinstance(value, Path) else ""
        content = value.read_bytes() if isinstance(value, Path) else value.encode()
        assert is_file == bool(file)
        pieces.append(f'--edge\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content)
    return b"\r\n".join([*pieces, b"--edge--\r\n"]), {"Content-Type": "multipart/form-data; boundary=edge"}


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.new(mode, (width, height)).save(content, "PNG")
    return content.getvalue()


# --- plans


def test_a_plan_is_the_references_and_plan_ones(
    workspace: Path, planner: Path, served: Served, scenes: list[BenchmarkExample]
) -> None:
    for scene in scenes:
        status, plan = served.post("/plan", asked_as_json(scene))
        assert status == 200, plan
        assert plan["steps"] == scene.skill_sequence
        assert plan["repairs"] == []
        assert plan["model"] == served.model == "checkpoint-40"
        assert plan["image_tokens"] == [4, 9]
        sha256 = leap_instructions().sha256
        assert plan["prompt"] == {"source": "leap", "language": "en", "sha256": sha256}
        files = ["--image", str(scene.image), "--numbered_image", str(scene.numbered_image)]
        words = ["--checkpoint", str(planner), *files, "--instruction", scene.instruction, *QUICK]
        printed = run_script("scripts/evaluation/plan_one.py", *words, root=workspace)
        assert printed.stdout.rstrip("\n") == plan["response"]
        assert parse_plan(printed.stdout).plan == plan["steps"]


def test_a_form_with_files_says_the_same_as_json(served: Served, scenes: list[BenchmarkExample]) -> None:
    scene = scenes[0]
    body, headers = form(instruction=scene.instruction, image=scene.image, numbered_image=scene.numbered_image)
    assert served.ask("POST", "/plan", body, headers)[:2] == served.post("/plan", asked_as_json(scene))
    body, headers = form(instruction=scene.instruction, image=scene.image)
    alone = {"instruction": scene.instruction, "image": uri(scene.image)}
    assert served.ask("POST", "/plan", body, headers)[:2] == served.post("/plan", alone)


def test_its_description_names_every_address_and_field(served: Served) -> None:
    _, described, _ = served.ask("GET", "/openapi.json")
    assert described["paths"].keys() == {"/plan", "/v1/chat/completions", "/v1/models", "/health"}
    plan = described["paths"]["/plan"]["post"]
    assert plan["responses"].keys() >= {"200", "400", "401", "413", "422", "429", "504"}
    assert plan["requestBody"]["content"].keys() == {"application/json", "multipart/form-data"}


# --- OpenAI's protocol


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(scene: BenchmarkExample) -> list[Any]:
    """A conversation about a scene's image."""
    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": uri(scene.image)}}]
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]


def test_openais_client_is_answered_as_the_engine_answers(
    client: openai.OpenAI, planner: Path, scenes: list[BenchmarkExample]
) -> None:
    (model,) = client.models.list().data
    assert model.id == "checkpoint-40"
    engine = HfEngine(planner, ImageSize(4, 9), workers=0)
    for scene in scenes:
        image = ImagePart(type="image", image=str(scene.image))
        turns = (
            Message(role="system", content=[TextPart(type="text", text="Be brief.")]),
            Message(role="user", content=[TextPart(type="text", text="Look:"), image]),
        )
        (expected,) = engine.responses([Request((), turns, (scene.image,))], Decoding(20))
        found = client.chat.completions.create(model=model.id, messages=chat(scene), temperature=0, max_tokens=20)
        (choice,) = found.choices
        assert (choice.message.content, choice.finish_reason) == (expected.text, expected.finish)
        assert found.usage
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (
            expected.prompt_tokens,
            expected.new_tokens,
        )


def test_a_seed_draws_the_same_response_in_any_company(client: openai.OpenAI, scenes: list[BenchmarkExample]) -> None:
    def draw(seed: int) -> str | None:
        found = client.chat.completions.create(
            model="checkpoint-40", messages=chat(scenes[0]), temperature=2, seed=seed, max_tokens=12
        )
        return found.choices[0].message.content

    alone = [draw(seed) for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(draw, [0, 1, 2, 3] * 2))
    assert together == alone * 2
    assert len(set(alone)) > 1


CANNOT = {
    "stream": True,
    "n": 2,
    "stop": ["```"],
    "logprobs": True,
    "response_format": {"type": "json_object"},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "frequency_penalty": 0.5,
    "top_k": 5,
    "max_tokens": 10**9,
    "temperature": -1,
    "unheard_of": 1,
}


@pytest.mark.parametrize("field", CANNOT)
def test_what_cannot_be_honoured_is_refused_by_its_name(
    client: openai.OpenAI, scenes: list[BenchmarkExample], field: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="checkpoint-40", messages=chat(scenes[0]), extra_body={field: CANNOT[field]}
        )
    assert refused.value.param == field
    assert field in str(refused.value)


def test_another_model_is_not_found(client: openai.OpenAI, scenes: list[BenchmarkExample]) -> None:
    with pytest.raises(openai.NotFoundError, match="only checkpoint-40 is served here"):
        client.chat.completions.create(model="gpt-4o", messages=chat(scenes[0]))


def test_what_says_nothing_is_taken(client: openai.OpenAI, scenes: list[BenchmarkExample]) -> None:
    nothing = {"n": 1, "stream": False, "stop": None, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "top_k": -1}
    client.chat.completions.create(
        model="checkpoint-40",
        messages=chat(scenes[0]),
        max_tokens=2,
        response_format={"type": "text"},
        extra_body=nothing,
    )


# --- hostile


class _Trap(Handler):
    def do_GET(self) -> None:
        self.owner.visits.append(self.path)
        self.send_response(404)
        self.end_headers()


@pytest.mark.parametrize("address", ["http", "file", "ftp", "//"])
def test_no_address_is_fetched(served: Served, scenes: list[BenchmarkExample], address: str) -> None:
    with LocalServer(_Trap) as trap:
        trap.visits = []  # type: ignore[attr-defined]
        target = {
            "http": f"{trap.address}/a.png",
            "file": scenes[0].image.as_uri(),
            "ftp": "ftp://127.0.0.1/a.png",
            "//": f"//127.0.0.1:{trap.port}/a.png",
        }[address]
        messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": target}}]}]
        for path, body in (
            ("/v1/chat/completions", {"model": served.model, "messages": messages}),
            ("/plan", {"instruction": "Lift it.", "image": target}),
        ):
            status, answer = served.post(path, body)
            assert status == 400
            assert "nothing is fetched" in answer["error"]["message"]
        assert trap.visits == []  # type: ignore[attr-defined]


SMALL_PNG = png(64, 64)
BAD_PLANS: list[tuple[Any, str, str]] = [
    ({"image": uri(SMALL_PNG)}, "instruction", "Field required"),
    ({"instruction": "", "image": uri(SMALL_PNG)}, "instruction", "instruction"),
    ({"instruction": " \n", "image": uri(SMALL_PNG)}, "instruction", "instruction"),
    ({"instruction": "a" * 4001, "image": uri(SMALL_PNG)}, "instruction", "4000"),
    ({"instruction": 3, "image": uri(SMALL_PNG)}, "instruction", "string"),
    ({"instruction": "Lift it."}, "image", "Field required"),
    ({"instruction": "Lift it.", "image": None}, "image", "string"),
    ({"instruction": "Lift it.", "image": uri(b"")}, "image", "cannot be decoded"),
    ({"instruction": "Lift it.", "image": uri(b"%!PS-Adobe-3.0 EPSF-3.0\n")}, "image", "send it as PNG"),
    ({"instruction": "Lift it.", "image": uri(SMALL_PNG[:-30])}, "image", "cannot be decoded"),
    ({"instruction": "Lift it.", "image": "data:image/png;base64,!!!"}, "image", "base64"),
    ({"instruction": "Lift it.", "image": uri(png(10_000, 10_000, "1"))}, "image", f"{MOST_PIXELS:,}"),
    ({"instruction": "Lift it.", "image": uri(png(20_000, 20_000, "1"))}, "image", "cannot be decoded"),
    ({"instruction": "Lift it.", "image": uri(png(1000, 2))}, "image", "too narrow"),
    ({"instruction": "Lift it.", "image": uri(SMALL_PNG), "numbered_image": uri(b"x")}, "numbered_image", "decoded"),
    ({"instruction": "Lift it.", "image": uri(SMALL_PNG), "temperature": 1}, "temperature", "not permitted"),
]


@pytest.mark.parametrize(("body", "field", "said"), BAD_PLANS)
def test_a_bad_request_for_a_plan_is_refused_with_its_field(served: Served, body: Any, field: str, said: str) -> None:
    status, answer = served.post("/plan", body)
    assert (status, answer["error"]["param"]) == (400, field)
    assert said in answer["error"]["message"]
    assert len(answer["error"]["message"].splitlines()) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a": "\\ud800"}', b"[" * 100_000, b'{"a": ' * 500, b"9" * 10_000],
)
@pytest.mark.parametrize("path", ["/plan", "/v1/chat/completions"])
def test_what_is_no_json_object_is_refused(served: Served, path: str, body: bytes) -> None:
    status, answer = served.post(path, body)
    assert status == 400
    assert "JSON" in answer["error"]["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"instruction": "Lift it."},
        {"instruction": "Lift it.", "image": "no file"},
        {"instruction": " ", "image": REPOSITORY / "docs" / "images" / "report.jpg"},
        {"instruction": "Lift it.", "image": REPOSITORY / "LICENSE"},
        {"instruction": "Lift it.", "image": REPOSITORY / "LICENSE", "other": "x"},
    ],
)
def test_a_bad_form_is_refused(served: Served, fields: dict[str, Any]) -> None:
    body, headers = form(**fields)
    for sent in (body, body[:-20]):
        status, answer, _ = served.ask("POST", "/plan", sent, headers)
        assert status == 400
        assert answer["error"]["message"]


def test_a_body_that_is_too_large_is_refused_in_words(served: Served) -> None:
    """Its sender reads them although all was not read; with a length, and without one."""
    headers = {"Content-Type": "application/json"}
    status, answer, _ = served.ask("POST", "/plan", b"x" * 50_000_000, headers)
    assert status == 413
    assert "33,554,432 bytes" in answer["error"]["message"]
    pieces = (b"x" * 1_000_000 for _ in range(50))
    connection = HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request("POST", "/plan", pieces, headers, encode_chunked=True)  # type: ignore[arg-type]
    assert connection.getresponse().status == 413
    connection.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ["model", "messages", "max_tokens", "temperature", "top_p", "seed", "n", "stream", "stop", "top_k"]
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "video_url"])}, optional={"text": JSON, "image_url": JSON}
)
TURNS = st.lists(
    st.fixed_dictionaries({"role": JSON | st.just("user"), "content": JSON | st.lists(PARTS)}) | JSON, max_size=3
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON), TURNS)
def test_no_chat_breaks_it(served: Served, others: dict[str, Any], turns: list[Any]) -> None:
    body = {**others, "model": served.model, "messages": turns, "max_tokens": others.get("max_tokens", 1)}
    status, answer = served.post("/v1/chat/completions", body)
    assert status in (200, 400), answer
    assert served.ask("GET", "/health")[0] == 200


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["instruction", "image", "numbered_image", "x"]), JSON))
def test_no_request_for_a_plan_breaks_it(served: Served, body: dict[str, Any]) -> None:
    assert served.post("/plan", body)[0] == 400


def test_other_addresses_methods_and_hosts_are_refused_in_one_form(served: Served) -> None:
    assert served.ask("GET", "/nowhere")[0] == 404
    status, answer, _ = served.ask("GET", "/plan")
    assert (status, answer["error"]["type"]) == (405, "invalid_request_error")
    connection = HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request("GET", "/v1/models", headers={"Host": "evil.example"})  # a name that was pointed at this machine
    assert connection.getresponse().status == 400
    connection.close()


# --- many at once


def test_twenty_clients_at_once_lose_nothing(served: Served, scenes: list[BenchmarkExample]) -> None:
    expected = [served.post("/plan", asked_as_json(scene)) for scene in scenes]
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda index: served.post("/plan", asked_as_json(scenes[index % 2])), range(40)))
    assert [(status, plan["steps"]) for status, plan in found] == [
        (status, plan["steps"]) for status, plan in expected
    ] * 20


def test_clients_that_go_away_hold_nobody_up(served: Served, scenes: list[BenchmarkExample]) -> None:
    body = json.dumps(asked_as_json(scenes[0])).encode()
    fields = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    head = f"POST /plan HTTP/1.1\r\n{fields}\r\n\r\n"
    for sent in (body, body[: len(body) // 2]) * 70:  # more than there are places
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(head.encode() + sent)
    for _ in range(100):
        status, _ = served.post("/plan", asked_as_json(scenes[0]))
        if status == 200:
            return
        assert status == 429
        time.sleep(0.1)
    pytest.fail("places are still taken by clients that have gone")


# --- a full queue, a key, a model that does not plan, and the end


@contextmanager
def untrained(workspace: Path, folder: Path, *flags: str) -> Iterator[Served]:
    """It writes until it is cut off."""
    words = ["--checkpoint", "models/tiny", "--max_new_tokens", "400", "--no_page", *flags]
    with serving(workspace, folder / "log", *words) as running:
        yield running


def test_a_full_queue_a_key_and_a_response_that_is_no_plan(
    workspace: Path, tmp_path: Path, scenes: list[BenchmarkExample]
) -> None:
    with untrained(workspace, tmp_path, "--max_queue", "3", "--api_key", "a-key-to-come-in") as served:
        assert served.post("/plan", {})[0] == 401
        assert served.ask("GET", "/v1/models", headers={"Authorization": "Bearer another"})[0] == 401
        key = {"Authorization": "Bearer a-key-to-come-in", "Content-Type": "application/json"}
        assert served.ask("GET", "/v1/models", headers=key)[0] == 200
        body = json.dumps(asked_as_json(scenes[0])).encode()
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda _: served.ask("POST", "/plan", body, key), range(12)))
        statuses = [status for status, _, _ in found]
        assert set(statuses) == {422, 429}
        for status, answer, headers in found:
            if status == 429:
                assert headers["retry-after"] == "1"
            else:
                assert answer["response"]
                assert "cut off after 400 tokens" in answer["error"]["message"]
        assert "a-key-to-come-in" not in served.log.read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_the_middle_of_a_response(
    workspace: Path, tmp_path: Path, scenes: list[BenchmarkExample], number: signal.Signals, code: int
) -> None:
    with untrained(workspace, tmp_path, "--max_new_tokens", "3000") as served, ThreadPoolExecutor() as pool:
        asked = pool.submit(served.post, "/plan", asked_as_json(scenes[0]))
        time.sleep(1)
        assert descendants(served.process.pid) == []
        served.process.send_signal(number)
        assert served.process.wait(30) == code
        assert asked.result(30)[0] in (422, 503)  # it has some seconds to come to its end
    text = served.log.read_text()
    assert text.splitlines()[-1] == f"stopped by {number.name}"
    assert "Traceback" not in text


def test_a_taken_port_is_said_before_a_model_is_loaded(workspace: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_script(SCRIPT, *QUICK, "--checkpoint", "models/tiny", "--port", port, root=workspace)
    assert done.returncode == 1
    assert f"127.0.0.1:{port} cannot be served at (Address already in use)" in done.stderr


# --- a server behind it


def test_a_vllm_server_behind_it_is_asked_and_ended(
    workspace: Path, tmp_path: Path, scenes: list[BenchmarkExample]
) -> None:
    """A stand-in for vLLM; the real one is asked in the slow tests."""
    python = make_interpreter(tmp_path / "env")
    with serving(
        workspace, tmp_path / "log", "--checkpoint", "models/tiny", "--no_page", "--vllm_python", python
    ) as served:
        (supervisor, *_) = descendants(served.process.pid)
        body = {"model": served.model, "messages": chat(scenes[0]), "stop": ["whatever vLLM takes"]}
        status, answer = served.post("/v1/chat/completions", body)
        assert (status, answer["choices"][0]["message"]["content"]) == (200, "1 images")
        status, answer = served.post("/plan", asked_as_json(scenes[0]))
        assert (status, answer["response"]) == (422, "2 images")
        many = [{"type": "image_url", "image_url": {"url": uri(SMALL_PNG)}}] * 17
        status, answer = served.post("/v1/chat/completions", {**body, "messages": [{"role": "user", "content": many}]})
        assert (status, answer["error"]["message"]) == (400, "messages: 17 images; send at most 16")
        for part in (
            {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}},
            {"image_url": "http://127.0.0.1/a.png"},
            {"type": "video_url", "video_url": {"url": "http://127.0.0.1/a.mp4"}},
        ):
            assert (
                served.post("/v1/chat/completions", {**body, "messages": [{"role": "user", "content": [part]}]})[0]
                == 400
            )
        lifted = {**body, "mm_processor_kwargs": {"size": {"longest_edge": 10**9}}}
        assert served.post("/v1/chat/completions", lifted)[0] == 400
        below = descendants(served.process.pid)
        assert supervisor in below
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(60) == 143
    assert not any(Path(f"/proc/{identity}").exists() for identity, _ in below)


def test_a_server_that_runs_already_is_asked_for_plans(
    workspace: Path, tmp_path: Path, served: Served, scenes: list[BenchmarkExample]
) -> None:
    """It refuses to be held to a schema, as some do, and is asked without."""
    flags = ["--engine", "openai", "--base_url", f"{served.url}/v1", "--no_page"]
    with serving(workspace, tmp_path / "log", *flags) as before:
        assert before.model == served.model
        assert before.post("/plan", asked_as_json(scenes[0])) == served.post("/plan", asked_as_json(scenes[0]))
        body = {"model": served.model, "messages": chat(scenes[0]), "temperature": 0, "max_tokens": 20}
        found, expected = (server.post("/v1/chat/completions", body)[1]["choices"] for server in (before, served))
        assert found == expected
        assert before.post("/v1/chat/completions", {**body, "n": 2})[1]["error"]["param"] == "n"


class _Silent(Handler):
    def do_GET(self) -> None:
        body = b'{"data": [{"id": "silent"}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.owner.asked.set()
        self.owner.ended.wait()


def test_a_server_that_never_answers_holds_up_no_end(
    workspace: Path, tmp_path: Path, scenes: list[BenchmarkExample]
) -> None:
    with LocalServer(_Silent) as silent, ThreadPoolExecutor() as pool:
        silent.asked = threading.Event()  # type: ignore[attr-defined]
        flags = ["--engine", "openai", "--base_url", f"{silent.address}/v1", "--no_page", "--request_timeout", "600"]
        with serving(workspace, tmp_path / "log", *flags) as before:
            asked = pool.submit(before.post, "/plan", asked_as_json(scenes[0]))
            silent.asked.wait()  # type: ignore[attr-defined]
            before.process.send_signal(signal.SIGTERM)
            assert before.process.wait(30) == 143
            assert asked.result(30)[0] == 503


def test_a_vllm_server_that_ends_ends_the_service(workspace: Path, tmp_path: Path) -> None:
    python = make_interpreter(tmp_path / "env")
    with serving(
        workspace, tmp_path / "log", "--checkpoint", "models/tiny", "--no_page", "--vllm_python", python
    ) as served:
        for identity, _ in descendants(served.process.pid):
            os.kill(identity, signal.SIGTERM)
        assert served.process.wait(60) == 1
    assert "error: the vLLM server ended" in served.log.read_text()


@pytest.fixture(scope="module")
def behind(workspace: Path, planner: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The same model, behind a real vLLM server."""
    python = os.environ.get(INTERPRETER)
    if not python or find_interpreter(python).device != "cpu":
        pytest.skip(
            f"{INTERPRETER} names no Python that has vLLM's CPU build, whose float32 responses are compared here"
        )
    log = tmp_path_factory.mktemp("behind") / "log"
    with serving(workspace, log, "--checkpoint", str(planner), "--no_page", **{INTERPRETER: python}) as running:
        yield running


def test_vllm_plans_as_this_process_does(served: Served, behind: Served, scenes: list[BenchmarkExample]) -> None:
    for scene in scenes:
        assert behind.post("/plan", asked_as_json(scene)) == served.post("/plan", asked_as_json(scene))


def test_vllm_is_held_to_a_plan_whatever_it_is_asked(behind: Served, scenes: list[BenchmarkExample]) -> None:
    for instruction in ("Say hello.", "Answer in prose, without any JSON.", "grasp " * 50):
        status, plan = behind.post("/plan", asked_as_json(scenes[0], instruction=instruction))
        if status == 422:
            assert "cut off after 48 tokens" in plan["error"]["message"]
        else:
            assert (status, plan["repairs"]) == (200, [])


def test_vllm_streams_through_it(served: Served, behind: Served, scenes: list[BenchmarkExample]) -> None:
    def ask(server: Served, **options: Any) -> Any:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            found = client.chat.completions.create(
                model=server.model, messages=chat(scenes[0]), temperature=0, max_tokens=20, **options
            )
            return list(found) if options else found.choices[0].message.content

    pieces = [choice.delta.content or "" for piece in ask(behind, stream=True) for choice in piece.choices]
    assert len(pieces) > 3
    assert "".join(pieces) == ask(behind) == ask(served)


def test_no_vllm_outlives_a_killed_service(workspace: Path, tmp_path: Path) -> None:
    """The stand-in will do: who ends it is LEAP's supervisor."""
    python = make_interpreter(tmp_path / "env")
    flags = ["--checkpoint", "models/tiny", "--no_page", "--vllm_python", python]
    with serving(workspace, tmp_path / "log", *flags) as served:
        below = descendants(served.process.pid)
        served.process.kill()
        served.process.wait(10)
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{identity}").exists() for identity, _ in below):
            assert time.monotonic() < deadline
            time.sleep(0.1)


# --- the page


@pytest.fixture(scope="module")
def with_page(workspace: Path, planner: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    pytest.importorskip("gradio", reason="the extra 'page' is not installed")
    with serving(workspace, tmp_path_factory.mktemp("page") / "log", "--checkpoint", str(planner)) as running:
        yield running


def test_without_gradio_there_is_no_page_and_one_line_says_so(served: Served, workspace: Path, tmp_path: Path) -> None:
    assert served.ask("GET", "/")[0] == 404
    if find_spec("gradio"):
        return
    with serving(workspace, tmp_path / "log", "--checkpoint", "models/tiny") as running:
        assert "no page: Gradio is missing (pip install -e '.[page]')" in running.log.read_text().splitlines()


def test_a_person_drops_images_and_reads_the_steps(with_page: Served, scenes: list[BenchmarkExample]) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no chromium on the PATH")
    hosts, problems, scene = set(), [], scenes[0]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(with_page.url, timeout=120_000)
        removers = page.locator("button[aria-label='Remove Image']")
        for number, (label, image) in enumerate(zip(LABELS, (scene.image, scene.numbered_image), strict=True), 1):
            dropped = page.locator(".block", has=page.locator("label", has_text=label)).locator("input[type=file]")
            dropped.first.set_input_files(image, timeout=120_000)
            playwright.expect(removers).to_have_count(number, timeout=60_000)
        page.get_by_label("Instruction").fill(scene.instruction)
        page.get_by_role("button", name="Plan").click()
        reading = page.get_by_label("Reading")
        playwright.expect(reading).to_have_value("a plan; mended: nothing", timeout=60_000)
        steps = [" ".join([step["name"], *map(str, step["params"].values())]) for step in scene.skill_sequence]
        playwright.expect(page.locator("ol > li")).to_have_text(steps, timeout=60_000)
        page.get_by_label("Instruction").fill(" ")
        page.get_by_role("button", name="Plan").click()
        playwright.expect(page.get_by_text("an image and an instruction are needed")).to_be_visible(timeout=60_000)
        browser.close()
    assert hosts == {f"127.0.0.1:{with_page.port}"}
    assert problems == []
    assert "Traceback" not in with_page.log.read_text()


def test_the_page_fetches_nothing_and_shows_no_files(with_page: Served, model: Path) -> None:
    with LocalServer(_Trap) as trap:
        trap.visits = []  # type: ignore[attr-defined]
        _, config, _ = with_page.ask("GET", "/config")
        image = {"path": f"{trap.address}/a.png", "meta": {"_type": "gradio.FileData"}}
        for event in (one["id"] for one in config["dependencies"]):
            asked = {"data": [image, image, image], "fn_index": event, "session_hash": "a"}
            assert with_page.post("/gradio_api/queue/join", asked)[0] == 200
            with urlopen(f"{with_page.url}/gradio_api/queue/data?session_hash=a", timeout=60) as stream:
                assert "nothing is fetched" in stream.read().decode()
        assert trap.visits == []  # type: ignore[attr-defined]
    for path in ("/etc/hostname", str(model / "config.json"), str(REPOSITORY / "README.md")):
        assert with_page.ask("GET", f"/gradio_api/file={path}")[0] == 403


def test_the_page_asks_for_the_key(workspace: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra 'page' is not installed")
    flags = ["--checkpoint", "models/tiny", "--api_key", "a-key-to-come-in"]
    with serving(workspace, tmp_path / "log", *flags) as served:
        assert served.post("/gradio_api/queue/join", {"data": [], "fn_index": 0, "session_hash": "a"})[0] == 401
        wrong = {"Content-Type": "application/x-www-form-urlencoded"}
        assert served.ask("POST", "/login", b"username=a&password=another", wrong)[0] == 400
        assert served.ask("POST", "/login", b"username=a&password=a-key-to-come-in", wrong)[0] == 200
