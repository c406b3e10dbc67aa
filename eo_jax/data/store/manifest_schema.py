"""The type and the limits of every field of a manifest, as tables, and their check.

A rule is for one value, as in sensors/checks.py; the classes below are for objects and lists.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from eo_jax.data.store import record, zarr_shards
from eo_jax.sensors.checks import Rule, require

FORMATS = ("array-record", *zarr_shards.FORMATS)
_MAX_FILE_BYTES = 2**50
_MAX_COUNT = 2**40
_MAX_NAME = 255  # characters


@dataclass(frozen=True)
class Fields:
    """An object: every field of `required`, maybe those of `optional`, and no others."""

    required: Mapping[str, Schema]
    optional: Mapping[str, Schema] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenFields(Fields):
    """The same, but other fields may be there and say anything."""


@dataclass(frozen=True)
class Named:
    """An object with any names that follow a rule, whose values are all `of` one kind."""

    of: Schema
    name: Rule


@dataclass(frozen=True)
class Items:
    """A list whose values are all `of` one kind."""

    of: Schema


@dataclass(frozen=True)
class OrNull:
    """What it is `of`, or null."""

    of: Schema


Schema: TypeAlias = "Rule | Fields | Named | Items | OrNull"

_LIST: Rule = (lambda value: isinstance(value, list), "a list")
_OBJECT: Rule = (lambda value: isinstance(value, dict), "an object")


def check(where: str, value: Any, schema: Schema) -> None:
    """Raises ValueError, which names the field, the value found and the one expected."""
    match schema:
        case tuple():  # a rule
            require(where, value, schema)
        case OrNull():
            if value is not None:
                check(where, value, schema.of)
        case Items():
            require(where, value, _LIST)
            for number, one in enumerate(value):
                check(f"{where}[{number}]", one, schema.of)
        case Named():
            require(where, value, _OBJECT)
            for name, one in value.items():
                require(f"name in {where}", name, schema.name)
                check(_join(where, name), one, schema.of)
        case Fields():
            require(where, value, _OBJECT)
            _check_fields(where, value, schema)


def _check_fields(where: str, value: dict[str, Any], schema: Fields) -> None:
    for name in schema.required:
        if name not in value:
            raise ValueError(f"field {_join(where, name)!r} is missing")
    for name, one in value.items():
        kind = schema.required.get(name) or schema.optional.get(name)
        if kind is not None:
            check(_join(where, name), one, kind)
        elif not isinstance(schema, OpenFields):
            known = ", ".join([*schema.required, *schema.optional])
            raise ValueError(f"field {_join(where, name)!r} is unknown, expected one of {known}")


def _join(where: str, name: str) -> str:
    return f"{where}.{name[:100]}" if where else name[:100]


# -------------------------------------------------------------------------------------------- rules


def _whole(low: int, high: int) -> Rule:
    return lambda value: type(value) is int and low <= value <= high, (
        f"a whole number from {low} to {high}"
    )


def _text(pattern: str, expected: str) -> Rule:
    matches = re.compile(pattern).fullmatch
    return lambda value: isinstance(value, str) and matches(value) is not None, expected


def _one_of(*values: str) -> Rule:
    return lambda value: value in values, f"one of {', '.join(values)}"


def _is_inside(value: Any) -> bool:
    is_name = isinstance(value, str) and 0 < len(value) <= _MAX_NAME and value.isprintable()
    return is_name and not value.startswith("/") and ".." not in value.split("/")


def _is_label_shape(value: Any) -> bool:
    if value == "map":
        return True
    is_shape = isinstance(value, list) and len(value) <= record.MAX_AXES
    holds, _ = _whole(0, record.MAX_PATCH_LABEL)
    return is_shape and all(map(holds, value)) and math.prod(value) <= record.MAX_PATCH_LABEL


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


_TEXT: Rule = (lambda value: isinstance(value, str), "text")
_COUNT = _whole(0, _MAX_COUNT)
_SIZE = _whole(1, _MAX_FILE_BYTES)
_VERSION = _whole(1, 2**31)
_SHA256 = _text("[0-9a-f]{64}", "64 hexadecimal digits")
_FILE: Rule = (_is_inside, "the name of a file that is not outside the store")
_KIND = _text(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}", "letters, digits, '.', '-' and '_'")
_NUMBERS = Items(OrNull((_is_finite, "a finite number")))
_SHAPE: Rule = (_is_label_shape, f"'map', or sides for at most {record.MAX_PATCH_LABEL} values")
_CLASS = _text(r"-?[0-9]{1,20}", "a whole number")

# ------------------------------------------------------------------------------------------- tables

_PIXEL_FILE = Fields(
    {"array": _KIND, "file": _FILE, "samples": _COUNT, "bytes": _SIZE, "sha256": _SHA256}
)
SHARD = Fields(
    {"file": _FILE, "samples": _COUNT, "bytes": _SIZE, "sha256": _SHA256},
    {"samples_a_shard": _COUNT, "pixels": Items(_PIXEL_FILE)},
)
_STATISTICS = Fields(
    {"mean": _NUMBERS, "std": _NUMBERS},
    {"count": _NUMBERS, "min": _NUMBERS, "max": _NUMBERS, "nodata_share": _NUMBERS},
)
_LEGEND = Fields({}, {"name": _TEXT, "colour": Items(_COUNT)})
_LABEL = Fields(
    {"dtype": _one_of(*record.DTYPES), "shape": _SHAPE},
    {"values": OrNull(Named(_COUNT, _CLASS)), "classes": Named(_LEGEND, _CLASS)},
)
# Their other fields are those of sensors/base.py, checked when the row is used.
_SENSOR = OpenFields({"bands": OpenFields({"name": Items(_TEXT)})})
_ARRAY = Fields({"file": _FILE, "bytes": _SIZE, "sha256": _SHA256})

_REQUIRED = {"store_format": _VERSION, "index_sha256": _SHA256, "content_sha256": _SHA256}
_OPTIONAL = {
    "format": _one_of(*FORMATS),
    "record_format": _VERSION,
    "tasks": _COUNT,
    "samples": _COUNT,
    "samples_a_shard": _COUNT,
    "arrays": Named(_ARRAY, _KIND),
    "archive": OpenFields({}, {"name": _TEXT, "reader": _TEXT, "licence": _TEXT}),
    "sensors": Named(_SENSOR, _TEXT),
    "splits": Named(_COUNT, _TEXT),
    "groups": _COUNT,
    "statistics": Named(_STATISTICS, _TEXT),
    "labels": Named(_LABEL, _TEXT),
    "left_out": Named(_COUNT, _TEXT),
    "found": Named(_COUNT, _TEXT),
    "shared_ground": Named(_COUNT, _TEXT),
    "rejects": OpenFields({"file": _FILE, "samples": _COUNT, "sha256": _SHA256}),
    "pixels": OpenFields({"file": _FILE, "sha256": _SHA256}),
}
# A manifest without its shards, which are checked one by one.
MANIFEST = OpenFields(_REQUIRED, _OPTIONAL)
_IN_ZARR = ("tasks", "samples_a_shard", "arrays")
ZARR_MANIFEST = OpenFields({**_REQUIRED, **{name: _OPTIONAL[name] for name in _IN_ZARR}}, _OPTIONAL)
