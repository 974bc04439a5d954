"""Settings of the short runs: one device and optimized programs, unlike the suite's (see `make floors`)."""

from __future__ import annotations

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))

from absl import flags

# Grain reads absl flags, which count as unparsed outside of `app.run`.
flags.FLAGS.mark_as_parsed()
