"""What the service answers where it does not do what it was asked: one body for all, in OpenAI's form."""

from typing import Any

from pydantic import BaseModel
from starlette.responses import JSONResponse

from leap.redaction import hide

_KINDS = {401: "authentication_error", 404: "not_found_error", 422: "no_plan", 429: "rate_limit_error"}


class Problem(BaseModel):
    """`param` is the field of the request that is at fault, where one is."""

    message: str
    type: str
    param: str | None = None
    code: int


class Refusal(BaseModel):
    error: Problem
    response: str | None = None  # 422: what the model wrote instead of a plan


class Refused(Exception):
    """A request that is not served: the HTTP status, what is wrong, and what to do."""

    def __init__(
        self, status: int, message: str, param: str | None = None, response: str | None = None, retry: bool = False
    ) -> None:
        super().__init__(hide(message))
        self.status, self.param, self.response, self.retry = status, param, response, retry

    def to_response(self) -> JSONResponse:
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        problem = Problem(message=str(self), type=kind, param=self.param, code=self.status)
        body: dict[str, Any] = Refusal(error=problem, response=self.response).model_dump()
        headers = {"Retry-After": "1"} if self.retry else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(body, self.status, headers)
