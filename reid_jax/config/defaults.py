"""Default settings of every experiment, as a `ConfigDict` that config files modify."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict, config_dict

from reid_jax.config import sections

_TYPES = {"float | None": float, "bool | None": bool, "str | None": str, "tuple[float, ...] | None": tuple}


def defaults() -> ConfigDict:
    """Returns the defaults of `reid_jax.config.sections`; a config file states only what differs.

    A key whose default is None has its type, so that the command line can set it, and one that is a number or a word
    takes both.
    """
    config = ConfigDict(sections.plain(sections.Settings()))
    # `fed` is added by the systems that use it (`FEDERATED`), `code` by a run with the user's own modules.
    del config.fed, config.code
    for name, section in sections.SECTIONS.items():
        for field in dataclasses.fields(section):  # type: ignore[arg-type]  # all are dataclasses
            if str(field.type) in _TYPES:
                config[name][field.name] = config_dict.placeholder(_TYPES[str(field.type)])
            elif str(field.type) == "int | str":
                config[name][field.name] = config_dict.FieldReference(config[name][field.name], field_type=object)
    return config
