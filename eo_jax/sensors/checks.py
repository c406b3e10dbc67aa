"""The rule for each field of a sensor row, so that an error in a user's table names the field."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

KINDS = ("reflective", "thermal", "sar", "elevation", "depth", "other")
KINDS_WITHOUT_WAVELENGTH = ("sar", "elevation", "depth")
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")

# A test, and its expectation in words.
Rule = tuple[Callable[[Any], bool], str]


def require(field: str, value: Any, rule: Rule) -> None:
    """Raises ValueError with field, value and expectation where the rule does not hold."""
    holds, expected = rule
    if not holds(value):
        raise ValueError(f"field {field!r} is {repr(value)[:100]}, expected {expected}")


def check_names(where: str, found: Any, required: Iterable[str], known: Iterable[str]) -> None:
    """Raises ValueError unless `found` is a dict with all the required keys and no unknown ones."""
    if not isinstance(found, dict):
        raise ValueError(
            f"{where} is of type {type(found).__name__}, expected an object with the fields "
            f"{', '.join(required)}"
        )
    missing = [name for name in required if name not in found]
    if missing:
        raise ValueError(f"{where} lacks the fields {', '.join(missing)}; add them")
    unknown = [name for name in found if name not in known]
    if unknown:
        raise ValueError(
            f"{where} has the unknown fields {', '.join(unknown)[:100]}; there are "
            f"{', '.join(known)}"
        )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_id(value: Any) -> bool:
    # Without a dot, so that an id cannot be mistaken for a file name.
    return _is_text(value) and re.fullmatch(r"[A-Za-z0-9_-]{1,100}", value) is not None


def _is_number(value: Any) -> bool:
    # This comparison also rejects NaN.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_index(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int) and value >= 0


def _is_nm(value: Any) -> bool:
    return _is_number(value) and 100 <= value <= 100_000  # in micrometres it would be far below 100


def _all(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, tuple) and all(map(test, values))


def _or_null(rule: Rule) -> Rule:
    holds, expected = rule
    return lambda value: value is None or holds(value), f"{expected}, or null"


_TEXT: Rule = (_is_text, "text")
_NUMBER: Rule = (_is_number, "a finite number")
_LENGTH: Rule = (_is_positive, "a number above 0")
_SCALE: Rule = (lambda value: _is_number(value) and value != 0, "a finite number other than 0")
_COLOURS: Rule = _or_null(
    (
        lambda values: _all(_is_index)(values) and len(values) == 3,
        "a list of three band indices from 0",
    )
)

SENSOR_RULES: dict[str, Rule] = {
    "id": (_is_id, "letters, digits, _ and -"),
    "title": _TEXT,
    "bands": (len, "at least one band"),
    "gsd_m": _or_null(_LENGTH),
    "dtype": (lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
    "scale": _SCALE,
    "units": _TEXT,
    "nodata": _or_null(_NUMBER),
    "offset": _NUMBER,
    "mean": (_all(_is_number), "a list of finite numbers"),
    "std": (_all(_is_positive), "a list of numbers above 0"),
    "statistics_source": _TEXT,
    "true_colour": _COLOURS,
    "false_colour": _COLOURS,
    "source": _TEXT,
}
BAND_RULES: dict[str, Rule] = {
    "name": _TEXT,
    "number": (lambda value: _is_index(value) and value > 0, "a whole number from 1"),
    "centre_nm": _or_null((_is_nm, "a wavelength in nm, from 100 to 100000")),
    "fwhm_nm": _or_null(_LENGTH),
    "gsd_m": _or_null(_LENGTH),
    "kind": (lambda value: value in KINDS, f"one of {', '.join(KINDS)}"),
    "scale": _or_null(_SCALE),
    "offset": _or_null(_NUMBER),
    "units": _or_null(_TEXT),
    "bad": _or_null((_is_flag, "true or false")),
}
