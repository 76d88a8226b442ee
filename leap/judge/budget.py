"""What judging costs, and how many more requests a limit allows."""

from collections.abc import Sequence
from dataclasses import dataclass

from leap.errors import LeapError
from leap.inference.protocol import Request, Response

_UNSEEN_IMAGE = 4096  # tokens that an image is taken for until the server has counted one


@dataclass
class Budget:
    """Money spent at prices in USD per million tokens, and the limit, if there is one.

    The reserve of a request is more than it can cost: a token for every byte of its text, as many tokens for each
    image as the longest prompt so far had in all, and all the new tokens that it may have, or as many as the longest
    answer so far had, where a server does not keep to the limit (hidden reasoning). A request that failed may have been
    billed as well, and the server does not say: against the limit its reserve counts, once for all its tries.
    """

    limit: float | None = None
    spent: float = 0.0
    prompt_tokens: int = 0
    new_tokens: int = 0
    requests: int = 0
    uncounted: int = 0  # answers that came without their tokens
    _perhaps: float = 0.0  # USD that failed requests may have cost
    _longest: int = 0  # prompt
    _longest_response: int = 0

    @property
    def passed(self) -> bool:
        """Whether more was spent than the limit, which one answer beyond its reserve may do."""
        return self.limit is not None and self.spent + self._perhaps > self.limit

    def allowed(self, requests: Sequence[Request], new_tokens: int, prices: tuple[float | None, float | None]) -> int:
        """How many of the requests, from the first on, may be sent at once. All where there is no limit.

        With a limit the very first goes alone: it shows what the server counts.
        """
        if self.limit is None:
            return len(requests)
        most = len(requests) if self._longest else 1
        left = self.limit - self.spent - self._perhaps
        for number, request in enumerate(requests[:most]):
            left -= self._reserve(request, new_tokens, prices)
            if left < 0:
                return number
        return most

    def note(
        self, request: Request, response: Response, new_tokens: int, prices: tuple[float | None, float | None]
    ) -> None:
        """An answer has come. Raises LeapError where a limit is set and the server does not count tokens.

        No tokens for a prompt, or for a text, is no count: some servers say 0 where they mean that they do not know.
        """
        self.requests += 1
        if not response.prompt_tokens or response.new_tokens is None or (response.text and not response.new_tokens):
            self._perhaps += self._reserve(request, new_tokens, prices)
            self.uncounted += response.error is None
            if self.limit is not None and response.error is None:
                raise LeapError("the server does not say how many tokens it used, so --max_cost cannot be kept")
            return
        self._longest = max(self._longest, response.prompt_tokens)
        self._longest_response = max(self._longest_response, response.new_tokens)
        self.prompt_tokens += response.prompt_tokens
        self.new_tokens += response.new_tokens
        self.spent += _cost(response.prompt_tokens, response.new_tokens, prices)

    def _reserve(self, request: Request, new_tokens: int, prices: tuple[float | None, float | None]) -> float:
        parts = [part for message in request.messages for part in message.parts()]
        text = sum(len(part.text.encode()) for part in parts if part.type == "text")
        images = len(request.images) * (self._longest or _UNSEEN_IMAGE)
        return _cost(text + images, max(new_tokens, self._longest_response), prices)


def _cost(prompt_tokens: int, new_tokens: int, prices: tuple[float | None, float | None]) -> float:
    return (prompt_tokens * (prices[0] or 0.0) + new_tokens * (prices[1] or 0.0)) / 1e6
