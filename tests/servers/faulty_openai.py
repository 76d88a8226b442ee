"""A local server with OpenAI's chat protocol that fails as it is told, and remembers what it saw.

Answers follow from the request alone (`response_to`), so that a test knows them. A plan says what happens to each
request that arrives: None is a right answer, a Fault anything else.

    with FaultyServer(plan=by_text({"hello": [RATE_LIMITED, CUT]})) as server:
        ... server.url ... server.seen
"""

import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from servers.local import Handler, LocalServer

MODEL, KEY = "tiny", "sk-test-0123456789"
DRIPS = 80  # of 50 ms each


@dataclass(frozen=True)
class Fault:
    """What is sent in place of a right answer."""

    name: str
    status: int = 200
    body: bytes | None = None  # None: a protocol error of that status
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: Literal["no", "before", "within"] = "no"  # the connection closes before or within the body
    slow: Literal["no", "stalls", "drips"] = (
        "no"  # half of the body and nothing more, or one blank after another before it
    )
    final: bool = False  # asking again does not help


def completion(text: Any = "?", finish: Any = "stop", usage: Any = None, **message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    body = {"id": "1", "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}
    return json.dumps(body).encode()


def rate_limited(retry_after: str) -> Fault:
    return Fault("429 with Retry-After", 429, headers={"Retry-After": retry_after})


RATE_LIMITED = Fault("429", 429)
ERROR_500, ERROR_502, ERROR_503 = (Fault(str(status), status) for status in (500, 502, 503))
CUT, CUT_WITHIN = Fault("cut", cut="before"), Fault("cut within the body", cut="within")
STALLING, DRIPPING = Fault("stalling", slow="stalls"), Fault("dripping", slow="drips")
BROKEN_JSON = Fault("broken JSON", body=completion()[:-9])
NO_JSON = Fault("no JSON", body=b"<html>It works!</html>")
WRONG_TYPE = Fault("wrong type", body=completion(text=["a list"]))
NO_CHOICE = Fault("no choice", body=json.dumps({"model": MODEL, "choices": []}).encode())
NULL_CONTENT = Fault("null content", body=completion(text=None))
BLANK = Fault("blank", body=completion(text=" \n"))
TOOL_CALL = Fault("tool call", body=completion(text=None, finish="tool_calls", tool_calls=[]))
REFUSAL = Fault("refusal", body=completion(text=None, refusal="I would rather not."))
FILTERED = Fault("content filter", body=completion(text="Well", finish="content_filter"))
BLOCKED = [  # what gateways hand on of other APIs
    Fault(f"ended by {reason}", body=completion(text=None, finish=reason))
    for reason in ("content_filter: PROHIBITED_CONTENT", "CONTENT-FILTER", "SAFETY", "RECITATION", "blocklist")
]
WITHHELD = Fault("withheld", body=json.dumps({"choices": [{"finish_reason": "content_filter"}]}).encode())
PROSE = Fault("prose around JSON")  # of the right answer: see FaultyServer
OUT_OF_RANGE = Fault("score out of range", body=completion('{"completeness": 9, "logical_sequence": 3}'))
BAD_REQUEST = Fault("400", 400, final=True)
UNPROCESSABLE = Fault("422", 422, final=True)


def refused_by_code(status: int = 400, final: bool = False, **error: Any) -> Fault:
    body = json.dumps({"error": {"message": "The prompt was filtered; max_tokens, seed.", **error}})
    return Fault(f"{status} {error}", status, body.encode(), final=final)


FILTER_ERRORS = (
    refused_by_code(code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"}),
    refused_by_code(code="BadRequest", innererror={"code": "ResponsibleAIPolicyViolation"}),
    refused_by_code(code="content_policy_violation", type="invalid_request_error"),
    refused_by_code(code=None, type="content_filter_error"),
    refused_by_code(code="BadRequest", inner_error={"code": "ResponsibleAIPolicyViolation"}),
    refused_by_code(code="data_inspection_failed"),
    refused_by_code(403, code="content_filter"),
    refused_by_code(code="moderation_blocked"),
    refused_by_code(403, code=403, metadata={"reasons": ["violence"], "flagged_input": "knife", "provider_name": "x"}),
    refused_by_code(code="InputTextSensitiveContentDetected.PolicyViolation"),
)
ENDED = Fault("aborted", body=completion(text="[", finish="abort"), final=True)
OTHER_CODE = refused_by_code(final=True, code="context_length_exceeded", innererror=["content_filter"])

PASSING = (RATE_LIMITED, ERROR_500, ERROR_502, ERROR_503, CUT, CUT_WITHIN)
SLOW = (STALLING, DRIPPING)
BAD_BODIES = (BROKEN_JSON, NO_JSON, WRONG_TYPE, NO_CHOICE)
FINAL = (BAD_REQUEST, UNPROCESSABLE, OTHER_CODE, ENDED)
REFUSALS = (
    REFUSAL,
    FILTERED,
    *BLOCKED,
    WITHHELD,
    *FILTER_ERRORS,
)  # by the model, or by its server: answers without a plan
EMPTY = (NULL_CONTENT, BLANK, TOOL_CALL)


@dataclass
class Seen:
    """A request as the server saw it. Times are seconds of time.time()."""

    number: int  # of arrival, from 0
    text: str  # its last text: what tests tell requests by
    attempt: int  # from 0, for the same text
    body: dict[str, Any]
    arrived: float
    together: int  # requests under way, this one included
    fault: Fault | None = None
    succeeded: bool = False  # a right answer was handed over whole
    under_way: bool = True


Plan = Callable[[Seen], Fault | None]
Response = Callable[[Mapping[str, Any]], str]


def faultless(seen: Seen) -> None:
    return None


def by_text(faults: Mapping[str, Sequence[Fault]]) -> Plan:
    """The faults of each request's first attempts."""

    def plan(seen: Seen) -> Fault | None:
        mine = faults.get(seen.text, ())
        return mine[seen.attempt] if seen.attempt < len(mine) else None

    return plan


def seeded(seed: int, faults: Sequence[Fault], share: float, attempts: int) -> Plan:
    """Each of a request's first attempts fails with the chance `share`, in a way that the seed draws."""

    def plan(seen: Seen) -> Fault | None:
        draw = random.Random(f"{seed}/{seen.text}/{seen.attempt}")
        return draw.choice(faults) if seen.attempt < attempts and draw.random() < share else None

    return plan


def response_to(body: Mapping[str, Any]) -> str:
    """The right answer: different for other words, images or order."""
    return "answer " + hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()[:16]


class FaultyServer(LocalServer):
    """A server on a free port of this machine, from `with` to its end."""

    def __init__(
        self,
        plan: Plan = faultless,
        hold: float = 0.0,
        models: Sequence[str] = (MODEL,),
        key: str | None = None,
        response: Response = response_to,
        host: str = "127.0.0.1",
    ) -> None:
        """`hold`: seconds that each request takes. `key`: the only key let in. `response`: the right answers."""
        super().__init__(_Handler, host)
        self.response, self.moved_to = response, ""  # the list of models may be elsewhere
        self.busy, self.listings = 0, 0  # how often it answers 503 when asked for it; how often it was asked
        self.plan, self.hold, self.models, self.key = plan, hold, models, key
        self.together, self.seen, self.attempts = 0, list[Seen](), Counter[str]()

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    def reset(self, plan: Plan) -> None:
        """Forget everything, and follow another plan."""
        with self.lock:
            self.plan, self.seen, self.attempts = plan, [], Counter()

    def most_together(self, since: int = 0) -> int:
        """The highest number of requests under way at once, from the arrival `since` on."""
        return max(seen.together for seen in self.seen[since:])

    def arrive(self, body: dict[str, Any]) -> Seen:
        text = last_text(body)
        with self.lock:
            self.together += 1
            seen = Seen(len(self.seen), text, self.attempts[text], body, time.time(), self.together)
            self.attempts[text] += 1
            self.seen.append(seen)
            seen.fault = self.plan(seen)
        return seen

    def leave(self, seen: Seen) -> None:
        with self.lock:
            self.together -= seen.under_way
            seen.under_way = False


def last_text(body: Mapping[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"][-1]


class _Handler(Handler):
    owner: FaultyServer

    def do_GET(self) -> None:
        self.owner.listings += 1
        if self.owner.moved_to:
            self._send(307, b"", {"Location": self.owner.moved_to})
        elif self.owner.listings <= self.owner.busy:
            self._send(503, error("still loading"), {"Retry-After": "0.01"})
        elif self._let_in():
            models = [{"id": name} for name in self.owner.models]
            self._send(200, json.dumps({"object": "list", "data": models}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._let_in():
            return
        seen = self.owner.arrive(body)
        try:
            if self.owner.ended.wait(self.owner.hold):
                self.close_connection = True
                return
            if not (seen.fault and seen.fault.slow != "no"):
                self.owner.leave(seen)  # before the client can know, and send the next
            self._response(seen)
        except OSError:  # the client has given up
            self.close_connection = True
        finally:
            self.owner.leave(seen)

    def _let_in(self) -> bool:
        given = self.headers.get("Authorization", "")
        if self.owner.key is None or given == f"Bearer {self.owner.key}":
            return True
        self._send(401, error(f"Incorrect API key provided: {given.removeprefix('Bearer ')}"))
        return False

    def _response(self, seen: Seen) -> None:
        fault = seen.fault
        if fault is None or fault is PROSE:
            usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
            text = self.owner.response(seen.body)
            text = f"Here is what I think:\n```json\n{text}\n```\nI hope it helps." if fault else text
            self._send(200, completion(text, usage=usage))
            seen.succeeded = True
        else:
            body = fault.body or (error(f"planned: {fault.name}") if fault.status != 200 else completion())
            self._fail(fault, body)

    def _fail(self, fault: Fault, body: bytes) -> None:
        if fault.cut == "before":
            self.close_connection = True
        elif fault.slow == "drips":
            self._send(fault.status, b"", fault.headers, promised=len(body) + DRIPS)
            for _ in range(DRIPS):
                self.owner.ended.wait(0.05)
                self.wfile.write(b" ")
            self.wfile.write(body)
        elif fault.cut == "within" or fault.slow == "stalls":
            self._send(fault.status, body[: len(body) // 2], fault.headers, promised=len(body))
            self.close_connection = True
            if fault.slow == "stalls":
                self.connection.settimeout(60)
                self.rfile.read(1)  # until the client hangs up
        else:
            self._send(fault.status, body, fault.headers)

    def _send(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, promised: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(promised or len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def error(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "planned", "code": None}}).encode()
