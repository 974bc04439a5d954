"""The configs under the name `reid_configs` when installed: `reid-jax train --config mfv:demo` finds them by name."""
