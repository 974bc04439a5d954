"""Federated training.

`rounds` is the algorithm, `clients` splits the data, `federation_options` lists the settings, and `phase` connects a
simulated federation to the training loop. `node` and `flower` run a federation over a network.
"""
