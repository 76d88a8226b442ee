"""A plan as moves (a skill and the kind of object it names), and its two written forms."""

from collections.abc import Sequence

from leap.tabletop.catalogue import KINDS
from leap.tabletop.scene import Scene
from leap.tabletop.tasks.surface_forms import inside, into, pronoun, the

Move = tuple[str, str]  # (skill, kind); the kind is "" for a skill without a parameter

_ENTITY_SKILLS = ("pick", "press")
_CONTAINER_SKILLS = ("place", "insert", "pour", "push")


def skill_sequence(scene: Scene, moves: Sequence[Move]) -> list[dict]:
    """The plan in the benchmark's format, with the numbers drawn in the image."""
    return [{"name": skill, "params": _params(scene, skill, kind)} for skill, kind in moves]


def _params(scene: Scene, skill: str, kind: str) -> dict[str, int]:
    if skill in _ENTITY_SKILLS:
        return {"target_entity_name": scene.number_of(kind)}
    if skill in _CONTAINER_SKILLS:
        return {"target_container_name": scene.number_of(kind)}
    return {}


def plain_steps(moves: Sequence[Move]) -> tuple[str, ...]:
    """The plan in plain language, one sentence a move; "it" is the object picked last."""
    steps = []
    held = ""
    for place, (skill, kind) in enumerate(moves):
        if skill == "pick":
            held = kind
            following = moves[place + 1][0] if place + 1 < len(moves) else ""
            steps.append(_pick_step(kind, following))
        else:
            steps.append(_step(skill, kind, held))
    return tuple(steps)


def _pick_step(kind: str, following: str) -> str:
    if following in ("open_door", "push"):
        return f"Take hold of the door of {the(kind)}."
    return f"Take hold of {the(kind)}." if following == "pull" else f"Pick up {the(kind)}."


def _step(skill: str, kind: str, held: str) -> str:
    it = pronoun(held)
    if skill == "pour":
        amount = "the liquid" if KINDS[held].category == "tube" else "some"
        return f"Pour {amount} {into(kind)}."
    return {
        "place": lambda: f"Place {it} {inside(kind)}.",
        "insert": lambda: f"Insert {it} into {the(kind)}.",
        "lift": lambda: f"Lift {it} up.",
        "pull": lambda: f"Pull {it} closer.",
        "press": lambda: f"Press {the(kind)}.",
        "open_door": lambda: "Open it.",
        "push": lambda: "Push it shut.",
    }[skill]()
