"""The people: their permanent attributes, and families of look-alikes that differ in one or two of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from reid_jax.data.synthped import randomness

Color = tuple[int, int, int]

# Dark and neutral clothes are common in streets and make histograms ambiguous, so they have larger weights.
CLOTH_ColorS: dict[str, tuple[Color, float]] = {
    "black": ((34, 33, 37), 3.0),
    "charcoal": ((66, 67, 73), 2.4),
    "gray": ((120, 121, 124), 2.0),
    "silver": ((176, 177, 178), 1.5),
    "white": ((226, 226, 222), 1.8),
    "navy": ((38, 46, 82), 2.2),
    "blue": ((52, 84, 152), 1.4),
    "sky": ((126, 166, 206), 1.0),
    "denim": ((78, 98, 132), 1.8),
    "beige": ((198, 178, 146), 1.5),
    "brown": ((104, 76, 56), 1.4),
    "khaki": ((136, 128, 92), 1.2),
    "olive": ((84, 92, 58), 1.0),
    "green": ((58, 122, 82), 0.8),
    "teal": ((46, 122, 130), 0.7),
    "red": ((176, 46, 48), 1.0),
    "maroon": ((110, 40, 54), 0.9),
    "pink": ((214, 150, 166), 0.8),
    "purple": ((104, 72, 132), 0.7),
    "yellow": ((214, 182, 72), 0.7),
    "orange": ((206, 112, 52), 0.6),
}
HAIR_ColorS: tuple[Color, ...] = (
    (28, 24, 23),
    (54, 40, 32),
    (92, 64, 44),
    (136, 98, 58),
    (186, 150, 96),
    (140, 140, 140),
    (122, 54, 34),
)
SKIN_TONES: tuple[Color, ...] = (
    (240, 204, 178),
    (226, 184, 152),
    (206, 158, 122),
    (174, 124, 88),
    (132, 90, 64),
    (94, 64, 48),
)
HAIR_STYLES = (
    ("short", 4.0),
    ("bald", 0.7),
    ("bob", 1.6),
    ("long", 2.2),
    ("ponytail", 1.4),
    ("bun", 0.8),
    ("curly", 0.9),
)
HATS = (("none", 7.0), ("cap", 1.3), ("beanie", 1.0), ("sunhat", 0.5))
TOPS = (
    ("tshirt", 3.0),
    ("shirt", 1.8),
    ("jumper", 1.8),
    ("hoodie", 1.8),
    ("jacket", 2.4),
    ("coat", 1.4),
    ("dress", 1.2),
    ("vest", 0.8),
)
BOTTOMS = (("trousers", 5.0), ("shorts", 1.8), ("skirt", 1.3), ("leggings", 1.0))
BAGS = (("none", 3.0), ("backpack", 2.4), ("shoulder", 1.8), ("handbag", 1.3), ("tote", 0.7))
PATTERNS = (
    ("plain", 4.0),
    ("hstripes", 1.4),
    ("vstripes", 0.7),
    ("checks", 0.9),
    ("dots", 0.6),
    ("twotone", 1.0),
    ("gradient", 0.5),
    ("band", 0.9),
)
PRINTS = (("none", 4.0), ("patch", 1.2), ("square", 1.0), ("disc", 1.0))
SHOES = (("sneaker", 3.0), ("shoe", 1.6), ("boot", 1.3), ("sandal", 0.5))


@dataclasses.dataclass(frozen=True)
class Cloth:
    """A fabric with its color and pattern; `scale` is the number of repeats over a trunk."""

    color: Color
    pattern: str = "plain"
    second: Color = (0, 0, 0)
    scale: int = 6


@dataclasses.dataclass(frozen=True)
class Cut:
    """How garments, bags and hair depart from their usual shape; the defaults are the usual one.

    Lengths are fractions of the stature, the others factors, except `sleeve` and `trousers`: the share of forearm and
    shin that long sleeves and trousers cover.
    """

    top_length: float = 0.0  # added below the waist
    short_sleeve: float = 1.0
    sleeve: float = 1.0
    trouser_width: float = 1.0
    trousers: float = 1.0
    shorts_length: float = 0.0  # added, as a share of the thigh
    skirt_length: float = 0.0
    opening: float = 0.0  # added to half the angle of an open jacket, in radians
    print_size: float = 1.0
    print_height: float = 0.0  # added, as a share of the trunk, downward
    bag_size: float = 1.0
    bag_drop: float = 0.0
    hair: float = 1.0


@dataclasses.dataclass(frozen=True)
class Person:
    """The attributes of a person that are the same in every image; lengths are fractions of the stature."""

    skin: Color
    hair: Color
    hair_style: str
    beard: bool
    glasses: bool
    hat: str
    hat_color: Color
    top: str
    top_cloth: Cloth
    sleeve: str  # "short" | "long"
    sleeve_color: Color
    inner_cloth: Cloth
    chest_print: str
    back_print: str
    print_color: Color
    scarf: bool
    scarf_color: Color
    bottom: str
    bottom_cloth: Cloth
    side_stripe: bool
    belt: bool
    shoes: str
    shoe_color: Color
    sole_color: Color
    bag: str
    bag_color: Color
    bag_side: int
    stature: float
    shoulder: float
    hip: float
    girth: float
    leg: float
    cut: Cut = Cut()


def cloth_color(rng: np.random.Generator, apart_from: Color | None = None) -> Color:
    """Draws a slightly varied clothing color that is distinguishable from `apart_from`."""
    table = tuple((name, weight) for name, (_, weight) in CLOTH_ColorS.items())
    color: Color = (0, 0, 0)
    for _ in range(8):
        base = CLOTH_ColorS[randomness.weighted(rng.random(), table)][0]
        shift = rng.integers(-10, 11, 3)
        red, green, blue = (int(min(max(value + step, 14), 240)) for value, step in zip(base, shift))
        color = (red, green, blue)
        if apart_from is None or sum(abs(a - b) for a, b in zip(color, apart_from)) > 110:
            break
    return color


def draw_cloth(rng: np.random.Generator, plain: float = 0.0) -> Cloth:
    """Draws a fabric; `plain` is the probability of having no pattern."""
    color = cloth_color(rng)
    pattern = randomness.weighted(rng.random(), PATTERNS)
    if rng.random() < plain:
        pattern = "plain"
    return Cloth(color, pattern, cloth_color(rng, apart_from=color), int(rng.integers(4, 9)))


def draw_person(rng: np.random.Generator) -> Person:
    """Draws a person with all attributes."""
    hair_style = randomness.weighted(rng.random(), HAIR_STYLES)
    short_hair = hair_style in ("short", "bald")
    top = randomness.weighted(rng.random(), TOPS)
    top_cloth = draw_cloth(rng, plain=0.75 if top in ("coat", "jacket") else 0.1)
    bottom = "none" if top == "dress" else randomness.weighted(rng.random(), BOTTOMS)
    if bottom == "skirt" and short_hair:
        bottom = "trousers"
    long_sleeve = top in ("jumper", "hoodie", "jacket", "coat") or (top == "shirt" and rng.random() < 0.7)
    inner = draw_cloth(rng, plain=0.4)
    return Person(
        skin=SKIN_TONES[int(rng.integers(len(SKIN_TONES)))],
        hair=HAIR_ColorS[int(rng.integers(len(HAIR_ColorS)))],
        hair_style=hair_style,
        beard=bool(short_hair and rng.random() < 0.35),
        glasses=bool(rng.random() < 0.2),
        hat=randomness.weighted(rng.random(), HATS),
        hat_color=cloth_color(rng),
        top=top,
        top_cloth=top_cloth,
        sleeve="long" if long_sleeve else "short",
        sleeve_color=cloth_color(rng, top_cloth.color) if rng.random() < 0.2 else top_cloth.color,
        inner_cloth=inner,
        chest_print=randomness.weighted(rng.random(), PRINTS),
        back_print=randomness.weighted(rng.random(), PRINTS),
        print_color=cloth_color(rng, top_cloth.color),
        scarf=bool(rng.random() < 0.12),
        scarf_color=cloth_color(rng, top_cloth.color),
        bottom=bottom,
        bottom_cloth=dataclasses.replace(draw_cloth(rng, plain=0.8), scale=int(rng.integers(4, 7))),
        side_stripe=bool(rng.random() < 0.15),
        belt=bool(rng.random() < 0.3),
        shoes=randomness.weighted(rng.random(), SHOES),
        shoe_color=cloth_color(rng),
        sole_color=(222, 222, 218) if rng.random() < 0.55 else (40, 38, 38),
        bag=randomness.weighted(rng.random(), BAGS),
        bag_color=cloth_color(rng, top_cloth.color),
        bag_side=1 if rng.random() < 0.5 else -1,
        stature=1.0 + 0.05 * randomness.bell(rng.random()),
        shoulder=0.122 + 0.018 * randomness.bell(rng.random()) + (0.006 if short_hair else -0.004),
        hip=0.096 + 0.012 * randomness.bell(rng.random()) + (-0.003 if short_hair else 0.004),
        girth=1.0 + 0.30 * abs(randomness.bell(rng.random())) * (1 if rng.random() < 0.6 else -0.5),
        leg=0.485 + 0.02 * randomness.bell(rng.random()),
    )


def _change_detail(person: Person, detail: str, rng: np.random.Generator) -> Person:
    """Returns the person with a detail changed to a different value."""
    replace = dataclasses.replace
    other = {
        "hair": lambda: replace(person, hair=_another(rng, HAIR_ColorS, person.hair)),
        "hair_style": lambda: replace(person, hair_style=_another_name(rng, HAIR_STYLES, person.hair_style)),
        "hat": lambda: replace(person, hat=_another_name(rng, HATS, person.hat)),
        "top_color": lambda: _recolor_top(person, cloth_color(rng, person.top_cloth.color)),
        "pattern": lambda: replace(
            person, top_cloth=replace(person.top_cloth, pattern=_another_name(rng, PATTERNS, person.top_cloth.pattern))
        ),
        "second_color": lambda: _recolor_pattern(person, rng),
        "print": lambda: replace(
            person,
            chest_print=_another_name(rng, PRINTS, person.chest_print),
            back_print=_another_name(rng, PRINTS, person.back_print),
        ),
        "sleeves": lambda: replace(person, sleeve_color=cloth_color(rng, person.sleeve_color)),
        "bottom_color": lambda: _recolor_bottom(person, rng),
        "side_stripe": lambda: replace(person, side_stripe=not person.side_stripe),
        "shoes": lambda: replace(person, shoe_color=cloth_color(rng, person.shoe_color)),
        "bag": lambda: replace(person, bag=_another_name(rng, BAGS, person.bag)),
        "bag_color": lambda: replace(
            person,
            bag=person.bag if person.bag != "none" else "backpack",
            bag_color=cloth_color(rng, person.bag_color),
        ),
        "scarf": lambda: replace(person, scarf=not person.scarf),
    }
    return other[detail]()


# Details that are visible from most sides have larger weights.
DETAILS = (
    ("hair", 0.8),
    ("hair_style", 0.6),
    ("hat", 1.2),
    ("top_color", 1.6),
    ("pattern", 1.2),
    ("second_color", 0.5),
    ("print", 0.6),
    ("sleeves", 1.0),
    ("bottom_color", 1.8),
    ("side_stripe", 0.3),
    ("shoes", 1.0),
    ("bag", 1.4),
    ("bag_color", 0.8),
    ("scarf", 0.4),
)


def _another(rng: np.random.Generator, choices: Sequence[Color], present: object) -> Color:
    rest = [color for color in choices if color != present]
    return rest[int(rng.integers(len(rest)))]


def _another_name(rng: np.random.Generator, table: tuple[tuple[str, float], ...], present: str) -> str:
    return randomness.weighted(rng.random(), tuple(row for row in table if row[0] != present))


def _recolor_top(person: Person, color: Color) -> Person:
    sleeve = color if person.sleeve_color == person.top_cloth.color else person.sleeve_color
    return dataclasses.replace(
        person, top_cloth=dataclasses.replace(person.top_cloth, color=color), sleeve_color=sleeve
    )


def _recolor_pattern(person: Person, rng: np.random.Generator) -> Person:
    pattern = "hstripes" if person.top_cloth.pattern == "plain" else person.top_cloth.pattern
    second = cloth_color(rng, person.top_cloth.second)
    return dataclasses.replace(person, top_cloth=dataclasses.replace(person.top_cloth, pattern=pattern, second=second))


def _recolor_bottom(person: Person, rng: np.random.Generator) -> Person:
    if person.bottom == "none":
        return dataclasses.replace(person, shoe_color=cloth_color(rng, person.shoe_color))
    color = cloth_color(rng, person.bottom_cloth.color)
    return dataclasses.replace(person, bottom_cloth=dataclasses.replace(person.bottom_cloth, color=color))


def family_plan(seed: int, split: str, count: int, sizes: tuple[int, int] = (3, 5)) -> list[tuple[int, int]]:
    """Returns a (family, member) pair for each identity, in families of look-alikes.

    Member 0 is the prototype of its family.

    Args:
        seed: seed of the data set.
        split: population, "train" or "test".
        count: number of identities.
        sizes: the least size of a family, and one more than the largest.
    """
    rng = randomness.generator(seed, f"families/{split}")
    plan: list[tuple[int, int]] = []
    family = 0
    while len(plan) < count:
        size = min(int(rng.integers(*sizes)), count - len(plan))
        plan.extend((family, member) for member in range(size))
        family += 1
    return plan


def family_member(seed: int, split: str, family: int, member: int) -> Person:
    """Draws a look-alike: the family's prototype with one or two details changed, different for all members."""
    base = draw_person(randomness.generator(seed, f"person/{split}", family))
    if member == 0:
        return base
    rng = randomness.generator(seed, f"details/{split}", family)
    taken: set[str] = set()
    person = base
    for _ in range(member):
        person = base
        for _ in range(2 if rng.random() < 0.8 else 1):
            detail = randomness.weighted(rng.random(), tuple(row for row in DETAILS if row[0] not in taken))
            taken.add(detail)
            person = _change_detail(person, detail, rng)
    return person
