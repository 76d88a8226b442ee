"""The openai engine against a server that fails in every way, and against a real one that must answer as we do."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from servers import faulty_openai as faulty
from servers.faulty_openai import Fault, FaultyServer, Seen, by_text, completion, response_to

from leap.backoff import retry_after
from leap.data import image_urls
from leap.data.image import BlankImage, ImageSize
from leap.errors import LeapError, UsageError
from leap.evaluation.model_names import served_name
from leap.evaluation.predictions import as_prediction, usage_and_cost
from leap.evaluation.requests import build_requests
from leap.evaluation.score import without_plan
from leap.evaluation.settings import EvaluationSettings
from leap.inference.chat_protocol import chat_messages
from leap.inference.hf import HfEngine
from leap.inference.openai import Endpoint, OpenAiEngine, find_endpoint
from leap.inference.protocol import Decoding, Request, Response
from leap.models.loading import load_processor
from leap.records.benchmark import Prediction
from leap.records.training import Message
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import find_examples
from leap.vlabench.prompts import leap_instructions

SIZE = ImageSize(4, 9)


def asked(count: int, *images: Path | BlankImage) -> list[Request]:
    """Requests "ask 0", "ask 1", … with the same images."""
    shown = [{"type": "image", "image": "p.png"} for _ in images]
    return [
        Request(
            ("task", str(number)),
            (Message(role="user", content=[*shown, {"type": "text", "text": f"ask {number}"}]),),
            images,
        )
        for number in range(count)
    ]


def engine(url: str, **options: object) -> OpenAiEngine:
    quick = {"concurrency": 8, "timeout": 20, "retries": 3, "backoff": 0.01, "api_key": faulty.KEY}
    return OpenAiEngine(Endpoint(url, faulty.MODEL, **{**quick, **options}), SIZE)  # type: ignore[arg-type]


def responses(server: FaultyServer, requests: Sequence[Request], **options: object) -> dict[tuple[str, str], Response]:
    """Each request's one answer."""
    found = list(engine(server.url, **options).responses(requests, Decoding()))
    keys = [response.key for response in found]
    assert sorted(keys) == sorted(request.key for request in requests)
    return {response.key: response for response in found}


def right(request: Request) -> str:
    return response_to({"messages": chat_messages(request, SIZE)})


def assert_right(found: dict[tuple[str, str], Response], requests: Sequence[Request]) -> None:
    assert {key: (response.text, response.error) for key, response in found.items()} == {
        request.key: (right(request), None) for request in requests
    }


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.effect_noise((70, 50), 80).convert("RGB").save(path)
    return path


# Faults and what becomes of them


@pytest.mark.parametrize("fault", [*faulty.PASSING, *faulty.SLOW, *faulty.BAD_BODIES], ids=lambda fault: fault.name)
def test_a_passing_fault_is_asked_again(fault: Fault, image: Path) -> None:
    requests = asked(6, image, BlankImage(image))
    with FaultyServer(by_text({"ask 2": [fault], "ask 4": [fault]})) as server:
        assert_right(responses(server, requests, timeout=1.0 if fault in faulty.SLOW else 20), requests)
        assert server.attempts["ask 2"] >= 2


@pytest.mark.parametrize("fault", faulty.FINAL, ids=lambda fault: fault.name)
def test_a_final_fault_stays_with_its_request(fault: Fault) -> None:
    requests = asked(6)
    with FaultyServer(by_text({"ask 2": [fault]})) as server:
        found = responses(server, requests)
        assert server.attempts["ask 2"] == 1
    failed = found.pop(("task", "2"))
    assert failed.error
    assert failed.text is None
    assert_right(found, requests[:2] + requests[3:])


@pytest.mark.parametrize("fault", [*faulty.REFUSALS, *faulty.EMPTY], ids=lambda fault: fault.name)
def test_refusals_filtered_and_empty_texts_are_answers(fault: Fault) -> None:
    """Upstream scores them zero. An error would leave the mean, and be asked again by every run."""
    requests = asked(3)
    with FaultyServer(by_text({"ask 1": [fault]})) as server:
        found = responses(server, requests)
        assert server.attempts["ask 1"] == 1
    response = found.pop(("task", "1"))
    assert response.error is None
    stored = as_prediction(replace(response, key=("Complex", *response.key)), "sha256")
    kind = "empty" if fault in faulty.EMPTY else "refused" if fault is faulty.REFUSAL else "filtered"
    assert without_plan(Prediction.model_validate_json(stored.model_dump_json())) == kind
    words = {"refusal": "I would rather not.", "content filter": "Well"}
    assert (response.text or "").strip() == words.get(fault.name, "")
    assert_right(found, [requests[0], requests[2]])


@pytest.mark.parametrize(
    ("said", "kept"), [("STOP", "stop"), ("end_turn", "stop"), ("eos_token", "stop"), ("MAX_TOKENS", "length")]
)
def test_endings_of_other_protocols(said: str, kept: str) -> None:
    with FaultyServer(lambda seen: Fault(said, body=completion("[]", finish=said))) as server:
        (response,) = responses(server, asked(1)).values()
    assert (response.error, response.finish, response.text) == (None, kept, "[]")


def test_a_servers_names_for_its_model_are_bounded() -> None:
    """They stand beside every answer."""

    def plan(seen: Seen) -> Fault:
        return Fault(
            "named", body=json.dumps({**json.loads(completion("[]")), "model": f"{seen.text}m" * 9999}).encode()
        )

    with FaultyServer(plan) as server:
        asking = engine(server.url)
        assert len(list(asking.responses(asked(40), Decoding()))) == 40
    assert len(asking.describe()["server_model"]) < 5000


@pytest.mark.parametrize("name", ["", "...", "/", "x" * 5000, "模" * 300])
def test_every_model_of_a_server_has_results_of_its_own_folder(name: str, tmp_path: Path) -> None:
    made = tmp_path / f"{served_name(name)}_2shot_upstream-shots_CoT_zh_swapped_1-16384tokens"
    made.mkdir()
    assert made.name[0] not in "_."


@pytest.mark.parametrize("fault", faulty.BAD_BODIES, ids=lambda fault: fault.name)
def test_a_second_bad_body_is_an_error(fault: Fault) -> None:
    with FaultyServer(by_text({"ask 0": [fault] * 9})) as server:
        found = responses(server, asked(2))
        assert server.attempts["ask 0"] == 2
    assert "no chat completion" in str(found["task", "0"].error)
    assert found["task", "1"].error is None


@pytest.mark.parametrize("fault", [*faulty.PASSING, *faulty.SLOW], ids=lambda fault: fault.name)
def test_the_retry_limit(fault: Fault) -> None:
    with FaultyServer(by_text({"ask 0": [fault] * 9})) as server:
        found = responses(server, asked(2), retries=1, timeout=1.0 if fault in faulty.SLOW else 20)
        assert server.attempts["ask 0"] == 2
    assert "asked 2 times" in str(found["task", "0"].error)
    assert found["task", "1"].error is None


def test_a_broken_image_is_its_requests_error(tmp_path: Path, image: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(image.read_bytes()[:2000])
    good, bad = asked(2, image)[0], asked(2, broken)[1]
    with FaultyServer() as server:
        found = responses(server, [good, bad])
        assert len(server.seen) == 1
    assert "broken.png" in str(found[bad.key].error)
    assert found[good.key].text == right(good)


def test_usage_may_be_missing() -> None:
    with FaultyServer(by_text({"ask 0": [Fault("no usage", body=completion("yes"))]})) as server:
        found = responses(server, asked(2))
    assert (found["task", "0"].text, found["task", "0"].new_tokens) == ("yes", None)
    assert (found["task", "1"].prompt_tokens, found["task", "1"].new_tokens) == (11, 3)


@pytest.mark.parametrize("count", [-1, -(10**30), 10**30, 1.5, "12", True, [3]], ids=str)
def test_a_count_of_tokens_that_is_none_says_nothing(count: Any) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": count}
    with FaultyServer(by_text({"ask 0": [Fault("usage", body=completion("yes", usage=usage))]})) as server:
        response = responses(server, asked(1))["task", "0"]
    assert (response.text, response.prompt_tokens, response.new_tokens) == ("yes", None, None)


def test_an_answer_of_another_length_than_asked_is_an_error() -> None:
    with FaultyServer() as server:
        for decoding, field in ((Decoding(max_new_tokens=2), "max_tokens"), (Decoding(5, 5), "min_tokens")):
            (response,) = engine(server.url).responses(asked(1), decoding)
            assert response.text is None
            assert f"ignores {field}" in str(response.error)
            assert (response.prompt_tokens, response.new_tokens) == (11, 3)  # they are paid for
        sent = server.seen[-1].body
    assert (sent["max_tokens"], sent["min_tokens"], sent["ignore_eos"], sent["temperature"]) == (5, 5, True, 0.0)


def test_a_checkpoints_own_sampling_is_overruled() -> None:
    with FaultyServer() as server:
        for temperature in (0.0, 0.7):
            list(engine(server.url).responses(asked(2), Decoding(9, temperature=temperature, top_p=0.9, seed=5)))
        greedy, also_greedy, sampled, other = (seen.body for seen in server.seen)
    assert (greedy["temperature"], greedy["repetition_penalty"], greedy["frequency_penalty"]) == (0, 1, 0)
    assert "top_k" not in greedy
    assert (sampled["temperature"], sampled["top_p"], sampled["top_k"]) == (0.7, 0.9, -1)
    assert greedy["seed"] == also_greedy["seed"] == 5
    assert sampled["seed"] != other["seed"]  # or both would draw the same random numbers


def test_an_answer_cut_at_the_limit() -> None:
    with FaultyServer(by_text({"ask 0": [Fault("cut off", body=completion("yes", "length"))]})) as server:
        assert responses(server, asked(1))["task", "0"].finish == "length"


# Fields that a server does not take


def test_fields_that_a_server_does_not_take_are_left_out() -> None:
    hosted = faulty.error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    serving = b'{"detail": "Unexpected fields in the request: {\'repetition_penalty\'}"}'

    def plan(seen: Seen) -> Fault | None:
        if "max_tokens" in seen.body:
            return Fault("refused field", 400, hosted)
        return Fault("refused field", 422, serving) if "repetition_penalty" in seen.body else None

    requests = asked(6)
    with FaultyServer(plan) as server:
        assert_right(responses(server, requests, concurrency=1), requests)
        assert len(server.seen) == len(requests) + 2
        assert server.seen[-1].body["max_completion_tokens"] == 512


REFUSALS = [  # what hosted servers say: the status, the fields that they refuse, the body
    (400, {"temperature"}, {"message": "Unsupported value: 'temperature' does not support 0 with this model. Only the "
     "default (1) value is supported.", "param": "temperature", "code": "unsupported_value"}),
    (400, {"top_p"}, {"message": "Unsupported parameter: 'top_p' is not supported with this model.", "param": "top_p"}),
    (400, {"top_p"}, {"message": "`temperature` and `top_p` cannot both be specified for this model."}),
    (400, {"seed"}, {"message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'}),
    (400, {"repetition_penalty"}, {"message": "Unrecognized request argument supplied: repetition_penalty"}),
    (400, {"temperature"}, {"message": "Unsupported value.", "param": "temperature"}),
    (400, {"top_p"}, {"message": 'Invalid JSON payload received. Unknown name "topP": Cannot find field.'}),
    (400, {"frequency_penalty", "repetition_penalty"}, {"message": "Penalty is not enabled for this model"}),
    (422, {"seed", "frequency_penalty"}, [{"type": "extra_forbidden", "loc": ["body", "seed"]},
     {"type": "extra_forbidden", "loc": ["body", "frequency_penalty"]}]),
]  # fmt: skip


@pytest.mark.parametrize(("status", "refused", "said"), REFUSALS, ids=range(len(REFUSALS)))
def test_a_refused_field_is_left_out_after_the_first_refusal(
    capsys: pytest.CaptureFixture[str], status: int, refused: set[str], said: Any
) -> None:
    body = json.dumps({"error": said} if isinstance(said, dict) else {"detail": said}).encode()

    def plan(seen: Seen) -> Fault | None:
        return Fault("refused field", status, body) if refused <= seen.body.keys() else None

    requests = asked(6)
    with FaultyServer(plan) as server:
        asking = engine(server.url, concurrency=1)
        found = {response.key: response for response in asking.responses(requests, Decoding())}
        assert_right(found, requests)
        assert len(server.seen) == len(requests) + 1
        sent = server.seen[-1].body.keys()
        assert not refused & sent
        assert {"temperature", "top_p", "seed", "frequency_penalty", "repetition_penalty"} - refused <= sent
        assert asking.describe()["fields_refused"] == sorted(refused)
        list(asking.responses(asked(2), Decoding()))
    assert capsys.readouterr().err.count(f"refuses {', '.join(sorted(refused))}: left out") == 1


def test_all_fields_may_be_refused_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    order = ["temperature", "max_tokens", "seed", "top_p", "frequency_penalty", "repetition_penalty"]

    def plan(seen: Seen) -> Fault | None:
        name = next((name for name in order if name in seen.body), None)
        said = {"message": f"Unsupported parameter: '{name}' is not supported with this model.", "param": name}
        return Fault("refused field", 400, json.dumps({"error": said}).encode()) if name else None

    requests = asked(40)
    with FaultyServer(plan) as server:
        assert_right(responses(server, requests, concurrency=16), requests)
        assert set(server.seen[-1].body) == {"model", "messages", "max_completion_tokens"}
    assert capsys.readouterr().err.count("left out from now on") == 1


def test_an_engine_knows_what_another_has_learnt_of_the_same_endpoint() -> None:
    refusing = Fault("400", 400, faulty.error("temperature does not support 0 with this model"))
    with FaultyServer(lambda seen: refusing if "temperature" in seen.body else None) as server:
        endpoint = Endpoint(server.url, faulty.MODEL, faulty.KEY, retries=1)
        for number in range(3):
            list(OpenAiEngine(endpoint, SIZE).responses(asked(number + 1)[-1:], Decoding()))
        assert len(server.seen) == 4


def test_a_refusal_that_only_quotes_a_field_changes_nothing() -> None:
    quoted = Fault("400", 400, faulty.error("prompt too long: {... 'repetition_penalty': 1.0 ...}"))
    with FaultyServer(by_text({"ask 0": [quoted] * 9})) as server:
        found = responses(server, asked(3), concurrency=1)
        assert "prompt too long" in str(found["task", "0"].error)
        assert server.seen[-1].body["repetition_penalty"] == 1.0


# Concurrency and waiting


def test_a_storm_of_429_loses_nothing() -> None:
    requests = asked(40)
    with FaultyServer(lambda seen: faulty.RATE_LIMITED if seen.number < 60 else None) as server:
        assert_right(responses(server, requests, retries=30, concurrency=16), requests)
        assert len(server.seen) == 100
        assert sorted(seen.text for seen in server.seen if seen.succeeded) == sorted(f"ask {n}" for n in range(40))


def test_concurrency_stays_under_the_cap_and_falls_to_what_the_server_takes() -> None:
    def at_most_3(seen: Seen) -> Fault | None:
        return faulty.RATE_LIMITED if seen.together > 3 else None

    requests = asked(80)
    with FaultyServer(hold=0.2) as server:
        assert_right(responses(server, requests, concurrency=16), requests)
        assert 4 < server.most_together() <= 16
    with FaultyServer(at_most_3, hold=0.02) as server:
        assert_right(responses(server, requests, concurrency=16, retries=50), requests)
        assert server.most_together() <= 16
        assert server.most_together(since=len(server.seen) // 2) <= 8


def test_server_errors_do_not_lower_the_concurrency() -> None:
    requests = asked(40)
    with FaultyServer(lambda seen: faulty.ERROR_503 if seen.number < 16 else None, hold=0.2) as server:
        assert_right(responses(server, requests, concurrency=16), requests)
        assert server.most_together(since=16) > 12


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_all_requests_wait_as_long_as_the_server_asks(form: str) -> None:
    """Four arrive together and are all refused: none of the rest may come before the time."""
    together, until = threading.Barrier(4, timeout=20), time.time() + 2

    def plan(seen: Seen) -> Fault | None:
        return (
            faulty.rate_limited("1" if form == "seconds" else formatdate(until, usegmt=True))
            if seen.number < 4
            else None
        )

    class Together(FaultyServer):
        def arrive(self, body: dict) -> Seen:
            seen = super().arrive(body)
            if seen.number < 4:
                together.wait()
            return seen

    requests = asked(8)
    with Together(plan) as server:
        assert_right(responses(server, requests, concurrency=4), requests)
        first, rest = server.seen[:4], server.seen[4:]
        assert all(seen.text in {f"ask {number}" for number in range(4)} for seen in first)
        earliest = min(seen.arrived for seen in first) + 1 if form == "seconds" else int(until)
        assert min(seen.arrived for seen in rest) >= earliest
        assert len(rest) == 8


def test_an_interval_between_requests_is_kept() -> None:
    requests, started = asked(4), time.time()
    with FaultyServer() as server:
        assert_right(responses(server, requests, interval=0.1), requests)
        assert max(seen.arrived for seen in server.seen) >= started + 0.3


def test_requests_that_wait_for_their_turn_wait_for_the_server_too() -> None:
    """After the first refusals two of four may be under way; both are told to wait while the others stand in line."""

    def plan(seen: Seen) -> Fault | None:
        return faulty.RATE_LIMITED if seen.number < 4 else faulty.rate_limited("1") if seen.number < 6 else None

    requests = asked(4)
    with FaultyServer(plan, hold=0.3) as server:
        assert_right(responses(server, requests, concurrency=4, backoff=0.001), requests)
        message = server.seen[4].arrived + server.hold
        assert min(seen.arrived for seen in server.seen[6:]) >= message + 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 30),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers) == seconds


def test_a_wait_of_hours_ends_the_run() -> None:
    with FaultyServer(lambda seen: faulty.rate_limited("86400")) as server, pytest.raises(LeapError, match="86400 s"):
        responses(server, asked(3))


def test_few_images_are_in_memory(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    with FaultyServer(hold=0.01) as server:
        original = image_urls.image_url

        def counted(*arguments: Any) -> str:
            opened.append(len(opened) + 1 - len(server.attempts))  # opened images whose request has not arrived
            return original(*arguments)

        monkeypatch.setattr(image_urls, "image_url", counted)
        responses(server, asked(30, image), concurrency=3)
    assert len(opened) == 30
    assert max(opened) <= 3


# What ends the run


def test_a_wrong_key_ends_the_run() -> None:
    with FaultyServer(key="sk-another-key-9876543210") as server:
        with pytest.raises(LeapError, match="OPENAI_API_KEY") as message:
            responses(server, asked(5))
        assert faulty.KEY not in str(message.value)
        assert faulty.KEY not in repr(Endpoint(server.url, "m", faulty.KEY))
        with pytest.raises(LeapError, match="OPENAI_API_KEY"):
            find_endpoint(server.url, api_key=faulty.KEY)


def test_an_unknown_model_and_an_empty_account_end_the_run() -> None:
    spent = json.dumps({"error": {"message": "You have spent it all", "code": "insufficient_quota"}}).encode()
    for fault, words in ((Fault("404", 404), "'tiny'"), (Fault("quota", 429, spent), "quota")):
        with FaultyServer(lambda seen, fault=fault: fault) as server:
            with pytest.raises(LeapError, match=words):
                responses(server, asked(5), concurrency=1)
            assert len(server.seen) == 1


def test_no_server_ends_the_run() -> None:
    url = f"http://user:secret@127.0.0.1:{free_port()}/v1"
    with pytest.raises(LeapError, match="no server at http://127") as message:
        list(engine(url).responses(asked(20), Decoding()))
    assert "secret" not in str(message.value)
    with pytest.raises(LeapError, match="no server at"):
        find_endpoint(url)


def test_a_server_that_goes_away_ends_the_run() -> None:
    with FaultyServer() as server:
        running = engine(server.url, concurrency=2).responses(asked(5000), Decoding())
        next(running)
    with pytest.raises(LeapError, match="no server at"):
        list(running)


def ours() -> set[str]:
    """Threads of the engine."""
    return {thread.name for thread in threading.enumerate() if "portal" in thread.name or "AnyIO" in thread.name}


def assert_ended(server: FaultyServer) -> None:
    deadline = time.time() + 20
    while (ours() or server.together) and time.time() < deadline:
        time.sleep(0.01)
    assert not ours()
    assert server.together == 0


@pytest.mark.parametrize("fault", [None, faulty.STALLING, faulty.rate_limited("60")], ids=["right", "slow", "paused"])
def test_a_closed_iterator_leaves_no_thread_and_no_request(fault: Fault | None, image: Path) -> None:
    with FaultyServer(lambda seen: fault if seen.number else None) as server:
        running = engine(server.url).responses(asked(200, image), Decoding())
        next(running)
        assert ours()
        running.close()
        assert_ended(server)
        assert len(server.seen) < 200


def test_an_interruption_ends_all_requests() -> None:
    """Ctrl-C while no answer has come yet. The system may give it to any thread, which does not wake the main one."""

    def plan(seen: Seen) -> Fault:
        if seen.number == 5:
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        return faulty.STALLING

    with FaultyServer(plan) as server:
        with pytest.raises(KeyboardInterrupt):
            list(engine(server.url).responses(asked(9), Decoding()))
        assert_ended(server)


def test_errors_show_neither_the_key_nor_an_image(image: Path) -> None:
    def quoting(seen: Seen) -> Fault:
        return Fault("400", 400, faulty.error(f"{faulty.KEY} sent {json.dumps(seen.body)}"), final=True)

    with FaultyServer(quoting) as server:
        error = str(responses(server, asked(1, image))["task", "0"].error)
    assert "400" in error
    assert faulty.KEY not in error
    assert "base64" not in error
    assert "iVBOR" not in error
    assert len(error) < 400


# Any mixture


@pytest.fixture(scope="module")
def shared_server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


EVERY = (*faulty.PASSING, *faulty.BAD_BODIES, *faulty.FINAL)


@pytest.mark.slow
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    faults=st.lists(st.sampled_from(EVERY), min_size=1, max_size=6),
    slow=st.booleans(),
    share=st.floats(0.1, 0.9),
    concurrency=st.integers(1, 16),
)
def test_no_mixture_of_faults_loses_or_doubles_a_request(
    shared_server: FaultyServer, seed: int, faults: list[Fault], slow: bool, share: float, concurrency: int
) -> None:
    requests = asked(12)
    mixture = [*faults * 12, *faulty.SLOW] if slow else faults
    shared_server.reset(faulty.seeded(seed, mixture, share, attempts=3))
    timeout = 1.5 if slow else 30  # a busy machine may take long for an answer that is to come
    found = responses(shared_server, requests, retries=12, timeout=timeout, concurrency=concurrency, backoff=0.001)
    for request in requests:
        (text,) = (part.text for part in request.messages[0].parts() if part.type == "text")
        met = [seen.fault for seen in shared_server.seen if seen.text == text]
        hopeless = any(fault and fault.final for fault in met) or sum(fault in faulty.BAD_BODIES for fault in met) > 1
        response = found[request.key]
        assert (response.text is None) == (response.error is not None) == hopeless
        assert response.text in (None, right(request))


# Images


def sent_bytes(source: Path | BlankImage, size: ImageSize) -> bytes:
    """What a server gets."""
    kind, _, content = image_urls.image_url(source, size).partition(",")
    assert kind == "data:image/png;base64"
    return base64.b64decode(content)


@pytest.mark.parametrize("size", [(64, 64), (70, 50), (500, 300), (33, 900)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_images_are_scaled_as_the_models_processor_scales_them(
    model: Path, tmp_path: Path, size: tuple[int, int], mode: str
) -> None:
    """A server's processor, whose bounds contain ours, makes of our PNG what this process makes of the file."""
    processor = load_processor(model).image_processor
    path, bounds = tmp_path / "image.png", ImageSize(6, 40)
    Image.effect_noise(size, 90).convert(mode).save(path)
    (tmp_path / "sent.png").write_bytes(sent_bytes(path, bounds))
    wide = {"shortest_edge": 1024, "longest_edge": 64 * 1024 * 1024}
    ours = {"shortest_edge": bounds.min_tokens * 1024, "longest_edge": bounds.max_tokens * 1024}
    expected = processor(images=[Image.open(path).convert("RGB")], size=ours, return_tensors="pt")
    sent = processor(images=[Image.open(tmp_path / "sent.png")], size=wide, return_tensors="pt")
    assert torch.equal(sent["image_grid_thw"], expected["image_grid_thw"])
    assert torch.equal(sent["pixel_values"], expected["pixel_values"])


def test_an_image_of_the_right_size_is_sent_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.effect_noise((64, 96), 90).convert("RGB").save(path, optimize=True)
    assert sent_bytes(path, SIZE) == path.read_bytes()
    Image.open(path).save(tmp_path / "turned.png", exif=turned())
    sent = tmp_path / "sent.png"
    sent.write_bytes(sent_bytes(tmp_path / "turned.png", SIZE))
    assert not Image.open(sent).getexif()
    upright = Image.open(path).transpose(Image.Transpose.ROTATE_270)
    assert Image.open(sent).tobytes() == upright.tobytes()


def test_a_server_on_this_machine_reads_the_files_it_may(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    paths = [tmp_path / name for name in ("inside/right.png", "inside/wrong.png", "outside.png")]
    for path, side in zip(paths, (64, 40, 64), strict=True):
        Image.effect_noise((side, 64), 90).convert("RGB").save(path)
    link = tmp_path / "inside" / "link.png"
    link.symlink_to(paths[2])
    urls = [image_urls.image_url(path, SIZE, tmp_path / "inside") for path in (*paths, link, BlankImage(paths[0]))]
    assert urls[0] == paths[0].resolve().as_uri()
    assert [url.partition(":")[0] for url in urls] == ["file", "data", "data", "data", "data"]


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_a_too_narrow_image_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (3, 900)).save(tmp_path / "stripe.png")
    with pytest.raises(LeapError, match="too narrow"):
        sent_bytes(tmp_path / "stripe.png", SIZE)


# Choosing an endpoint


def test_the_endpoint_is_found_by_flags_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="OPENAI_BASE_URL"):
        find_endpoint()
    monkeypatch.setenv("OPENAI_API_KEY", faulty.KEY)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing leaves this machine
    with pytest.raises(LeapError, match=r"no server at https://api\.openai\.com/v1 "):
        find_endpoint()  # a key alone is for OpenAI's own server
    with FaultyServer(key=faulty.KEY) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
        monkeypatch.setenv("OPENAI_API_KEY", faulty.KEY + "\n")
        assert find_endpoint(concurrency=3) == Endpoint(server.url, faulty.MODEL, faulty.KEY, concurrency=3)
        assert find_endpoint(model="another").model == "another"
        server.models = ("a", "b")
        with pytest.raises(UsageError, match=r"--model \(it has a, b\)"):
            find_endpoint()


def test_a_server_that_is_busy_is_asked_for_its_models_again() -> None:
    with FaultyServer() as server:
        server.busy = 3
        assert find_endpoint(server.url).model == faulty.MODEL
        assert server.listings == 4
        server.busy = 99
        with pytest.raises(LeapError, match=r"answered 503 \(still loading\) .* wait until") as wrong:
            find_endpoint(server.url)
        assert not isinstance(wrong.value, UsageError)
        assert find_endpoint(server.url, "named").model == "named"  # requests have tries of their own


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "localhost:8000"},
        {"base_url": "http://localhost:80a0/v1"},
        {"base_url": "http://[localhost/v1"},
        {"api_key": "two words"},
        {"concurrency": 0},
        {"retries": 0},
        {"timeout": 0},
        {"input_price": 1.0},
    ],
    ids=str,
)
def test_unusable_endpoints_are_wrong_usage(options: dict) -> None:
    with pytest.raises(UsageError):
        Endpoint(**{"base_url": "http://localhost:1/v1", "model": "m", **options})


def test_what_the_engine_says_of_itself() -> None:
    with FaultyServer() as server:
        asking = engine(server.url.replace("http://", "http://me:secret@"))
        assert asking.describe()["server_model"] is None
        list(asking.responses(asked(2), Decoding()))
        assert asking.describe() == {
            "engine": "openai",
            "base_url": server.url,
            "model": "tiny",
            "server_model": "tiny",
            "concurrency": 8,
        }


def test_usage_and_cost() -> None:
    def prediction(prompt: int | None, new: int | None, error: str | None = None) -> Prediction:
        text = None if error else "yes"
        return Prediction(task="t", example="0", text=text, prompt_tokens=prompt, new_tokens=new, error=error)

    made = [prediction(1000, 10), prediction(500, 20), prediction(None, None), prediction(None, None, "no answer")]
    counts = {"prompt_tokens": 1500, "new_tokens": 30, "answers_without_usage": 1}
    assert usage_and_cost(made) == {**counts, "cost_usd": None}
    assert usage_and_cost(made, 2.0, 10.0) == {**counts, "cost_usd": pytest.approx(0.0033)}
    assert usage_and_cost(made[2:], 2.0, 10.0)["cost_usd"] is None
    refused = prediction(1000, 100, "refused")
    assert usage_and_cost([*made, refused]) == {**counts, "prompt_tokens": 2500, "new_tokens": 130, "cost_usd": None}


# A real server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `transformers serve` with the tiny model."""
    home, port = tmp_path_factory.mktemp("served"), free_port()
    (home / "hub").mkdir()  # /v1/models lists what lies there
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model)]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"],
            env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=log,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, home / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(20)


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.time() + 120
    while time.time() < deadline and process.poll() is None:
        try:
            with closing(urllib.request.urlopen(url, timeout=5)):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    pytest.fail(f"transformers serve did not start: {log.read_text()[-2000:]}")


@pytest.mark.slow
def test_a_real_server_answers_as_this_process_does(served: str, workspace: Path, model: Path) -> None:
    data = workspace / "dataset" / "vlm_evaluation_v1.0"
    size = ImageSize(64, 81)  # within the processor's own bounds, which a server keeps to
    shown = EvaluationSettings(data, leap_instructions(), size, Decoding())
    examples = [example for dimension in DIMENSIONS for example in find_examples(data, dimension)]
    requests = build_requests(examples, examples, shown)
    assert len(requests) == 12
    decoding = Decoding(max_new_tokens=16)
    expected = {response.key: response for response in HfEngine(model, size).responses(requests, decoding)}
    assert len({response.text for response in expected.values()}) > 1
    endpoint = find_endpoint(served, str(model), concurrency=4, retries=2)
    found = list(OpenAiEngine(endpoint, size).responses(requests, decoding))
    assert len(found) == 12
    for response in found:
        mine = expected[response.key]
        assert response.error is None
        assert (response.text or "").strip() == (mine.text or "").strip()
        assert (response.finish, response.prompt_tokens, response.new_tokens) == (
            mine.finish,
            mine.prompt_tokens,
            mine.new_tokens,
        )
