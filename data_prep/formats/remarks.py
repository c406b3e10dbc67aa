"""What files say about themselves and what was done about it, for the manifest.

Readers note it where they notice it, deep inside a file format; the conversion collects it sample
by sample, as logging does with messages. Outside `collect` it goes nowhere.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass
class Remarks:
    """Remarks on one sample.

    Attributes:
        texts: sentences without numbers of a single file, since equal ones are counted.
        classes: {label: {class number as stored: {"name": ..., "colour": [r, g, b]}}}.
    """

    texts: set[str] = dataclasses.field(default_factory=set)
    classes: dict[str, dict[int, dict[str, Any]]] = dataclasses.field(default_factory=dict)


_current: contextvars.ContextVar[Remarks | None] = contextvars.ContextVar("remarks", default=None)


@contextlib.contextmanager
def collect() -> Iterator[Remarks]:
    """Collects what is noted inside the block."""
    found = Remarks()
    token = _current.set(found)
    try:
        yield found
    finally:
        _current.reset(token)


def note(text: str) -> None:
    """Notes a sentence about the sample that is being read."""
    found = _current.get()
    if found is not None:
        found.texts.add(text)


def note_classes(label: str, classes: Mapping[int, dict[str, Any]]) -> None:
    """Notes the class table of a label map."""
    found = _current.get()
    if found is not None and classes:
        found.classes.setdefault(label, {}).update(classes)
