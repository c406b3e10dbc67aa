"""Draws maps of classes, the same colour for the same class, and their legend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from eo_jax.report import pictures

UNLABELLED = 0
# Okabe and Ito, then Tol's muted scheme: neighbours differ for the colour-blind as well.
_PALETTE = (
    "0072b2", "e69f00", "009e73", "cc79a7", "56b4e9", "d55e00", "f0e442", "332288",
    "ddcc77", "117733", "882255", "44aa99", "aa4499", "999933", "661100", "6699cc",
)  # fmt: skip
_SHADES = (0.0, 0.45, -0.4)  # of white, or of black below 0: for more classes than colours

Colours = Mapping[int, tuple[int, int, int]]


class Entry(NamedTuple):
    """One line of a legend: "#rrggbb" and a text."""

    colour: str
    text: str


def colours(classes: Iterable[int]) -> dict[int, tuple[int, int, int]]:
    """{class: RGB} in the order of the classes; 0, which is unlabelled, has none."""
    known = sorted(set(classes) - {UNLABELLED})
    return {value: _colour(rank) for rank, value in enumerate(known)}


def _colour(rank: int) -> tuple[int, int, int]:
    again, which = divmod(rank, len(_PALETTE))
    rgb = np.frombuffer(bytes.fromhex(_PALETTE[which]), np.uint8).astype(float)
    shade = _SHADES[again % len(_SHADES)]
    towards = 255 if shade > 0 else 0
    red, green, blue = np.rint(rgb + abs(shade) * (towards - rgb)).astype(int).tolist()
    return red, green, blue


def paint(classes: np.ndarray, palette: Colours) -> np.ndarray:
    """Classes [h, w] as uint8 RGB [h, w, 3]; what has no colour, such as 0, is striped."""
    rgb, known = np.zeros((*classes.shape, 3), np.uint8), np.zeros(classes.shape, bool)
    for value, colour in palette.items():
        inside = classes == value
        rgb[inside], known = colour, known | inside
    return pictures.hatch(rgb, ~known)


def legend(palette: Colours, names: Mapping[int, str]) -> list[Entry]:
    """The lines of a legend: number and name of every class."""
    return [
        Entry("#{:02x}{:02x}{:02x}".format(*rgb), title(value, names))
        for value, rgb in palette.items()
    ]


def title(value: int, names: Mapping[int, str]) -> str:
    """Number and name of a class."""
    return f"{value} {names.get(value, '')}".rstrip()


def names_of(about: Mapping[str, Any]) -> dict[int, str]:
    """{class: name} of a label in a store's manifest; {} where it has no names."""
    classes = about.get("classes", {})
    return {int(value): str(entry.get("name", "")) for value, entry in classes.items()}


def values_of(about: Mapping[str, Any]) -> Sequence[int]:
    """The values of a label in a store's manifest; () for fractions and for too many values."""
    return sorted(map(int, about.get("values") or ()))
