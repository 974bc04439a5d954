"""Unknown flags of XLA are one sentence, before XLA ends the process."""

from __future__ import annotations

import pytest

from reid_jax import errors
from reid_jax.runtime import xla_flags


def test_flags_of_the_installed_xla_pass_and_others_are_named(tmp_path):
    for given in ("", "/a/file/of/flags", "--xla_dump_to=/tmp/x --xla_cpu_enable_fast_math"):
        xla_flags.refuse_unknown({"XLA_FLAGS": given})
    xla_flags.refuse_unknown({})
    with pytest.raises(errors.UserError, match=r"jaxlib knows, got --xla_cpu_enable_fast_maths; co"):
        xla_flags.refuse_unknown({"XLA_FLAGS": "--xla_dump_to=/tmp/x '--xla_cpu_enable_fast_maths=true'"})


def test_a_library_that_stores_names_in_another_way_decides_nothing(tmp_path, monkeypatch):
    library = tmp_path / "packed.so"
    library.write_bytes(b"packed")
    assert xla_flags._unknown(library, ["xla_any"]) == []
    library.write_bytes(b"\0xla_dump_to\0some_xla_any\0")
    assert xla_flags._unknown(library, ["xla_any", "xla_an"]) == ["xla_an"]
    monkeypatch.setattr(xla_flags, "_library", lambda: tmp_path / "none.so")
    xla_flags.refuse_unknown({"XLA_FLAGS": "--xla_any"})
