"""Questions to a judge, and what came of each: asked once if equal, again if unusable, and never beyond the budget."""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel

from leap.inference.chat_protocol import json_format
from leap.inference.openai import OpenAiEngine
from leap.inference.protocol import Decoding, Request, Response, request_hash
from leap.judge.budget import Budget
from leap.judge.judges import Judge
from leap.judge.store import ResponseStore, content_key
from leap.judge.verdicts import Unusable, read_verdict
from leap.progress import track
from leap.records.judging import StoredResponse

NOT_ASKED = "not asked: the next request could have passed --max_cost"
_NEXT_TRY = 1000  # added to the seed of a question that is asked again


@dataclass(frozen=True)
class Question:
    """One verdict to ask for. Its key is ours: it says which plan it is about, and is never sent."""

    key: tuple[str, ...]
    request: Request
    repeat: int  # from 0
    schema: Mapping[str, Any]


@dataclass
class Reply:
    """What came of a question; without a `verdict` the `error` says why. Tokens and tries are those of all tries.

    Equal questions share an answer. Its tokens are the first one's, so that their sum over all is what was billed.
    """

    verdict: BaseModel | None = None
    raw: str = ""
    error: str = ""
    tries: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    unusable: int = 0  # answers that were no verdict

    def add_tokens(self, response: Response | StoredResponse) -> None:
        self.prompt_tokens += response.prompt_tokens or 0
        self.new_tokens += response.new_tokens or 0


@dataclass
class Interview:
    """One judge with all that asking it needs."""

    judge: Judge
    record: type[BaseModel]
    store: ResponseStore
    budget: Budget
    retries: int = 2  # of an unusable verdict
    seed: int = 0
    what: str = "plans"  # on the screen
    made: list[dict[str, Any] | None] = field(default_factory=list)  # how each answer was

    def replies(self, questions: Sequence[Question]) -> dict[tuple[str, ...], Reply]:
        """A reply to every question. They are asked in an order that the seed draws, so that it gives nothing away."""
        found = {question.key: Reply() for question in questions}
        waiting = list(questions)
        for attempt in range(1 + self.retries):
            for repeat in sorted({question.repeat for question in waiting}):
                part = [question for question in waiting if question.repeat == repeat]
                for equal, response in self._responses(part, repeat, attempt):
                    for question in equal:
                        self._take(found[question.key], response)
                    found[equal[0].key].add_tokens(response)
            waiting = [question for question in waiting if _again(found[question.key])]
        return found

    def _take(self, reply: Reply, response: Response | StoredResponse) -> None:
        reply.tries += not (isinstance(response, Response) and response.error == NOT_ASKED)
        if isinstance(response, Response) and response.error is not None:
            reply.error, reply.raw = response.error, ""
            return
        reply.raw = response.text or ""
        try:
            if response.finish == "length":
                raise Unusable("the judge's answer was cut at the limit of new tokens (--max_new_tokens)")
            reply.verdict, reply.error = read_verdict(reply.raw, self.record), ""
        except Unusable as reason:
            reply.error = f"unusable verdict: {reason}"
            reply.unusable += 1

    def _responses(
        self, questions: Sequence[Question], repeat: int, attempt: int
    ) -> Iterator[tuple[list[Question], Response | StoredResponse]]:
        """(equal questions, the one answer to them): stored answers, and then those of the server."""
        decoding = replace(self.judge.decoding, seed=self.judge.decoding.seed + repeat + _NEXT_TRY * attempt)
        equal: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            equal[self._hash(question, decoding)].append(question)
        for content in [content for content in equal if self.store.get(content)]:
            stored = self.store.get(content)
            assert stored is not None
            self.made.append(stored.made)
            yield equal.pop(content), stored
        requests = [replace(same[0].request, key=(content,)) for content, same in equal.items()]
        random.Random(self.seed).shuffle(requests)
        for response in self._asked(requests, decoding, questions[0].schema, f"{self.what}, repeat {repeat + 1}"):
            yield equal[response.key[0]], response

    def _hash(self, question: Question, decoding: Decoding) -> str:
        asked = {**self.judge.to_dict(), "decoding": decoding.to_dict(), "schema": question.schema}
        return content_key(asked, request_hash(question.request), question.repeat)

    def _asked(
        self, requests: Sequence[Request], decoding: Decoding, schema: Mapping[str, Any], what: str
    ) -> Iterator[Response]:
        if not requests:
            return
        engine = OpenAiEngine(self.judge.endpoint, self.judge.images, json_format(schema))
        with closing(engine):
            yield from track(self._in_waves(engine, requests, decoding), f"{self.judge.name}, {what}", len(requests))

    def _in_waves(self, engine: OpenAiEngine, requests: Sequence[Request], decoding: Decoding) -> Iterable[Response]:
        """As many requests at once as the budget allows, until it allows no more."""
        left = list(requests)
        while left:
            number = self.budget.allowed(left, decoding.max_new_tokens, self.judge.prices)
            if number == 0:
                yield from (Response(request.key, error=NOT_ASKED) for request in left)
                return
            wave = {request.key: request for request in left[:number]}
            with closing(engine.responses(list(wave.values()), decoding)) as responses:
                for response in map(self._usable, responses):
                    self.made.append(self.store.add(response.key[0], response, engine))  # first: it is paid for
                    request = wave.pop(response.key)
                    self.budget.note(request, response, decoding.max_new_tokens, self.judge.prices)
                    yield response
                    if self.budget.passed:  # answers longer than any before them
                        break
            left = [*wave.values(), *left[number:]]

    def _usable(self, response: Response) -> Response:
        """A refusal is an answer of a model, and no verdict of a judge: a failure, which is not kept."""
        if response.finish not in ("refused", "filtered"):
            return response
        said = self.judge.endpoint.hidden(response.text or "")
        why = "the model refused" if response.finish == "refused" else "a content filter withheld the answer"
        return replace(response, text=None, finish=None, error=f"{why} ({said})")


def _again(reply: Reply) -> bool:
    """Whether another try may help: after an answer that was no verdict, not after a failure of the request."""
    return reply.verdict is None and reply.error.startswith("unusable")
