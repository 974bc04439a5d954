"""The table of parameters."""

import jax
import numpy as np

from reid_jax.train import overview

TREE = {
    "backbone": {
        "conv1": {"kernel": np.ones((3, 3, 3, 8), np.float32)},
        "bn1": {"scale": np.ones(8, np.float32)},
    },
    "head": {"kernel": np.ones((8, 5), np.float32), "bias": np.zeros(5, np.float32)},
}


def cells(table: str) -> list[list[str]]:
    """The cells of a table's rows, without the header."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][1:]


def test_parameters_are_summed_by_module():
    shapes = jax.eval_shape(lambda: jax.tree.map(np.asarray, TREE))
    table = overview.parameter_overview(shapes)
    assert cells(table) == [["backbone", "2", "224", "83.3%"], ["head", "2", "45", "16.7%"]]
    assert table.splitlines()[-1] == "Total: 269"
    deeper = cells(overview.parameter_overview(TREE, depth=2))
    assert [row[0] for row in deeper] == ["backbone/bn1", "backbone/conv1", "head"]


def test_every_array_may_have_a_row():
    table = overview.parameter_overview(TREE, depth=None)
    assert ["backbone/conv1/kernel", "(3, 3, 3, 8)", "float32", "216"] in cells(table)
    assert len(cells(table)) == 4


def test_a_model_without_parameters():
    assert overview.parameter_overview({}).endswith("Total: 0")
