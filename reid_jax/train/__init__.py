"""The training loop and the compiled train step.

`loop` is the training loop, `step` the train step, `objective` the loss of a batch, and `state` the train state;
`optimizer`, `schedules` and `extras` define the update. `checkpoints`, `metrics` and `profiling` write to the
run folder; `overview` prints the parameter table.
"""
