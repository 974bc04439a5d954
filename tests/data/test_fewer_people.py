"""Training on the images of some identities."""

import numpy as np
import pytest

from reid_jax import build, errors
from reid_jax.config import sections
from reid_jax.data import fewer_people, records, union


def dataset(name, pids):
    names = tuple(f"{place}.jpg" for place in range(len(pids)))
    rows = [
        {"image": b"", "pid": pid, "camid": place, "filename": file}
        for place, (pid, file) in enumerate(zip(pids, names))
    ]
    train = records.Split(f"{name}/train", rows, np.array(pids), np.arange(len(pids)), names)
    query = records.Split(f"{name}/query", [{}], np.array([50]), np.array([1]), ("q.jpg",))
    return records.ReIDDataset(name, train, query, query, content=name)


def test_the_first_people_stay_with_their_images_and_cameras():
    whole = dataset("a", [3, 9, 3, 7, 9, 8])
    fewer = union.transfer(whole, [whole], [0.5])
    assert fewer.train.pids.tolist() == [3, 3, 7]
    assert [record["pid"] for record in fewer.train.source] == [3, 3, 7]
    assert fewer.train.filenames == ("0.jpg", "2.jpg", "3.jpg")
    assert fewer.query.camids.tolist() == [1]  # still cameras of training
    assert fewer.content != union.transfer(whole, [whole]).content
    assert union.transfer(whole, [whole], [1.0]).train.pids.tolist() == whole.train.pids.tolist()
    assert fewer_people.keep(whole.train, 0.01).pids.tolist() == [3, 3, 7]  # two people at least
    both = union.transfer(whole, [whole, dataset("b", [1, 2])], [0.75, 1.0])
    assert len(both.train) == 6
    assert len(np.unique(both.train.pids)) == 5


def test_the_share_is_an_option_of_sources():
    assert build.of_preset("synthped@identities=0.25,seed=3") == ("synthped", {"size": "demo", "seed": "3"})
    assert build._people_of("synthped@identities=0.25,seed=3") == 0.25
    data = sections.Data(name="market1501", options={"part_labels": True})
    assert build.of_source("own@identities=0.25", data) == ("market1501", {"part_labels": True})
    assert build.of_source("synthped@seed=3", data) == build.of_preset("synthped@seed=3")
    with pytest.raises(errors.UserError, match="no option but identities"):
        build.of_source("own@seed=3", data)
    assert build._people_of("synthped") == build._people_of("unlabelled@title=x") == 1
    for wrong in ("0", "1.5", "half"):
        with pytest.raises(errors.UserError, match="share of the training identities"):
            fewer_people.share_of(wrong)
