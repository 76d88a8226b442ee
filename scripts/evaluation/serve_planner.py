"""Serve a model as a planner: plans as JSON at /plan, OpenAI's chat protocol at /v1, a page to try it on at /.

    python scripts/evaluation/serve_planner.py --checkpoint output/checkpoint-200
    curl -F image=@scene.png -F numbered_image=@scene_numbered.png -F instruction="Lift the red book." \\
        http://127.0.0.1:8000/plan
    python scripts/evaluation/serve_planner.py --checkpoint output/checkpoint-200 --host 0.0.0.0 --api_key KEY
    python scripts/evaluation/serve_planner.py --engine openai --base_url http://localhost:8001/v1

It listens on this machine alone unless --host says otherwise. Ctrl-C ends it, and the vLLM server behind it.
"""

import argparse
import os
import re
import sys
from importlib.util import find_spec

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import Parser, count, refuse_reversed, run, some_seconds, whole
from leap.errors import LeapError, UsageError
from leap.inference.engines import EngineOptions, ModelToOpen, add_engine_arguments
from leap.inference.vllm_server import INTERPRETER
from leap.models.image_size import add_size_arguments, choose_size
from leap.vlabench.sources import SOURCES

API_KEY = "LEAP_API_KEY"
_LAST_PORT = 65_535


def parse_arguments(workspace: WorkspaceConfig) -> argparse.Namespace:
    parser = Parser(__doc__)
    add, model = parser.add_argument, workspace.find_model
    where = "model folder, or OWNER/NAME[@REVISION][:SUBFOLDER] on the hub (default: the baseline)"
    add("--checkpoint", "--model_path", dest="checkpoint", type=model, help=where)
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 is every one of this machine")
    add("--port", type=whole, default=8000, help="0 takes a free one")
    add("--api_key", help=f"what every request must send as its key (default: ${API_KEY}, or none)")
    add("--served_model_name", help="the model's name in the protocol (default: as in results)")
    add("--max_queue", type=count, default=64, help="requests under way and waiting; others are answered 429")
    add("--request_timeout", type=some_seconds, default=300.0, help="seconds a request may take")
    add("--no_page", action="store_true", help="no page at /, also where Gradio is installed")
    add("--prompt", choices=SOURCES, default="auto", help="whose instructions open a plan's request")
    add("--language", choices=("en", "zh"), default="en", help="of the prompt")
    add("--max_new_tokens", type=count, default=workspace.max_new_tokens, help="a longer answer is cut")
    add_size_arguments(parser, workspace.image_size)
    add_engine_arguments(parser, model, default=None)
    return parser.parse_args()


def _refuse_what_would_be_ignored(arguments: argparse.Namespace) -> None:
    refuse_reversed(arguments, "image_tokens_min", "image_tokens_max")
    if arguments.port > _LAST_PORT:
        raise UsageError(f"--port {arguments.port}: ports end at {_LAST_PORT}")
    if arguments.api_key and not re.fullmatch("[!-~]+", arguments.api_key):
        raise UsageError("--api_key: letters, digits and signs of ASCII without blanks are needed")
    if arguments.engine == "openai" and (arguments.checkpoint or arguments.served_model_name):
        raise UsageError("--engine openai serves what that server has: give no --checkpoint and no --served_model_name")
    if arguments.checkpoint and arguments.lora_adapter_path:
        raise UsageError("--checkpoint is a model of its own: give no --lora_adapter_path with it")
    for library in ("fastapi", "uvicorn", "python_multipart"):
        if not find_spec(library):
            raise LeapError(f"{library} is missing: pip install -c constraints.txt -e '.[serve]'")


def main() -> None:
    workspace = WorkspaceConfig.find()
    arguments = parse_arguments(workspace)
    has_vllm = arguments.vllm_python or os.environ.get(INTERPRETER) or find_spec("vllm")
    arguments.api_key = arguments.api_key or os.environ.get(API_KEY)
    arguments.engine = arguments.engine or ("vllm" if has_vllm else "hf")
    _refuse_what_would_be_ignored(arguments)
    options = EngineOptions.of(arguments)

    from leap.serving.serve import bind, host_names, shown_address

    bound, hosts = bind(arguments.host, arguments.port), host_names(arguments.host)
    address, api_key = shown_address(arguments.host, bound), arguments.api_key
    if hosts == ["*"] and not api_key:
        print(f"anybody who reaches {address} can ask; --api_key asks them for a key", file=sys.stderr)
    size, model = (_served if options.served else _local)(workspace, arguments)

    from leap.evaluation.settings import EvaluationSettings
    from leap.inference.protocol import Decoding
    from leap.serving.app import Planner, make_app
    from leap.serving.door import Limits
    from leap.serving.serve import ended_in_order, open_backend, serve
    from leap.vlabench.sources import choose_instructions

    instructions = choose_instructions(arguments.prompt, workspace.vlabench, arguments.language)
    decoding, limits = (
        Decoding(arguments.max_new_tokens),
        Limits(arguments.max_queue, seconds=arguments.request_timeout),
    )
    settings = EvaluationSettings(workspace.vlm_evaluation, instructions, size.tokens, decoding)
    with ended_in_order(lambda: open_backend(options, model, size.tokens, decoding, limits)) as backend:
        planner = Planner(backend, settings, limits)
        app = make_app(planner, api_key, hosts)
        if find_spec("gradio") and not arguments.no_page:
            from leap.serving.page import add_page, find_page_examples

            app = add_page(app, planner, find_page_examples(workspace.vlm_evaluation), api_key)
        elif not arguments.no_page:
            print("no page: Gradio is missing (pip install -e '.[page]')", file=sys.stderr)
        print(f"{size}\n{backend.model} at {address} (/plan and /v1, described at /docs)", file=sys.stderr, flush=True)
        serve(app, backend, bound)


def _served(workspace: WorkspaceConfig, arguments: argparse.Namespace):
    """A server cannot be asked how its model was trained."""
    return choose_size(arguments, workspace.image_size), None


def _local(workspace: WorkspaceConfig, arguments: argparse.Namespace):
    """A model in a folder, not loaded yet."""
    from leap.evaluation.model_names import refuse_no_adapter
    from leap.models.checkpoints import adapter_base, result_name, weight_files
    from leap.models.fetching import fetch_models
    from leap.models.loading import pick_device, pick_dtype
    from leap.serving.serve import model_id

    fetch_models(arguments, workspace.root)
    folder = arguments.checkpoint or arguments.lora_adapter_path or workspace.base_model
    if arguments.base_model_path or arguments.lora_adapter_path:
        refuse_no_adapter(folder)
    weight_files(folder)
    base = adapter_base(folder, workspace.root, arguments.base_model_path)
    size = choose_size(arguments, workspace.image_size, [folder], root=workspace.root, base=base)
    device = pick_device(arguments.device)
    name = model_id(arguments.served_model_name or result_name(folder.resolve(), workspace.output.resolve()))
    log = workspace.logs / f"vllm-{name}.log"
    return size, ModelToOpen(folder, base, size.tokens, device, pick_dtype(arguments.dtype, device), None, log, name)


if __name__ == "__main__":
    run(main)
