"""Make the base model leap-tabletop again: render scenes, train from random weights, save, measure, write its card.

    NUM_GPUS=2 python -m leap.launch scripts/utils/pretrain_tabletop.py --work /tmp/work --workers 32   # ten minutes
    python scripts/utils/pretrain_tabletop.py --work /tmp/tiny --output /tmp/tiny/model --scenes 64 --steps 20

Every part goes on where it was interrupted. A model that is there already is only measured.
"""

from pathlib import Path

import leap.interrupt  # noqa: F401  (before what takes time)
from configs.config import REPOSITORY
from leap.cli import Parser, count, run, seconds, seed, share, whole
from leap.records.paths import find_path


def _from_here(text: str) -> Path:
    return find_path(text, Path.cwd())


def main() -> None:
    parser = Parser(__doc__)
    add = parser.add_argument
    models = REPOSITORY / "models"
    add("--work", type=_from_here, required=True, help="folder for scenes (260 kB each) and checkpoints")
    add("--output", type=_from_here, default=models / "leap-tabletop", help="the model's folder")
    add("--start", type=_from_here, help="a model to go on from, in place of random weights")
    add("--scenes", type=count, default=60_000, help="to train on (default %(default)s)")
    add("--validation_scenes", type=count, default=400, help="to measure on (default %(default)s)")
    add("--render_seconds", type=seconds, default=86_400, help="train on what is rendered by then")
    add("--steps", type=whole, default=6_000, help="0: only render (default %(default)s)")
    add("--end_seconds", type=seconds, help="in place of --steps: training ends so long after the start")
    add("--samples_per_step", type=count, default=512, help="default %(default)s")
    add("--learning_rate", type=share, default=1.5e-3, help="default %(default)s")
    add("--warmup_steps", type=whole, default=300, help="default %(default)s")
    add("--seed", type=seed, default=0, help="of scenes, questions and weights (default %(default)s)")
    add("--workers", type=count, default=2, help="processes that render and ask (default %(default)s)")
    arguments = parser.parse_args()

    from leap.tabletop.pretraining import Pretraining, pretrain

    pretrain(Pretraining(**vars(arguments)), REPOSITORY)


if __name__ == "__main__":
    run(main)
