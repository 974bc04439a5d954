"""Losses: functions of named outputs, and the table that config terms pick from."""

from reid_jax.losses.terms import LOSSES, evaluate_terms, of_turn

__all__ = ["LOSSES", "evaluate_terms", "of_turn"]
