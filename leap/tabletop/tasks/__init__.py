"""The demo's benchmark: episodes for all six dimensions, under upstream's task names.

    episode = make_episode("Spatial", "select_book_spatial", random.Random(7), phrasing="eval")

To add a task, add one line to `TASKS` of its dimension's module: a maker with a name, for most dimensions an action
of `leap.tabletop.tasks.actions`. Everything is drawn from the given generator, so the same seed gives the same episode
in every process. With `phrasing="train"` every third template of each list is withheld; with "eval" all are drawn.
"""

import random

from leap.errors import LeapError
from leap.tabletop.tasks import common_sense, complex, mesh_texture, physics_law, semantic, spatial
from leap.tabletop.tasks.episode import Episode, TaskMaker

__all__ = ["TASKS", "Episode", "TaskMaker", "make_episode"]

TASKS: dict[str, tuple[TaskMaker, ...]] = {
    "M&T": mesh_texture.TASKS,
    "CommonSense": common_sense.TASKS,
    "Semantic": semantic.TASKS,
    "Spatial": spatial.TASKS,
    "PhysicsLaw": physics_law.TASKS,
    "Complex": complex.TASKS,
}


def make_episode(dimension: str, task: str, rng: random.Random, phrasing: str = "train") -> Episode:
    """One new example of a task; `phrasing` is "train" or "eval" (see `leap.tabletop.tasks.surface_forms`).

    Raises LeapError for an unknown dimension, task or phrasing.
    """
    if dimension not in TASKS:
        raise LeapError(f"the demo has no dimension {dimension!r}; there are {', '.join(TASKS)}")
    makers = {maker.name: maker for maker in TASKS[dimension]}
    if task not in makers:
        raise LeapError(f"the demo has no task {task!r} in {dimension}; there are {', '.join(makers)}")
    return makers[task].make(rng, phrasing)
