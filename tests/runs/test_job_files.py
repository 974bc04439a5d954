"""The job files of docs/clusters name flags, keys and files that exist."""

import pathlib
import re

import pytest

from reid_jax.config import files

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "clusters"
FLAGS = {"config", "workdir", "coordinator", "num_processes", "process_id"}
FILES = sorted(path.name for path in FOLDER.iterdir())


def test_the_page_lists_them():
    text = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    assert len(FILES) == 5
    assert set(re.findall(r"\]\(clusters/([\w.]+)\)", text)) == set(FILES)


@pytest.mark.parametrize("name", [name for name in FILES if name != "Containerfile"])
def test_they_call_training_with_flags_it_has(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    begins = re.search(r"args:" if name == "jobset.yaml" else r"scripts/main\.py[\s\\]+--config", text)
    assert begins
    call = re.split(r"\n\s*(?:code=|;;|env:)|\Z", text[begins.start() :])[0]
    given = re.findall(r"--([a-z_]+(?:\.[a-z_.]+)?)", call)
    assert {"config", "workdir"} <= set(given) <= FLAGS | {key for key in given if key.startswith("config.")}
    config = files.load_config("configs/mfv.py:market1501")
    for key in given:
        value = config
        for part in key.split(".")[1:]:
            assert part in value, key
            value = value[part]


def test_the_image_holds_what_it_copies():
    text = (FOLDER / "Containerfile").read_text(encoding="utf-8")
    copied = [source for line in re.findall(r"^COPY (.*)$", text, re.M) for source in line.split()[:-1]]
    assert copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
