"""Imported first by every script: ends with one sentence where the project's environment is not active."""

import importlib.util
import sys

MISSING = [name for name in ("jax", "flax", "reid_jax") if importlib.util.find_spec(name) is None]
if MISSING:
    print(
        f"error: expected the project's environment, but {sys.executable} has no {' and no '.join(MISSING)}; "
        "run `make env` once and `. .venv/bin/activate` in each shell.",
        file=sys.stderr,
    )
    sys.exit(2)
