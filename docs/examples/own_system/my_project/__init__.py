"""A project of one's own beside `reid_jax`."""
