"""What is finished of an output: raw rows of float32 in a folder beside it, and how many.

A row counts once it is on the disk and `progress.json` says so, so after a kill the rest is made
again, from the same inputs in the same batches: the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eo_jax.data.store.files import write_atomically, writing

_ITEM = 4  # bytes of a float32


class Scratch:
    """Rows of `width` float32 numbers, appended in order.

    Args:
        folder: where they are; it is made.
        facts: all that decides their values, in plain JSON types. Rows of other facts are removed.
        width: numbers in a row.

    Attributes:
        set_aside: why earlier rows are not used; "" where they are, or where there are none.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], width: int):
        self.folder, self._facts, self._width = folder, facts, width
        folder.mkdir(parents=True, exist_ok=True)
        found = self._read()
        self.set_aside = self._why_not(found)
        if self.set_aside:
            print(
                f"{folder}: what an earlier command left is not used: {self.set_aside}", flush=True
            )
        if found is None or self.set_aside:
            found = {"done": 0, "rows": 0, "note_bytes": 0}
        self.done: int = found["done"]
        self.rows: int = found["rows"]
        self._note_bytes: int = found["note_bytes"]

    def append(self, rows: np.ndarray, notes: Sequence[Any] = ()) -> None:
        """Adds the rows [n, width] of one more unit of work, and notes about it in JSON types."""
        text = "".join(f"{json.dumps(note)}\n" for note in notes).encode()
        values = np.ascontiguousarray(rows, np.float32).tobytes()
        _write_at(self._path, self.rows * self._width * _ITEM, values)
        _write_at(self._notes, self._note_bytes, text)
        self.done, self.rows = self.done + 1, self.rows + len(rows)
        self._note_bytes += len(text)
        state = {
            "facts": self._facts,
            "done": self.done,
            "rows": self.rows,
            "note_bytes": self._note_bytes,
        }
        write_atomically(self._progress, json.dumps(state).encode())

    def notes(self) -> list[Any]:
        """Those of all units."""
        with open(self._notes, "rb") as file:
            return [json.loads(line) for line in file.read(self._note_bytes).splitlines()]

    def read(self, row: int, rows: int, first: int, count: int) -> np.ndarray:
        """float32 [rows, count]: numbers `first` to `first + count` of some rows."""
        found = np.empty((rows, count), np.float32)
        with open(self._path, "rb") as file:
            for k in range(rows):
                at = ((row + k) * self._width + first) * _ITEM
                found[k] = np.frombuffer(os.pread(file.fileno(), count * _ITEM, at), np.float32)
        return found

    def remove(self) -> None:
        """Removes the folder, once the output is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _path(self) -> Path:
        return self.folder / "rows.f32"

    @property
    def _progress(self) -> Path:
        return self.folder / "progress.json"

    @property
    def _notes(self) -> Path:
        return self.folder / "notes.jsonl"

    def _why_not(self, found: dict[str, Any] | None) -> str:
        """Why the rows of an earlier command are not those of this one; "" where they are."""
        if found is None or not found["rows"]:
            return ""
        before, now = found["facts"], self._facts
        keys = sorted(before.keys() | now.keys())
        differing = [key for key in keys if before.get(key) != now.get(key)]
        if differing:
            return f"other {', '.join(differing)}"
        expected = {
            self._path: found["rows"] * self._width * _ITEM,
            self._notes: found["note_bytes"],
        }
        short = [p.name for p, n in expected.items() if not p.exists() or p.stat().st_size < n]
        return f"{', '.join(short)} is not complete" if short else ""

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._progress.read_bytes())
            counts = {key: int(found[key]) for key in ("done", "rows", "note_bytes")}
            return {"facts": dict(found["facts"]), **counts}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self._progress}: not what `embed` writes ({error}); remove {self.folder}"
            ) from error


def _write_at(path: Path, offset: int, data: bytes) -> None:
    """Writes data at an offset, where the file ends afterwards."""
    with writing(path), open(path, "r+b" if path.exists() else "w+b") as file:
        file.truncate(offset)
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
