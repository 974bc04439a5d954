"""People of the look "street": clothes as people wear them, so that shape and layout tell them apart, not color.

Most garments are black, gray, navy, denim or white. Identities differ by cut, layout, bags, hair and build, which show
in every exposure; the members of a family of look-alikes share all colors and differ in such details only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from reid_jax.data.synthped import people, randomness
from reid_jax.data.synthped.people import Cloth, CLOTH_ColorS, Color, Cut, Person

Table = tuple[tuple[str, float], ...]

TOP_ColorS: Table = (
    ("black", 21),
    ("charcoal", 9),
    ("gray", 10),
    ("silver", 5),
    ("white", 16),
    ("navy", 9),
    ("denim", 5),
    ("blue", 4),
    ("sky", 3),
    ("beige", 4),
    ("khaki", 2),
    ("brown", 2),
    ("olive", 1.5),
    ("green", 1.5),
    ("maroon", 1.5),
    ("red", 3),
    ("pink", 2),
    ("yellow", 1.5),
)
BOTTOM_ColorS: Table = (
    ("black", 30),
    ("denim", 19),
    ("navy", 12),
    ("charcoal", 11),
    ("gray", 8),
    ("blue", 4),
    ("beige", 5),
    ("khaki", 4),
    ("white", 4),
    ("brown", 3),
)
GEAR_ColorS: Table = (
    ("black", 48),
    ("charcoal", 12),
    ("gray", 8),
    ("navy", 8),
    ("brown", 10),
    ("white", 8),
    ("beige", 4),
    ("red", 2),
)
PRINT_ColorS: Table = (
    ("white", 40),
    ("black", 22),
    ("gray", 14),
    ("silver", 12),
    ("red", 4),
    ("blue", 4),
    ("beige", 4),
)
TOPS: Table = (
    ("tshirt", 2.6),
    ("shirt", 1.5),
    ("jumper", 1.5),
    ("hoodie", 1.7),
    ("jacket", 2.4),
    ("coat", 1.3),
    ("dress", 0.8),
    ("vest", 0.7),
)
BOTTOMS: Table = (("trousers", 4.6), ("shorts", 1.9), ("skirt", 1.2), ("leggings", 1.3))
BAGS: Table = (("none", 6.0), ("backpack", 2.4), ("shoulder", 1.4), ("handbag", 1.0), ("tote", 0.6))
PATTERNS: Table = (
    ("plain", 5.0),
    ("hstripes", 1.2),
    ("vstripes", 0.5),
    ("checks", 0.9),
    ("dots", 0.3),
    ("twotone", 1.2),
    ("band", 1.1),
)
PRINTS: Table = (("none", 14.0), ("patch", 1.6), ("square", 1.0), ("disc", 1.0), ("lines", 1.2), ("slash", 0.8))
HATS: Table = (("none", 30.0), ("cap", 1.6), ("beanie", 1.2), ("sunhat", 0.3))
_APART = 90  # least distance of two colors that have to be told apart, summed over the channels


def color(rng: np.random.Generator, table: Table, apart_from: Color | None = None) -> Color:
    """Draws a slightly varied color of a table, distinguishable from `apart_from` where ten trials find one."""
    drawn: Color = (0, 0, 0)
    for _ in range(10):
        base = CLOTH_ColorS[randomness.weighted(rng.random(), table)][0]
        shift, gray = rng.integers(-7, 8, 3), int(rng.integers(-14, 15))
        red, green, blue = (int(min(max(value + step + gray, 12), 236)) for value, step in zip(base, shift))
        drawn = (red, green, blue)
        if apart_from is None or sum(abs(a - b) for a, b in zip(drawn, apart_from)) > _APART:
            break
    return drawn


def _cloth(rng: np.random.Generator, table: Table, plain: float) -> Cloth:
    base = color(rng, table)
    pattern = "plain" if rng.random() < plain else randomness.weighted(rng.random(), PATTERNS)
    return Cloth(base, pattern, color(rng, PRINT_ColorS, base), int(rng.integers(3, 10)))


def draw_cut(rng: np.random.Generator) -> Cut:
    """Draws the cut of clothes, bag and hair."""
    u = rng.random(13).tolist()
    return Cut(
        top_length=0.075 * u[0] - 0.025,
        short_sleeve=0.7 + 0.75 * u[1],
        sleeve=1.0 if u[2] < 0.6 else 0.15 + 0.7 * u[3],
        trouser_width=0.85 + 0.85 * u[4] * u[4],
        trousers=1.0 if u[5] < 0.65 else 0.35 + 0.55 * u[6],
        shorts_length=0.3 * u[7] - 0.25,
        skirt_length=0.17 * u[8] - 0.05,
        opening=0.4 * u[9] - 0.25,
        print_size=0.6 + 0.9 * u[10],
        print_height=0.22 * u[11] - 0.08,
        bag_size=0.7 + 0.6 * u[12],
        bag_drop=0.05 * rng.random(),
        hair=0.85 + 0.4 * rng.random(),
    )


def draw_person(rng: np.random.Generator) -> Person:
    """Draws a person with all attributes."""
    hair_style = randomness.weighted(rng.random(), people.HAIR_STYLES)
    short_hair = hair_style in ("short", "bald")
    top = randomness.weighted(rng.random(), TOPS)
    top_cloth = _cloth(rng, TOP_ColorS, plain=0.93 if top in ("coat", "jacket") else 0.82)
    bottom = "none" if top == "dress" else randomness.weighted(rng.random(), BOTTOMS)
    if bottom == "skirt" and short_hair:
        bottom = "trousers"
    long_sleeve = top in ("jumper", "hoodie", "jacket", "coat") or (top == "shirt" and rng.random() < 0.7)
    hair_weights = (("0", 5.0), ("1", 3.0), ("2", 1.2), ("3", 0.5), ("4", 0.3), ("5", 0.5), ("6", 0.2))
    return Person(
        skin=people.SKIN_TONES[int(rng.integers(len(people.SKIN_TONES)))],
        hair=people.HAIR_ColorS[int(randomness.weighted(rng.random(), hair_weights))],
        hair_style=hair_style,
        beard=bool(short_hair and rng.random() < 0.35),
        glasses=bool(rng.random() < 0.25),
        hat=randomness.weighted(rng.random(), HATS),
        hat_color=color(rng, GEAR_ColorS),
        top=top,
        top_cloth=top_cloth,
        sleeve="long" if long_sleeve else "short",
        sleeve_color=color(rng, TOP_ColorS, top_cloth.color) if rng.random() < 0.08 else top_cloth.color,
        inner_cloth=_cloth(rng, TOP_ColorS, plain=0.8),
        chest_print=randomness.weighted(rng.random(), PRINTS),
        back_print=randomness.weighted(rng.random(), PRINTS),
        print_color=color(rng, PRINT_ColorS, top_cloth.color),
        scarf=bool(rng.random() < 0.05),
        scarf_color=color(rng, TOP_ColorS, top_cloth.color),
        bottom=bottom,
        bottom_cloth=dataclasses.replace(_cloth(rng, BOTTOM_ColorS, plain=0.95), scale=int(rng.integers(4, 7))),
        side_stripe=bool(rng.random() < 0.08),
        belt=bool(rng.random() < 0.3),
        shoes=randomness.weighted(rng.random(), people.SHOES),
        shoe_color=color(rng, GEAR_ColorS),
        sole_color=(222, 222, 218) if rng.random() < 0.5 else (40, 38, 38),
        bag=randomness.weighted(rng.random(), BAGS),
        bag_color=color(rng, GEAR_ColorS),
        bag_side=1 if rng.random() < 0.5 else -1,
        stature=1.0,
        shoulder=0.122 + 0.022 * randomness.bell(rng.random()) + (0.006 if short_hair else -0.004),
        hip=0.096 + 0.015 * randomness.bell(rng.random()) + (-0.003 if short_hair else 0.004),
        girth=1.0 + 0.42 * abs(randomness.bell(rng.random())) * (1 if rng.random() < 0.6 else -0.45),
        leg=0.485 + 0.028 * randomness.bell(rng.random()),
        cut=draw_cut(rng),
    )


def _other(table: Table, present: str, rng: np.random.Generator) -> str:
    return randomness.weighted(rng.random(), tuple(row for row in table if row[0] != present))


def _with_top(person: Person, rng: np.random.Generator) -> Person:
    """Returns the person in another garment of the same fabric; dresses are left alone."""
    table = tuple(row for row in TOPS if row[0] != "dress")
    if person.top == "dress":
        return dataclasses.replace(person, belt=not person.belt)
    top = _other(table, person.top, rng)
    long_sleeve = top in ("jumper", "hoodie", "jacket", "coat") or (top == "shirt" and person.sleeve == "long")
    return dataclasses.replace(person, top=top, sleeve="long" if long_sleeve else "short")


def _with_bottom(person: Person, rng: np.random.Generator) -> Person:
    if person.bottom == "none":
        return dataclasses.replace(person, shoes=_other(people.SHOES, person.shoes, rng))
    table = tuple(row for row in BOTTOMS if row[0] != "skirt")
    return dataclasses.replace(person, bottom=_other(table, person.bottom, rng))


def _with_pattern(person: Person, rng: np.random.Generator) -> Person:
    cloth = dataclasses.replace(person.top_cloth, pattern=_other(PATTERNS, person.top_cloth.pattern, rng))
    return dataclasses.replace(person, top_cloth=cloth)


def _with_prints(person: Person, rng: np.random.Generator) -> Person:
    chest, back = _other(PRINTS, person.chest_print, rng), _other(PRINTS, person.back_print, rng)
    return dataclasses.replace(person, chest_print=chest, back_print=back)


def _with_cut(person: Person, rng: np.random.Generator) -> Person:
    return dataclasses.replace(person, cut=draw_cut(rng))


def _with_build(person: Person, rng: np.random.Generator) -> Person:
    other = draw_person(rng)
    return dataclasses.replace(person, shoulder=other.shoulder, hip=other.hip, girth=other.girth, leg=other.leg)


def _with_head(person: Person, rng: np.random.Generator) -> Person:
    return dataclasses.replace(person, hair_style=_other(people.HAIR_STYLES, person.hair_style, rng), beard=False)


def _with_hat(person: Person, rng: np.random.Generator) -> Person:
    return dataclasses.replace(person, hat=_other(HATS, person.hat, rng))


def _with_bag(person: Person, rng: np.random.Generator) -> Person:
    return dataclasses.replace(person, bag=_other(BAGS, person.bag, rng), bag_side=-person.bag_side)


def _with_shoes(person: Person, rng: np.random.Generator) -> Person:
    return dataclasses.replace(
        person, shoes=_other(people.SHOES, person.shoes, rng), side_stripe=not person.side_stripe
    )


# Details by name, with their weights.
DETAILS: dict[str, tuple[Callable[[Person, np.random.Generator], Person], float]] = {
    "top": (_with_top, 1.4),
    "bottom": (_with_bottom, 1.2),
    "pattern": (_with_pattern, 1.2),
    "prints": (_with_prints, 1.0),
    "cut": (_with_cut, 1.6),
    "build": (_with_build, 1.0),
    "head": (_with_head, 0.8),
    "hat": (_with_hat, 0.8),
    "bag": (_with_bag, 1.6),
    "shoes": (_with_shoes, 0.5),
}


def family_member(seed: int, split: str, family: int, member: int) -> Person:
    """Draws a look-alike: the colors of the family's prototype, with two or three details of shape changed."""
    person = draw_person(randomness.generator(seed, f"street/person/{split}", family))
    if member == 0:
        return person
    rng = randomness.generator(seed, f"street/details/{split}", family, member)
    rest = {name: weight for name, (_, weight) in DETAILS.items()}
    for _ in range(3 if rng.random() < 0.5 else 2):
        detail = randomness.weighted(rng.random(), tuple(rest.items()))
        del rest[detail]
        person = DETAILS[detail][0](person, rng)
    return person
