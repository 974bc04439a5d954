"""Processes of a run compare config, code, versions, devices and clocks before they compute."""

from __future__ import annotations

import concurrent.futures
import time

import jax
import pytest

from reid_jax.errors import UserError
from reid_jax.runtime import provenance, start_agreement

SAME = {"the config": "a1", "the code of reid_jax": "c0ffee", "the kind of device": "H100", "clock": 1000.0}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, ""),
        ({1: {"clock": 1059.0}}, ""),
        (
            {1: {"the config": "b2"}},
            "the config differs between process 0 and process 1; start the same command on every host.",
        ),
        (
            {2: {"the code of reid_jax": "facade"}},
            "the code of reid_jax differs between process 0 (c0ffee) and process 2 (facade); install the same commit "
            "on every host.",
        ),
        (
            {index: {"the kind of device": "cpu"} for index in range(1, 12)},
            "the kind of device differs between process 0 (H100) and process 1, 2, 3, 4, 5, 6, 7, 8 and 3 others "
            "(cpu); run on hosts with the same devices.",
        ),
        (
            {3: {"clock": 1000.0 - 3600}, 1: {"clock": 1070.0}},
            "the clock of process 3 is 3600 s behind that of process 0, where 60 s are allowed; set the clocks of all "
            "hosts (chrony, NTP).",
        ),
    ],
    ids=["same", "a minute", "config", "code", "devices", "clock"],
)
def test_the_first_difference_is_said(changes, sentence):
    stated = [{**SAME, **changes.get(index, {})} for index in range(12)]
    assert start_agreement.difference(stated) == sentence


class Service:
    """The service by which processes meet, for threads in their place."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def key_value_set(self, key, value):
        self.values[key] = value

    def blocking_key_value_get(self, key, milliseconds):
        for _ in range(200):
            if key in self.values:
                return self.values[key]
            time.sleep(0.001)
        raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: GetKeyValue() timed out")


@pytest.fixture(autouse=True)
def ends(monkeypatch):
    """What processes are prepared to say; nothing here is to handle the signals of the test's own process."""
    said: list[str] = []
    monkeypatch.setattr(start_agreement.processes, "prepare_to_end", said.append)
    return said


def outcome(service, index, count, facts):
    try:
        start_agreement._exchange(service, index, count, "software", facts)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("other", "words"), [(SAME, ""), ({**SAME, "the config": "z"}, "the config differs")])
def test_every_process_says_the_same(other, words, ends):
    service, facts = Service(), [SAME, SAME, other]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        said = list(pool.map(lambda index: outcome(service, index, 3, facts[index]), range(3)))
    assert said == [said[0]] * 3
    assert said[0].startswith(words)
    assert ends == (said[1:] if words else [])
    assert bool(words) == bool(said[0])


def test_a_process_that_does_not_answer_is_named():
    assert outcome(Service(), 0, 2, SAME).startswith("process 1 did not state its software within 120 s")
    assert outcome(Service(), 1, 2, SAME).startswith("process 0 did not compare software within 240 s")


def test_facts_of_this_process():
    stated = start_agreement.software() | start_agreement.devices()
    assert stated["the version of jax"] == jax.__version__
    assert stated["the number of devices"] == str(jax.local_device_count())
    assert stated["the code of reid_jax"] == provenance.source_hash()
    assert len(stated["the code of reid_jax"]) == 12
    assert set(start_agreement.REMEDIES) == set(stated)
    start_agreement.check(the_config="alone")
