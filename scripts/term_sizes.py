"""Shell over `reid_jax.cli.term_sizes`."""

import environment  # noqa: F401  (first: says in one sentence what is missing)

from reid_jax.cli import app

if __name__ == "__main__":
    app.run("term-sizes")
