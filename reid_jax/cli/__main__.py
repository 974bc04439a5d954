"""`python -m reid_jax.cli COMMAND`, the same as `reid-jax COMMAND`."""

from reid_jax.cli import app

if __name__ == "__main__":
    app.main()
