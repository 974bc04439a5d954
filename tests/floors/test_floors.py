"""Systems learn: their demos, cut to about a minute on two cores, pass a floor.

Not part of `make test`: `make floors`, which continuous integration runs after it.
"""

from __future__ import annotations

import pytest

from tests.floors import short_runs


@pytest.mark.parametrize("system", short_runs.SHORT)
def test_the_cut_demo_passes_its_floor(system, tmp_path):
    result = short_runs.run(system, tmp_path / "run")
    trained, untrained, histogram = short_runs.scores(result)
    floor = short_runs.SHORT[system].share * histogram
    assert trained > floor, f"mAP {trained:.1f} %, floor {floor:.1f} %, untrained {untrained:.1f} %"
    assert trained > 1.2 * untrained
