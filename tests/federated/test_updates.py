"""What a client may send, and the average of it."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest

from reid_jax import errors
from reid_jax.federated import updates

GOOD = {"params/a": np.arange(6, dtype=np.float32).reshape(2, 3), "params/b": np.ones((), np.float32)}


def npy(value: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value, **options)
    return stream.getvalue()


def sent(**changes: bytes | None) -> dict[str, bytes]:
    content = {path: npy(value) for path, value in GOOD.items()}
    content |= {path.replace("_", "/"): value for path, value in changes.items()}
    return {path: value for path, value in content.items() if value is not None}


def with_value(value: float) -> bytes:
    array = GOOD["params/a"].copy()
    array[1, 2] = value
    return npy(array)


WHOLE = npy(GOOD["params/a"])
REFUSED = {
    "NaN": (sent(params_a=with_value(np.nan)), "finite numbers up to 1e\\+09, but params/a was received with others"),
    "infinite": (sent(params_a=with_value(-np.inf)), "finite numbers up to"),
    "beyond all reason": (sent(params_a=with_value(3e38)), "finite numbers up to"),
    "shape": (sent(params_a=npy(GOOD["params/a"].T)), r"params/a' is \(2, 3\) here and was received as \(3, 2\)"),
    "type": (sent(params_a=npy(GOOD["params/a"].astype(np.float64))), "is float32 here and was received as float64"),
    "bytes as type": (sent(params_a=npy(np.zeros((2, 3), "V9"))), "is float32 here and was received as |V9"),
    "missing": (sent(params_b=None), r"params/b' is \(\) here and was received as None"),
    "too many": (sent(params_c=WHOLE), "params/c' is None here and was received as an array"),
    "no array": (sent(params_a=b""), "cannot be read"),
    "cut": (sent(params_a=WHOLE[:-1]), "does not agree with its length"),
    "more than it says": (sent(params_a=WHOLE + b"0" * 100), "does not agree with its length"),
    "petabytes": (sent(params_a=WHOLE.replace(b"(2, 3), ", b"(9999999999999, 3), ")), "cannot be read"),
    "pickle": (sent(params_a=npy(np.array([GOOD, 1], object), allow_pickle=True)), "never unpickled"),
    "long name": (sent(**{"x" * 10**6: WHOLE}), r"but 'x{100}' is None here"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_of_a_client_are_refused(name):
    content, words = REFUSED[name]
    with pytest.raises(errors.UserError, match=words) as caught:
        updates.read_arrays(content, GOOD)
    assert len(str(caught.value)) < 400


def test_arrays_arrive_bit_for_bit():
    found = updates.read_arrays(sent(params_a=npy(np.asfortranarray(GOOD["params/a"]))), GOOD)
    for path, value in GOOD.items():
        np.testing.assert_array_equal(found[path], value)
        assert (found[path].shape, found[path].dtype) == (value.shape, value.dtype)
    assert updates.read_arrays({"x": npy(np.array(["a"]))})["x"] == ["a"]
    empty = {"e": np.zeros((0, 2), np.float32)}
    assert updates.read_arrays({"e": npy(empty["e"])}, empty)["e"].shape == (0, 2)


@pytest.mark.parametrize(
    "claim", [0, -1, -1e9, 1e15, 10**400, float("nan"), float("inf"), True, "7", [7.0], None], ids=lambda v: str(v)[:9]
)
def test_numbers_of_images_that_cannot_be_meant(claim):
    with pytest.raises(errors.UserError, match="expected a number of images") as caught:
        updates.check_weight(claim)
    assert len(str(caught.value)) < 200
    assert updates.check_weight(7) == 7.0
    with pytest.raises(errors.UserError, match="up to 6, got 7"):
        updates.check_weight(7, most=6)


def test_metrics_of_a_client():
    many = {f"m{number:04}": 1.0 for number in range(500)}
    odd = {"loss": 2, "a b\n": 1.0, "x" * 81: 1.0, "list": [1.0], "nan": float("nan"), "../up": 3.0}
    assert updates.known_metrics(odd) == {"loss": 2.0, "../up": 3.0}
    assert len(updates.known_metrics(many)) == updates.MOST_METRICS


def test_the_average_is_that_of_float64_in_any_order():
    random = np.random.default_rng(0)
    sets = [
        updates.Update(
            {path: random.normal(size=value.shape).astype(np.float32) for path, value in GOOD.items()},
            weight,
            {"loss": weight, "own": 1.0} if weight < 3 else {"loss": weight},
        )
        for weight in (1.0, 2.0, 5.0)
    ]
    theta, metrics = updates.average(sets)
    assert metrics == {"loss": pytest.approx((1 + 4 + 25) / 8)}
    for path, value in theta.items():
        expected = sum(each.weight * each.theta[path].astype(np.float64) for each in sets) / 8
        np.testing.assert_allclose(value, expected, rtol=1e-7, atol=0)
        assert (value.dtype, value.shape) == (np.float32, GOOD[path].shape)
    for other in itertools.permutations(sets):
        again, same = updates.average(other)
        assert same == metrics
        for path, value in theta.items():
            np.testing.assert_array_equal(again[path], value)
