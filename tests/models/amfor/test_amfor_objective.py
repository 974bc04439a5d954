"""What AMFOR's configs compute: which network and which image a term reads, told by stand-ins for the network."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reid_jax import config as config_lib
from reid_jax.config import files
from reid_jax.train import extras, objective

CONFIG = pathlib.Path(__file__).resolve().parents[3] / "configs" / "amfor.py"
STUDENT, TEACHER, ERASED, CLEAN = 3.0, 11.0, 100.0, 1000.0


def load(argument: str) -> dict:
    return config_lib.to_dict(files.load_config(f"{CONFIG}:{argument}"))


def stand_in(variables, batch, *, train, mutable=(), rngs=None):
    """Each output is a number that tells what it was made from: the network and the picture, and which output it is."""
    seen = variables["params"]["network"] + batch["image"].mean()
    names = ("feature/g", "feature/s", "feature/t", "feature/b", "generated")
    outputs = {name: seen * (1 + index) * jnp.ones((4, 8, 2)) for index, name in enumerate(names)}
    return (outputs, {"batch_stats": {}}) if mutable else outputs


def read_by(config: dict, term: str) -> tuple[float, float]:
    """The numbers that the term reads first and second, with the student's and the teacher's network."""
    picture = lambda value: jnp.full((4, 2, 2, 3), value)
    batch = {"image": picture(ERASED), "image_clean": picture(CLEAN), "label": jnp.zeros(4, jnp.int32)}
    zero = {"batch/zero": jnp.zeros((4, 8, 2))}
    found = []
    for output in config["losses"][term]["on"]:
        goal = objective.Objective(
            apply=stand_in,
            preprocess=lambda batch, key: batch | {"zero": zero["batch/zero"]},
            passes={name: objective.Pass(**one) for name, one in config["passes"].items()},
            terms={"read": {"loss": "mean_squared", "on": (output, "batch/zero")}},
        )
        extra = {name: {"params": {"network": TEACHER}} for name in config["extras"]}
        total, _ = goal({"params": {"network": STUDENT}, "batch_stats": {}}, extra, batch, jax.random.key(0))
        found.append(float(np.sqrt(total)))
    return tuple(found)


@pytest.mark.parametrize(
    ("variant", "teacher", "picture"),
    [("amfor", STUDENT, ERASED), ("ts_ema", TEACHER, ERASED), ("ts_clean", STUDENT, CLEAN)],
)
def test_distillation_compares_what_the_student_generates_with_the_teacher(variant, teacher, picture):
    """Shared weights and the same image; an average of weights; or the image before it was erased."""
    generated, target = read_by(load(f"market1501,{variant}"), "distil")
    assert generated == pytest.approx(5 * (STUDENT + ERASED))
    assert target == pytest.approx(3 * (teacher + picture))


def test_cosine_distillation_compares_student_and_teacher():
    config = load("market1501,amfor_b3")
    assert config["losses"]["distil"]["loss"] == "cosine_distillation"
    assert read_by(config, "distil") == pytest.approx((2 * (STUDENT + ERASED), 3 * (STUDENT + ERASED)))


def test_the_averaged_teacher_follows_slowly():
    """A teacher of decay 0 would be the student."""
    config = load("market1501,ts_ema")
    ((name, extra),) = extras.build(config["extras"], num_classes=5).items()
    assert name == "teacher"
    old, new = ({"params": {"w": np.float32(value)}} for value in (0.0, 1.0))
    assert float(extra.update(old, None, new)["params"]["w"]) == pytest.approx(0.001)
    assert not extra.differentiable


def test_terms_and_what_they_read():
    """Section 8: cross-entropy of five heads, triplets of four (parts averaged), and five more, all of weight 1."""
    terms = load("market1501")["losses"]
    assert {name: term["on"] for name, term in terms.items() if term["loss"] == "cross_entropy"} == {
        f"ce_{name}": f"logits/{name}" for name in "gstbf"
    }
    triplets = {name: term for name, term in terms.items() if term["loss"] == "triplet"}
    assert {name: (term["on"], term["parts"]) for name, term in triplets.items()} == {
        f"tri_{name}": (f"feature/{name}", name != "g") for name in "gstb"
    }
    assert {(term["margin"], term["normalize"]) for term in triplets.values()} == {("soft", False)}
    others = {term["loss"]: term["on"] for name, term in terms.items() if not name.startswith(("ce_", "tri_"))}
    assert others == {
        "focal": ("visibility/s", "visibility/target"),
        "generative_distillation": ("generated", "feature/t"),
        "parsing": ("parsing/logits", "parsing/labels"),
        "part_diversity": "diversity",
    }
    assert {term["weight"] for term in terms.values()} == {1.0}
    assert {term["label_smoothing"] for name, term in terms.items() if name.startswith("ce_")} == {0.0}
    demo = load("demo")["losses"]
    assert {
        name: (term["on"], term["normalize"], term["parts"]) for name, term in demo.items() if "margin" in term
    } == {f"tri_{name}": (f"neck/{name}", True, False) for name in "gstb"}


def test_pictures_of_the_pixel_extension():
    """The target is the picture before damage, under the same flip and crop; erasing belongs to the main view alone."""
    config = load("market1501,pixel")
    term = config["losses"]["pixels"]
    assert (term["on"], term["weight"]) == (("pixels/predicted", "batch/image_clean", "pixels/mask"), 0.1)
    view = config["data"]["views"]["clean"]
    assert view["geometry"] == "shared"
    assert set(view["augment"]) == {"flip", "pad_crop"}
    assert set(config["data"]["augment"]) == {"flip", "pad_crop", "erase"}
