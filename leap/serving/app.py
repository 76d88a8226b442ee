"""The service's addresses: /plan, OpenAI's /v1/chat/completions and /v1/models, /health, and their description."""

import time
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse, Response

from leap.errors import first_line
from leap.evaluation.requests import build_request
from leap.evaluation.settings import EvaluationSettings
from leap.serving.backends import Backend
from leap.serving.chat_requests import keyed, read_body, validated
from leap.serving.door import Door, Limits, Places
from leap.serving.plans import NoPlan, Plan, PlanRequest, Prompt, read_steps
from leap.serving.refusals import Refusal, Refused
from leap.serving.sent_images import check_image, read_data_uri

_FILE = {"type": "string", "format": "binary"}
_PLAN_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": PlanRequest.model_json_schema()},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["instruction", "image"],
                "properties": {"instruction": {"type": "string"}, "image": _FILE, "numbered_image": _FILE},
            }
        },
    },
}
_CHAT_BODY = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "The request is at fault; `param` names the field"},
    401: {"model": Refusal, "description": "The API key is missing or wrong"},
    413: {"model": Refusal, "description": "The body is too large"},
    429: {"model": Refusal, "description": "Too many requests are under way; see Retry-After"},
    504: {"model": Refusal, "description": "No response in time"},
}
_NO_PLAN: dict[int | str, dict[str, Any]] = {
    422: {"model": Refusal, "description": "The model wrote no plan; `response` is what it wrote"}
}


class Health(BaseModel):
    status: str


class Planner:
    """One model that plans: what is asked, of whom, and how many at once."""

    def __init__(self, backend: Backend, settings: EvaluationSettings, limits: Limits) -> None:
        self.backend, self.settings, self.limits = backend, settings, limits
        self.places = Places(limits.waiting)

    async def plan(self, instruction: str, image: bytes, numbered: bytes | None) -> Plan:
        """The plan for a scene; asked as the benchmark asks. Raises Refused, with 422 where the response is no plan."""
        plain = await check_image(image, "image")
        shown = (plain, plain if numbered is None else await check_image(numbered, "numbered_image"))
        request = keyed(build_request((), instruction, shown, self.settings), "greedy")
        response = await self.backend.plan(request, self.settings.decoding)
        try:
            steps, repairs = read_steps(response)
        except NoPlan as reason:
            raise Refused(422, f"the response is no plan: {reason}", response=response.text or "") from reason
        instructions, images = self.settings.instructions, self.settings.images
        return Plan(
            steps=steps,
            repairs=repairs,
            response=response.text or "",
            model=self.backend.model,
            prompt=Prompt(source=instructions.source, language=instructions.language, sha256=instructions.sha256),
            image_tokens=(images.min_tokens, images.max_tokens),
            prompt_tokens=response.prompt_tokens,
            new_tokens=response.new_tokens,
        )


def make_app(planner: Planner, api_key: str | None, hosts: list[str]) -> FastAPI:
    """`hosts` are the names under which requests may reach it: a page of another site must not, by pointing its own
    name at this machine."""
    described = f"Plans by {planner.backend.model}"
    # The door asks for the key; this is so that the description says it, and its form has a field for it.
    key = [Depends(HTTPBearer(auto_error=False))] if api_key else []
    app = FastAPI(title="LEAP planner", description=described, redoc_url=None, dependencies=key)
    app.add_middleware(Door, limits=planner.limits, places=planner.places, api_key=api_key)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    app.add_exception_handler(Refused, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)
    started = int(time.time())

    @app.post("/plan", response_model=Plan, responses=_REFUSALS | _NO_PLAN, openapi_extra={"requestBody": _PLAN_BODY})
    async def plan(request: Request) -> Plan:
        """A plan for a scene, checked step by step; never one that the model did not write."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            return await planner.plan(*await _read_form(request))
        if kind != "application/json":
            raise Refused(400, "Content-Type: application/json or multipart/form-data is needed")
        asked = validated(PlanRequest, read_body(await request.body()))
        numbered = asked.numbered_image
        return await planner.plan(
            asked.instruction,
            read_data_uri(asked.image, "image"),
            None if numbered is None else read_data_uri(numbered, "numbered_image"),
        )

    @app.post("/v1/chat/completions", responses=_REFUSALS, openapi_extra={"requestBody": _CHAT_BODY})
    async def chat_completions(request: Request) -> Response:
        """OpenAI's protocol. Images are data: URIs; a field that cannot be honoured is refused by its name."""
        body = read_body(await request.body())
        if body.get("model") != planner.backend.model:
            raise Refused(404, f"model: only {planner.backend.model} is served here", "model")
        return await planner.backend.chat(body)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model."""
        model = {"id": planner.backend.model, "object": "model", "created": started, "owned_by": "leap"}
        return {"object": "list", "data": [model]}

    @app.get("/health", responses={503: {"model": Refusal}})
    async def health() -> Health:
        """Whether the engine runs."""
        if failure := planner.backend.failure():
            raise Refused(503, f"the engine has ended: {first_line(failure)}")
        return Health(status="ok")

    return app


async def _read_form(request: Request) -> tuple[str, bytes, bytes | None]:
    async with request.form(max_files=2, max_fields=1) as form:
        if unknown := sorted(form.keys() - PlanRequest.model_fields.keys()):
            raise Refused(400, f"{unknown[0][:60]}: no field of a plan's request", unknown[0][:60])
        if len(form.multi_items()) > len(form):
            raise Refused(400, "a field is given twice")
        files = {name: await _file(form.get(name), name) for name in ("image", "numbered_image") if name in form}
        # The instruction is bounded as JSON's is; the images are files already.
        asked = validated(
            PlanRequest, {"instruction": form.get("instruction"), "image": "" if "image" in files else None}
        )
    return asked.instruction, files["image"], files.get("numbered_image")


async def _file(value: UploadFile | str | None, field: str) -> bytes:
    if not isinstance(value, UploadFile):
        raise Refused(400, f"{field}: a file is needed (curl -F {field}=@scene.png)", field)
    return await value.read()


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    return error.to_response()


async def _refuse_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return Refused(error.status_code, str(error.detail)).to_response()
