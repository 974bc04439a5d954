"""Changes of bytes and texts: what damages a file, and what an attacker tries first."""

from __future__ import annotations

import random

_LENGTHS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 1 << 20, (1 << 31) - 1, (1 << 32) - 1, (1 << 63) - 1)
TEXTS = (
    *(
        "",
        " ",
        "a",
        "0",
        "-1",
        "1e999",
        "nan",
        "inf",
        "-inf",
        "None",
        "True",
        "[]",
        "{}",
        "()",
        "1.5",
        "99999999999999999999",
    ),
    *(
        "../../etc/passwd",
        "/dev/zero",
        "\x00",
        "\n",
        "\x1b[31m",
        "\u2028",
        "\udcff",
        "ä" * 300,
        "x" * 5000,
        "a/b",
        "a:b",
    ),
    *("__import__('os').system('id')", "os:system", "builtins:eval", "%s%n", "[" * 500, "(" * 500, "1" * 5000),
)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Returns a file with one to eight changes: bytes, lengths, parts cut out, repeated or moved."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        place = chance.randrange(len(data) + 1)
        kind = chance.randrange(7)
        if kind == 0 and data:
            data[place % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 1 and data:
            data[place % len(data)] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        elif kind == 2:
            width = chance.choice((1, 2, 4, 8))
            number = chance.choice(_LENGTHS) & ((1 << 8 * width) - 1)
            data[place : place + width] = number.to_bytes(width, chance.choice(("little", "big")))
        elif kind == 3:
            del data[place : place + chance.choice((1, 4, 64, len(data) // 3))]
        elif kind == 4:
            data[place:place] = data[place : place + chance.choice((1, 16, 256))] * chance.choice((1, 2, 40))
        elif kind == 5:
            data[place:place] = chance.randbytes(chance.choice((1, 4, 100)))
        else:
            del data[place:]
    return bytes(data)


def value(chance: random.Random, depth: int = 0) -> object:
    """Returns any value that JSON can hold, often one that nobody means."""
    kind = chance.randrange(9 if depth < 3 else 7)
    if kind == 0:
        return chance.choice(TEXTS)
    if kind == 1:
        return chance.choice((-1, 0, 1, 2, 3, 64, -(1 << 40), 1 << 40, 1 << 70))
    if kind == 2:
        return chance.choice((0.0, -0.5, 0.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")))
    if kind == 3:
        return chance.choice((None, True, False))
    if kind <= 6:
        return chance.randrange(-3, 300)
    if kind == 7:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(("a", "name", "")): value(chance, depth + 1) for _ in range(chance.randrange(3))}
