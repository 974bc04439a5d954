"""Imported first by every script: ends with one sentence where the project's environment is not active."""

import importlib.util
import signal
import sys

# Until the command's own handlers are in place, Ctrl-C ends the process without a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

MISSING = [name for name in ("jax", "flax", "reid_jax") if importlib.util.find_spec(name) is None]
if MISSING:
    print(
        f"error: expected the project's environment, but {sys.executable} has no {' and no '.join(MISSING)}; "
        "run `make env` once and `. .venv/bin/activate` in each shell.",
        file=sys.stderr,
    )
    sys.exit(2)
