"""A plan that a robot could be handed: read out of a response, checked step by step, or refused with the reason."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from leap.inference.protocol import Response
from leap.terminal import shorten
from leap.vlabench.grounding import Step, plan_steps
from leap.vlabench.parsing import parse_plan
from leap.vlabench.skills import CONTAINER, ENTITY, SKILL_PARAMETER

LONGEST_INSTRUCTION = 4000  # characters
PARAMETERS_DROPPED = "parameters_dropped"
"""A repair beside the parser's: parameters that their skills do not take were left out."""


class PlanRequest(BaseModel):
    """Images are data: URIs (data:image/png;base64,...), or files of a multipart form."""

    model_config = ConfigDict(extra="forbid", strict=True)

    instruction: Annotated[str, StringConstraints(pattern=r"\S", max_length=LONGEST_INSTRUCTION)]
    image: str
    numbered_image: str | None = Field(None, description="the scene with a number on every object (default: image)")


class PlanStep(BaseModel):
    """As the benchmark writes it: the number of an object for the skill's parameter, or none where it takes none."""

    name: str
    params: dict[str, int]


class Prompt(BaseModel):
    source: str
    language: str
    sha256: str


class Plan(BaseModel):
    steps: list[PlanStep]
    repairs: list[str] = Field(description="what had to be mended to read the response; empty for a faultless one")
    response: str = Field(description="what the model wrote")
    model: str
    prompt: Prompt = Field(description="the instructions that opened the request")
    image_tokens: tuple[int, int]
    prompt_tokens: int | None
    new_tokens: int | None


class NoPlan(Exception):
    """Why a response is no plan."""


def read_steps(response: Response) -> tuple[list[PlanStep], list[str]]:
    """(steps, repairs). Raises NoPlan: a plan that is cut off, or names what nobody knows, is none to carry out."""
    if response.finish not in ("stop", "length"):
        raise NoPlan(f"the response was {response.finish}")
    parsed = parse_plan(response.text, "lenient")
    if parsed.error is not None or "truncated_list" in parsed.repairs:
        cut = f"; the response was cut off after {response.new_tokens} tokens" if response.finish == "length" else ""
        raise NoPlan(f"{parsed.error or 'the plan breaks off'}{cut}")
    steps = plan_steps(parsed.plan)
    if not steps:
        raise NoPlan("no list of named steps" if steps is None else "the plan has no step")
    read = [_step(number, step) for number, step in enumerate(steps, 1)]
    given = [set(step.get("params") or ()) for step in parsed.plan or ()]
    dropped = any(names - step.params.keys() for names, step in zip(given, read, strict=True))
    return read, [*parsed.repairs, *([PARAMETERS_DROPPED] if dropped else [])]


def _step(number: int, step: Step) -> PlanStep:
    if step.skill not in SKILL_PARAMETER:
        raise NoPlan(f"step {number}: {shorten(step.skill)!r} is none of the skills {', '.join(SKILL_PARAMETER)}")
    parameter = SKILL_PARAMETER[step.skill]
    if parameter is None:
        return PlanStep(name=step.skill, params={})
    value = step.entity if parameter == ENTITY else step.container
    if not isinstance(value, int):
        found = "nothing" if value is None else repr(shorten(str(value)))
        raise NoPlan(f"step {number}: {step.skill} needs the number of an object as {parameter}; it has {found}")
    return PlanStep(name=step.skill, params={parameter: value})


def _schema() -> dict[str, Any]:
    """JSON Schema of a plan as the prompt asks for it."""

    def step(parameter: str | None) -> dict[str, Any]:
        names = [skill for skill, taken in SKILL_PARAMETER.items() if taken == parameter]
        number = {} if parameter is None else {parameter: {"type": "integer"}}
        return _object({"name": {"enum": names}, "params": _object(number)})

    return {"type": "array", "items": {"anyOf": [step(taken) for taken in (ENTITY, CONTAINER, None)]}, "minItems": 1}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


PLAN_SCHEMA = _schema()
