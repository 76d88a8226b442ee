"""Every kind of object that can stand on the demo's table, with the facts that the tasks ask about.

Looks (shapes, colours, textures) live in `leap.tabletop.appearance`, under the same names.
"""

from dataclasses import dataclass
from math import nan

from leap.errors import LeapError


@dataclass(frozen=True)
class ObjectKind:
    """One kind of object.

    `noun` is how an instruction names it; `radius` is its footprint on the table in metres;
    `properties` are the facts that make a CommonSense or Semantic task answerable.
    Density (kg/m3), friction (coefficient against wood), reflectance (0..1), expansion (10^-6/K) and
    speed of sound (m/s) are set for material blocks only; NaN where nothing clear can be said.
    """

    name: str
    noun: str
    category: str
    radius: float
    properties: frozenset[str] = frozenset()
    density: float = nan
    friction: float = nan
    reflectance: float = nan
    expansion: float = nan
    speed_of_sound: float = nan


def _kind(name: str, category: str, radius: float, *properties: str, noun: str = "") -> ObjectKind:
    return ObjectKind(name, noun or name.replace("_", " "), category, radius, frozenset(properties))


def _block(name: str, noun: str, *physics: float) -> ObjectKind:
    return ObjectKind(name, noun, "block", 0.045, frozenset(), *physics)


_KINDS = (
    _kind("apple", "fruit", 0.045, "red", "crisp", "in_legends"),
    _kind("banana", "fruit", 0.085, "yellow", "peeled_by_hand", "monkey_favourite"),
    _kind("orange", "fruit", 0.045, "orange_coloured", "citrus", "peeled_by_hand", "names_a_colour"),
    _kind("lemon", "fruit", 0.042, "yellow", "citrus", "sour"),
    _kind("pear", "fruit", 0.045, "green", "bulb_shaped"),
    _kind("watermelon", "fruit", 0.085, "green", "biggest_fruit"),
    _kind("grapes", "fruit", 0.060, "purple", "makes_wine", "in_bunches"),
    _kind("cola", "drink", 0.036, "fizzy", "soft_drink", noun="can of cola"),
    _kind("milk", "drink", 0.045, "dairy", "from_cows", noun="carton of milk"),
    _kind("water", "drink", 0.036, "clear", "no_sugar", noun="bottle of water"),
    _kind("wine", "drink", 0.040, "alcoholic", "from_grapes", noun="bottle of wine"),
    _kind("beer", "drink", 0.036, "alcoholic", "fizzy", "from_barley", noun="bottle of beer"),
    _kind("orange_juice", "drink", 0.045, "fruit_drink", "vitamin_c", noun="carton of orange juice"),
    _kind("ball", "toy", 0.050, "rolls", "kicked"),
    _kind("toy_car", "toy", 0.075, "wheels", "vehicle", "driven_on_roads"),
    _kind("toy_train", "toy", 0.085, "wheels", "vehicle", "runs_on_rails"),
    _kind("rubber_duck", "toy", 0.060, "animal", "bath", "floats"),
    _kind("teddy_bear", "toy", 0.065, "animal", "soft", "cuddly"),
    _kind("spinning_top", "toy", 0.045, "spins"),
    _kind("red_book", "book", 0.085, "red"),
    _kind("blue_book", "book", 0.085, "blue"),
    _kind("green_book", "book", 0.085, "green"),
    _kind("yellow_book", "book", 0.085, "yellow"),
    _kind("purple_book", "book", 0.085, "purple"),
    _kind("salt", "condiment", 0.030, "salty", "white", "from_the_sea", noun="salt shaker"),
    _kind("pepper", "condiment", 0.030, "hot", "black", "makes_you_sneeze", noun="pepper mill"),
    _kind("ketchup", "condiment", 0.036, "from_tomatoes", "red", noun="ketchup bottle"),
    _kind("mustard", "condiment", 0.036, "yellow", "sharp", noun="mustard bottle"),
    _kind("soy_sauce", "condiment", 0.036, "salty", "dark", "from_beans", noun="soy sauce bottle"),
    _kind("honey", "condiment", 0.040, "sweet", "from_bees", noun="honey jar"),
    _kind("rose", "flower", 0.045, "red", "love", "thorns"),
    _kind("tulip", "flower", 0.045, "pink", "from_holland"),
    _kind("sunflower", "flower", 0.055, "yellow", "follows_the_sun", "edible_seeds"),
    _kind("daisy", "flower", 0.045, "white", "petals_pulled_off"),
    _kind("lavender", "flower", 0.045, "purple", "scented", "calms"),
    _kind("red_solution", "tube", 0.026, "red", "acid", noun="tube with the red solution"),
    _kind("blue_solution", "tube", 0.026, "blue", "copper", noun="tube with the blue solution"),
    _kind("green_solution", "tube", 0.026, "green", "nickel", noun="tube with the green solution"),
    _kind("yellow_solution", "tube", 0.026, "yellow", "chromate", noun="tube with the yellow solution"),
    _kind("purple_solution", "tube", 0.026, "purple", "permanganate", noun="tube with the purple solution"),
    _kind("ace_of_spades", "card", 0.060, "highest_card", noun="ace of spades"),
    _kind("king_of_hearts", "card", 0.060, "man_on_card", "worth_ten", noun="king of hearts"),
    _kind("queen_of_diamonds", "card", 0.060, "woman_on_card", "worth_ten", noun="queen of diamonds"),
    _kind("ten_of_clubs", "card", 0.060, "worth_ten", noun="ten of clubs"),
    _kind("seven_of_hearts", "card", 0.060, "lucky_number", noun="seven of hearts"),
    _kind("two_of_spades", "card", 0.060, "lowest_card", noun="two of spades"),
    # Density, friction, reflectance, expansion, speed of sound: textbook values, rounded; only their order matters.
    # Ice lets light through, and melts when it is warmed. Wood differs along its grain and across it. Soft rubber has a
    # fast sort of sound and a slow one.
    _block("steel_block", "block of steel", 7850, 0.45, 0.65, 12, 5900),
    _block("wood_block", "block of wood", 600, 0.40, 0.20, nan, nan),
    _block("foam_block", "block of foam", 30, 0.60, 0.40, 70, 300),
    _block("stone_block", "block of stone", 2600, 0.65, 0.25, 8, 4500),
    _block("gold_block", "block of gold", 19300, 0.30, 0.75, 14, 3200),
    _block("rubber_block", "block of black rubber", 1100, 0.90, 0.05, 170, nan),
    _block("ice_block", "block of ice", 917, 0.03, nan, nan, 3900),
    _block("mirror_block", "mirrored block", 2500, 0.35, 0.95, 9, 5600),
    _kind("plate", "container", 0.095),
    _kind("bowl", "container", 0.080),
    _kind("basket", "container", 0.105),
    _kind("box", "container", 0.105, noun="cardboard box"),
    _kind("tray", "container", 0.120),
    _kind("pan", "container", 0.110, noun="frying pan"),
    _kind("vase", "container", 0.055),
    _kind("tube_rack", "container", 0.100, noun="tube rack"),
    _kind("beaker", "container", 0.050),
    _kind("shelf", "container", 0.130, noun="book shelf"),
    _kind("fridge", "container", 0.140, noun="small fridge"),
    _kind("juicer", "container", 0.075),
    _kind("card_mat", "container", 0.120, noun="green card mat"),
)

KINDS: dict[str, ObjectKind] = {kind.name: kind for kind in _KINDS}


def kinds_of(category: str) -> tuple[ObjectKind, ...]:
    """All kinds of a category, in catalogue order."""
    found = tuple(kind for kind in _KINDS if kind.category == category)
    if not found:
        raise LeapError(f"no object category {category!r}; there are {', '.join(sorted({k.category for k in _KINDS}))}")
    return found
