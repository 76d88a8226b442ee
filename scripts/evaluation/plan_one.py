"""Print one plan for one scene.

    python scripts/evaluation/plan_one.py --checkpoint output/checkpoint-200 \\
        --image scene.png --numbered-image scene_numbered.png --instruction "Put the pear into the basket."
"""

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import WorkspaceConfig
from leap.cli import FAILED, Parser, count, image_tokens, refuse_reversed, run
from leap.vlabench.sources import SOURCES


def main() -> int | None:
    workspace = WorkspaceConfig.find()
    parser = Parser(__doc__)
    parser.add_argument("--checkpoint", "--model_path", dest="model", default=workspace.base_model, help="model folder")
    parser.add_argument("--image", required=True, help="the scene")
    parser.add_argument("--numbered-image", help="the scene with a number on every object (default: --image)")
    parser.add_argument("--instruction", required=True, help="what the robot should do")
    parser.add_argument("--prompt", choices=SOURCES, default="auto", help="whose instructions open the request")
    parser.add_argument("--device", help="cuda, cpu (default: the first GPU, or else the CPU)")
    parser.add_argument("--max_new_tokens", type=count, default=workspace.max_new_tokens, help="a longer answer is cut")
    parser.add_argument(
        "--image_tokens_min", type=image_tokens, default=workspace.image_tokens_min, help="image size, in 32x32 pixels"
    )
    parser.add_argument(
        "--image_tokens_max", type=image_tokens, default=workspace.image_tokens_max, help="image size, in 32x32 pixels"
    )
    arguments = parser.parse_args()
    refuse_reversed(arguments, "image_tokens_min", "image_tokens_max")

    from leap.data.pictures import PictureSize
    from leap.errors import LeapError
    from leap.evaluation.requests import build_request
    from leap.evaluation.settings import EvaluationSettings
    from leap.inference.hf import HfEngine
    from leap.inference.protocol import Decoding
    from leap.models.checkpoints import adapter_base
    from leap.models.loading import default_dtype, pick_device
    from leap.vlabench.parsing import parse_plan
    from leap.vlabench.sources import choose_instructions

    picture = workspace.resolve(arguments.image)
    numbered = workspace.resolve(arguments.numbered_image) if arguments.numbered_image else picture
    size = PictureSize(arguments.image_tokens_min, arguments.image_tokens_max)
    device = pick_device(arguments.device)
    folder = workspace.resolve(arguments.model)
    engine = HfEngine(folder, size, device, default_dtype(device), adapter_base(folder, workspace.root))
    instructions = choose_instructions(arguments.prompt, workspace.vlabench)
    settings = EvaluationSettings(workspace.vlm_evaluation, instructions, size, Decoding(arguments.max_new_tokens))
    request = build_request(("", "0"), arguments.instruction, (picture, numbered), settings)
    (answer,) = engine.answers([request], settings.decoding)
    if answer.error is not None:
        raise LeapError(answer.error)
    print(answer.text)
    parsed = parse_plan(answer.text or "")
    if parsed.error is not None:
        print(f"this answer holds no plan that the benchmark would accept: {parsed.error}")
        return FAILED
    return None


if __name__ == "__main__":
    run(main)
