"""Responses that are plans to carry out, and those that are none; what the door lets in, and for how long."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leap.inference.protocol import Response
from leap.serving.door import Door, Limits, Places
from leap.serving.plans import PARAMETERS_DROPPED, PLAN_SCHEMA, NoPlan, read_steps
from leap.vlabench.skills import SKILL_PARAMETER

PICK = {"name": "pick", "params": {"target_entity_name": 3}}
LIFT: dict[str, Any] = {"name": "lift", "params": {}}


def fenced(plan: Any) -> str:
    return f"```json\n{json.dumps(plan)}\n```"


def response(text: str, finish: Any = "stop") -> Response:
    return Response((), text, finish, 10, 20)


@pytest.mark.parametrize(
    ("text", "repairs"),
    [
        (fenced([PICK, LIFT]), []),
        (json.dumps([PICK, LIFT]), ["bare_json"]),
        (fenced([{"name": "pick", "params": {"target_entity_name": "3"}}, {"name": "lift"}]), []),
        (fenced([PICK, {"name": "lift", "params": {"target_entity_name": 5}}]), [PARAMETERS_DROPPED]),
        (f"<think>{fenced([LIFT])}</think>{fenced([PICK, LIFT])}", ["thinking_removed"]),
    ],
)
def test_a_plan_is_read_with_what_was_mended(text: str, repairs: list[str]) -> None:
    steps, mended = read_steps(response(text))
    assert [step.model_dump() for step in steps] == [PICK, LIFT]
    assert mended == repairs


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no ```json fence"),
        ("I cannot see a pear.", "no ```json fence"),
        (fenced([]), "the plan has no step"),
        (fenced(None), "no list of named steps"),
        (fenced({"a": 1}), "no list of named steps"),
        (fenced([{"name": "grasp", "params": {"target_entity_name": 3}}]), "step 1: 'grasp' is none of the skills"),
        (fenced([PICK, {"name": "place", "params": {}}]), "step 2: place needs the number of an object"),
        (fenced([{"name": "pick", "params": {"target_entity_name": "pear"}}]), "it has 'pear'"),
        (fenced([{"name": "pick", "params": {"target_entity_name": 1.5}}]), "it has '1.5'"),
        (fenced([{"name": "pick", "params": {"target_entity_name": True}}]), "no list of named steps"),
        (fenced([PICK, LIFT])[:70], "the plan breaks off"),
    ],
)
def test_what_is_no_plan_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(NoPlan, match=reason.replace("(", r"\(")):
        read_steps(response(text))


def test_a_response_that_was_cut_off_says_so_unless_its_plan_is_whole() -> None:
    with pytest.raises(NoPlan, match="the plan breaks off; the response was cut off after 20 tokens"):
        read_steps(response(fenced([PICK, LIFT])[:70], "length"))
    assert len(read_steps(response(fenced([PICK, LIFT]) + " And then", "length"))[0]) == 2


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
PARAMS = st.dictionaries(st.sampled_from(["target_entity_name", "target_container_name", "x"]), VALUES) | VALUES
STEPS = st.fixed_dictionaries(
    {"name": st.sampled_from([*SKILL_PARAMETER, "grasp", ""]) | VALUES}, optional={"params": PARAMS}
)


@given(st.lists(STEPS | VALUES, max_size=4) | VALUES)
def test_whatever_is_written_a_plan_has_known_skills_and_numbers(plan: Any) -> None:
    try:
        steps, _ = read_steps(response(fenced(plan)))
    except NoPlan:
        return
    assert [step.name for step in steps] == [step["name"] for step in plan]
    for step in steps:
        parameter = SKILL_PARAMETER[step.name]
        assert list(step.params) == ([parameter] if parameter else [])


def test_the_schema_takes_the_benchmarks_plans_and_no_others() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    check = jsonschema.Draft202012Validator(PLAN_SCHEMA).is_valid
    assert check([PICK, LIFT])
    assert not check([])
    assert not check([{"name": "grasp", "params": {}}])
    assert not check([{"name": "pick", "params": {}}])
    assert not check([{"name": "lift", "params": {"target_entity_name": 3}}])


# --- the door


def through(app: Callable[..., Awaitable[None]], limits: Limits, pieces: list[bytes], site: str = "none") -> int:
    """The status with which a request of these pieces is answered."""
    waiting, statuses = [*pieces], []

    async def receive() -> dict[str, Any]:
        if not waiting:
            await anyio.sleep_forever()
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    headers = [(b"sec-fetch-site", site.encode())]
    scope = {"type": "http", "method": "POST", "path": "/plan", "headers": headers}
    anyio.run(Door(app, limits, Places(limits.waiting), None), scope, receive, send)
    return statuses[0]


def test_what_takes_too_long_is_ended() -> None:
    async def sleep(*_: Any) -> None:
        await anyio.sleep_forever()

    assert through(sleep, Limits(seconds=0.01), [b""]) == 504


@pytest.mark.parametrize(("pieces", "status"), [([b"x"] * 8, 200), ([b"x"] * 9, 413)])
def test_a_body_of_unknown_length_is_counted(pieces: list[bytes], status: int) -> None:
    async def read(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})

    assert through(read, Limits(body=8), pieces) == status


@pytest.mark.parametrize(("site", "status"), [("same-origin", 200), ("none", 200), ("cross-site", 403)])
def test_a_page_of_another_site_may_ask_nothing(site: str, status: int) -> None:
    """Its form needs no permission to be sent here, and the model would compute for it."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    assert through(answer, Limits(), [b""], site) == status
