"""Parses JSON that nobody has checked yet, in memory that is a small multiple of its length.

Python's objects take up to 25 times the memory of their JSON: an empty list is three characters or
64 bytes. So only a list whose entries are checked one by one may be long; all else is short.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

MAX_OTHER = 2**21  # characters of everything outside the long list
_ENTRY_SIZES = (2**11, 2**15, 2**20)  # characters of an entry: mostly it fits into the first
_MAX_DEPTH = 100

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def parse_object(text: str, long_list: str, accept: Callable[[str, Any], Any]) -> dict[str, Any]:
    """The object in a JSON text.

    Args:
        long_list: name of the field whose entries may be many.
        accept: called with the name, as in "shards[3]", and the value of each of them; returns the
            one to keep, or raises ValueError.

    Raises:
        ValueError: it is something else, or longer or deeper than allowed.
    """
    source, fields, left = _Source(text), {}, MAX_OTHER
    source.expect("{")
    while True:
        start, name = source.at, source.value(left)
        if not isinstance(name, str):
            raise ValueError(f"{name!r} is not the name of a field")
        source.expect(":")
        if name == long_list:
            fields[name] = source.entries(name, accept)
        else:
            fields[name] = source.value(left)
            left -= source.at - start
        if source.next() != ",":
            break
        source.expect(",")
    source.expect("}")
    if source.next():
        raise ValueError("there is more after the end")
    for name, value in fields.items():
        if name != long_list:
            _check_depth(name, value, _MAX_DEPTH)
    return fields


class _Source:
    """A JSON text, parsed up to character `at`."""

    def __init__(self, text: str):
        self.text, self.at = text, 0

    def next(self) -> str:
        """The next character that is not white space, "" at the end; it is not taken."""
        self.at = _SPACE.match(self.text, self.at).end()
        return self.text[self.at : self.at + 1]

    def expect(self, character: str) -> None:
        """Takes this character. Raises ValueError where there is another."""
        if self.next() != character:
            raise ValueError(f"expected {character!r} at character {self.at}")
        self.at += 1

    def value(self, most: int) -> Any:
        """Takes a value of at most that many characters. Raises ValueError."""
        self.next()
        try:
            value, used = _DECODER.raw_decode(self.text[self.at : self.at + most])
        except RecursionError as error:
            raise ValueError(f"nested too deep at character {self.at}") from error
        except ValueError as error:
            raise ValueError(
                f"at character {self.at}: {error}; expected JSON of at most {most} characters"
            ) from error
        self.at += used
        return value

    def entries(self, name: str, accept: Callable[[str, Any], Any]) -> list:
        """Takes a list, entry by entry."""
        found: list[Any] = []
        self.expect("[")
        while self.next() != "]":
            if found:
                self.expect(",")
            found.append(accept(f"{name}[{len(found)}]", self._entry()))
        self.expect("]")
        return found

    def _entry(self) -> Any:
        for most in _ENTRY_SIZES[:-1]:
            try:
                return self.value(most)
            except ValueError:
                continue
        return self.value(_ENTRY_SIZES[-1])


def _check_depth(name: str, value: Any, left: int) -> None:
    """Raises ValueError for a value that later uses, which recurse more, could not handle."""
    if left == 0:
        raise ValueError(f"field {name!r} is nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return
    for part in value:
        _check_depth(name, part, left - 1)
