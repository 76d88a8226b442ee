"""Print one plan for one scene.

    python scripts/evaluation/plan_one.py --checkpoint output/checkpoint-200 \\
        --image scene.png --numbered_image scene_numbered.png --instruction "Put the pear into the basket."
    python scripts/evaluation/plan_one.py --checkpoint EvanSirius/leap-ckpts:checkpoint-5000 --image scene.png \\
        --instruction "Put the pear into the basket."    # a model of the hub
"""

import sys

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import FAILED, Parser, count, refuse_reversed, run
from leap.cli import device as device_name
from leap.models.image_size import add_size_arguments, choose_size
from leap.vlabench.sources import SOURCES


def main() -> int | None:
    workspace = WorkspaceConfig.find()
    parser = Parser(__doc__)
    add, find = parser.add_argument, workspace.resolve
    add(
        "--checkpoint",
        "--model_path",
        dest="model",
        type=workspace.find_model,
        default=workspace.base_model,
        help="model folder, or OWNER/NAME[@REVISION][:SUBFOLDER] on the hub",
    )
    add("--image", type=find, required=True, help="the scene")
    add("--numbered_image", type=find, help="the scene with a number on every object (default: --image)")
    add("--instruction", required=True, help="what the robot should do")
    add("--prompt", choices=SOURCES, default="auto", help="whose instructions open the request")
    add("--device", type=device_name, help="cuda, cpu (default: the first GPU, or else the CPU)")
    add("--max_new_tokens", type=count, default=workspace.max_new_tokens, help="a longer answer is cut")
    add_size_arguments(parser, workspace.image_size)
    arguments = parser.parse_args()
    refuse_reversed(arguments, "image_tokens_min", "image_tokens_max")

    from leap.errors import LeapError
    from leap.models.checkpoints import adapter_base, weight_files
    from leap.models.fetching import fetch_models

    image = arguments.image
    numbered = arguments.numbered_image or image
    for path in (image, numbered):
        if not path.is_file():
            raise LeapError(f"{path}: there is no such image")
    fetch_models(arguments, workspace.root)
    folder = arguments.model
    weight_files(folder)
    base = adapter_base(folder, workspace.root)

    from leap.evaluation.requests import build_request
    from leap.evaluation.settings import EvaluationSettings
    from leap.inference.hf import HfEngine
    from leap.inference.protocol import Decoding
    from leap.models.loading import pick_device, pick_dtype
    from leap.vlabench.parsing import parse_plan
    from leap.vlabench.sources import choose_instructions

    size = choose_size(arguments, workspace.image_size, [folder], root=workspace.root)
    device = pick_device(arguments.device)
    engine = HfEngine(folder, size.tokens, device, pick_dtype(None, device), base)
    instructions = choose_instructions(arguments.prompt, workspace.vlabench)
    decoding = Decoding(arguments.max_new_tokens)
    settings = EvaluationSettings(workspace.vlm_evaluation, instructions, size.tokens, decoding)
    request = build_request(("", "0"), arguments.instruction, (image, numbered), settings)
    (answer,) = engine.responses([request], settings.decoding)
    if answer.error is not None:
        raise LeapError(answer.error)
    print(size, file=sys.stderr)
    print(answer.text)
    parsed = parse_plan(answer.text or "")
    if parsed.error is not None:
        print(f"this answer holds no plan that the benchmark would accept: {parsed.error}")
        return FAILED
    return None


if __name__ == "__main__":
    run(main)
