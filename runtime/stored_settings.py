"""Settings that a file holds, back into the dataclass that they came from: names and types are checked first."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from runtime.errors import InputError

Config = TypeVar("Config")


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (isinstance(value, int) and float in kinds)


def from_stored(config: type[Config], values: Any, where: str) -> Config:
    """Build a config of plain values from what a file holds of it; fields that the file lacks have their defaults.

    Args:
        config: a dataclass of int, float, str, bool, or one of these `| None`.
        values: what the file holds.
        where: names the file, and the part of it.

    Raises:
        InputError: a name that the config does not have, one it needs and the file lacks, or a value of another type
            or range.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where} holds no names and values")
    fields, hints = {field.name: field for field in dataclasses.fields(config)}, typing.get_type_hints(config)  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in fields:
            raise InputError(f"{where}: {name!r} is no setting of this version")
        hint = hints[name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if not _fits(value, kinds):
            names = " or ".join("nothing" if kind is types.NoneType else kind.__name__ for kind in kinds)
            raise InputError(f"{where}: {name} is {value!r}; it must be {names}")
    needed = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in values]
    if needed:
        raise InputError(f"{where} lacks {', '.join(needed)}")
    try:
        return config(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
