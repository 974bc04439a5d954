"""Training runs, from a config to `result.json`.

`launch` is the entry point, `experiment` the order of events, `plan` turns a config into phases, and `results`
evaluates the trained model. `trained` loads a run folder; `ablation` runs the rows of an ablation table.
"""
