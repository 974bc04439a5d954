"""Losses: functions of named outputs, and the table from which the loss terms of a config choose.

A loss function has the form

    def circle(feature, *, labels, scale=64.0):
        ...
        return value                                 # a scalar, or
        return value, {"hardest": hardest}           # a scalar and scalars to log

* Its positional arguments are the arrays that the term names in `on`, in that order: outputs of the model
  ("feature/b"), arrays of the batch ("batch/camid"), extras ("extra/centers").
* Its keyword-only arguments are the options of the term. A misspelled option is an error before the first step.
* `labels`, where it has that keyword-only argument, receives the class of each image, int32 [B]: "batch/label", or
  what the term names in `labels`.
* It returns a scalar, averaged over the batch; or `(scalar, metrics)`, and each metric is logged as
  "loss/<term>/<metric>". It is traced under `jax.jit` and differentiated with respect to the model's outputs.

A config names a loss by its key in `LOSSES` or by path: `config.losses.circle = {"loss": "my_project.losses:circle",
"on": "feature/b", "scale": 32.0}`. Metrics for `config.monitors` have the same form.
"""

from reid_jax.losses.terms import LOSSES, RESERVED, check_term, evaluate_terms, of_turn, read_arrays, read_labels

__all__ = ["LOSSES", "RESERVED", "check_term", "evaluate_terms", "of_turn", "read_arrays", "read_labels"]
