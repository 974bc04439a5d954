"""A user's own project that extends `reid_jax`."""
