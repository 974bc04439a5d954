"""Rows of the ranking benchmarks at tiny sizes: what they count, and that the slow twin agrees."""

import pytest

from reid_jax.benchmarks import ranking_speed


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    size = ranking_speed.Size(30, 200, 9, 3, 0.2)
    monkeypatch.setitem(ranking_speed.SIZES, "tiny", size)
    monkeypatch.setattr(ranking_speed, "WARM_UP", size)


def test_page():
    (row,) = ranking_speed.page("tiny", dimensions=8, drawn=2)
    assert row["queries"] == 30
    assert 80 < row["pictures"] <= 230
    assert 0.1 < row["page_MB"] < 0.5


def test_rows():
    fast, twin = ranking_speed.rank("tiny", dimensions=8, repeats=1)
    assert fast["mAP"] == pytest.approx(twin["mAP"], abs=1e-4)
    assert fast["seconds"] > 0
    assert twin["mAP_difference"] < 1e-4
    assert ranking_speed.rerank("tiny", dimensions=8, k1=6, k2=2)[0]["gallery"] == 200
    assert [row["gallery"] for row in ranking_speed.rank_growth((300, 600), num_query=20, dimensions=8)] == [300, 600]
    assert ranking_speed.verify("tiny", dimensions=8)[0]["auc"] > 0.5
