"""How everything on and around the demo's table looks, as MJCF made of primitives and procedural meshes."""

from collections.abc import Callable

from leap.tabletop.appearance import bottles, containers, flowers, food, solids, toys
from leap.tabletop.appearance.look import Look

LOOKS: dict[str, Callable[[Look], None]] = {
    **food.LOOKS,
    **bottles.LOOKS,
    **toys.LOOKS,
    **flowers.LOOKS,
    **solids.LOOKS,
    **containers.LOOKS,
}
