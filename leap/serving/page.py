"""A page to try the planner on, made with Gradio: two images, an instruction, the steps."""

import hmac
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from leap.errors import LeapError
from leap.records.benchmark import BenchmarkExample
from leap.serving.app import Planner
from leap.serving.plans import LONGEST_INSTRUCTION
from leap.serving.refusals import Refused
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import find_examples

if TYPE_CHECKING:
    from fastapi import FastAPI

Example = tuple[str, str, str]  # image, numbered image, instruction
_FONTS = ("system-ui", "sans-serif")  # Gradio's own come from another server
_KEPT = 3600  # seconds that images which were dropped on the page are kept
LABELS = ("The scene", "With a number on every object")
_SOURCES = ["upload", "clipboard"]


def find_page_examples(data: Path) -> list[Example]:
    """The first of each dimension whose examples lie there whole: a plan needs none of them."""
    found: list[BenchmarkExample] = []
    for dimension in DIMENSIONS:
        with suppress(LeapError):
            found += find_examples(data, dimension, max_tasks=1, num_episodes=1)
    return [(str(one.image), str(one.numbered_image), one.instruction) for one in found]


def add_page(app: "FastAPI", planner: Planner, examples: Sequence[Example], api_key: str | None) -> "FastAPI":
    """The app with the page at /. With an API key it asks for that as the password, whoever says to come."""
    import gradio

    refused = partial(gradio.Error, print_exception=False)  # the client is to blame, and no traceback says more

    async def plan(image: str | None, numbered: str | None, instruction: str) -> tuple[str, str, str]:
        """(a list of steps, what is to be said of it, the response)."""
        if not image or not instruction.strip():
            raise refused("an image and an instruction are needed")
        shown = None if numbered is None else Path(numbered).read_bytes()
        try:
            with planner.places.one(), anyio.fail_after(planner.limits.seconds):
                found = await planner.plan(instruction[:LONGEST_INSTRUCTION], Path(image).read_bytes(), shown)
        except TimeoutError as error:
            raise refused(f"no response within {planner.limits.seconds:g} s") from error
        except Refused as refusal:
            if refusal.response is None:
                raise refused(str(refusal)) from refusal
            return "", str(refusal), refusal.response
        # Names that are known and numbers: nothing that the model wrote is read as Markdown.
        lines = [
            " ".join(["1.", step.name, *(f"**{number}**" for number in step.params.values())]) for step in found.steps
        ]
        return "\n".join(lines), f"a plan; mended: {', '.join(found.repairs) or 'nothing'}", found.response

    title = f"{planner.backend.model} plans"
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(_KEPT, _KEPT)) as page:
        gradio.HTML(f"<h1>{title}</h1>")
        with gradio.Row():
            with gradio.Column():
                upload = partial(gradio.Image, type="filepath", image_mode=None, sources=_SOURCES, height=300)
                images = [upload(label=label) for label in LABELS]
                instruction = gradio.Textbox(label="Instruction", max_length=LONGEST_INSTRUCTION, lines=2)
                ask = gradio.Button("Plan", variant="primary")
            with gradio.Column():
                steps = gradio.Markdown(label="Steps", show_label=True, container=True, min_height=150)
                verdict = gradio.Textbox(label="Reading", interactive=False)
                response = gradio.Textbox(label="Response", interactive=False, lines=6)
        inputs, outputs = [*images, instruction], [steps, verdict, response]
        if examples:
            gradio.Examples([list(example) for example in examples], inputs, label="Scenes of this workspace")
        for event in (ask.click, instruction.submit):
            event(plan, inputs, outputs, api_visibility="private", concurrency_limit=planner.limits.waiting)
    for component in page.blocks.values():
        _take_uploads_only(component, refused)
    return gradio.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        auth=(lambda _, password: hmac.compare_digest(password.encode(), api_key.encode())) if api_key else None,
        max_file_size=planner.limits.body,
        ssr_mode=False,
        theme=gradio.themes.Base(font=_FONTS, font_mono=("monospace",)),
    )


def _take_uploads_only(component: Any, refused: Any) -> None:
    """Gradio fetches any address that stands in the place of an uploaded file, whatever the component is for. (No
    subclass of its own: beside the module of one Gradio writes a file.)"""
    move = getattr(component, "async_move_resource_to_block_cache", None)
    if move is None:
        return

    async def move_upload(path: Any) -> str | None:
        if "://" in str(path):
            raise refused("nothing is fetched; upload the image itself")
        return await move(path)

    component.async_move_resource_to_block_cache = move_upload
