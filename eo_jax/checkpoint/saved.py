"""Reads one checkpoint, WORKDIR/checkpoints/STEP/{state, manifest}. What it returns is what was
saved: every array is compared with its checksum, and the manifest with its own.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eo_jax import rules
from eo_jax.checkpoint import arrays, checksums, manifest
from eo_jax.checkpoint.manifest import Leaf, Manifest

MANIFEST = "manifest/metadata"  # in the folder of a checkpoint: Orbax' name for a JSON item
# In messages of errors that say nothing about the bytes on the disk.
_NOT_DAMAGE = ("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "Permission denied")


class DamagedError(OSError):
    """A checkpoint that is not what was saved; `reason` says what is wrong with it."""

    def __init__(self, folder: Path, reason: str):
        super().__init__(
            f"{folder}: checkpoint cannot be restored ({reason}); delete that folder to go back to "
            "the checkpoint before it"
        )
        self.reason = reason


class DeletedError(OSError):
    """A checkpoint that was there when its reader began."""

    def __init__(self, folder: Path):
        super().__init__(
            f"{folder}: deleted meanwhile by the run that saved it; run the same command again"
        )


class Saved:
    """A checkpoint on the disk, in a folder named by its step."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.step = int(folder.name)

    @property
    def workdir(self) -> Path:
        """Of the run."""
        return self.folder.parent.parent

    @functools.cached_property
    def manifest(self) -> Manifest:
        """Raises DamagedError where it is not what was saved, or absent; DeletedError where the
        whole checkpoint is.
        """
        try:
            found = manifest.from_json((self.folder / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            if not self.folder.is_dir():
                raise DeletedError(self.folder) from error
            reason = f"{MANIFEST} is missing: it is damaged, or of an earlier version"
            raise DamagedError(self.folder, reason) from error
        except ValueError as error:
            raise DamagedError(self.folder, f"{MANIFEST}: {error}") from error
        if found.step != self.step:
            raise DamagedError(self.folder, f"{MANIFEST} is that of step {found.step}")
        return found

    def restore(self, like: Any) -> Any:
        """The state on the devices.

        Args:
            like: a tree of ShapeDtypeStructs with shardings, on any mesh.

        Raises:
            ValueError: `like` has other leaves than were saved.
            DamagedError: what was read is not what was saved.
            DeletedError: the checkpoint is gone.
        """
        if difference := manifest.first_difference(self.manifest.leaves, like):
            raise ValueError(
                f"{self.folder}: {difference}; use the code that saved it, or another --workdir"
            )
        try:
            found = arrays.restore(self.folder / "state", dict(rules.paths(like)))
        except Exception as error:
            raise self._unreadable("state", error) from error
        for path, leaf in manifest.leaves_of(found).items():
            if leaf != (saved := self.manifest.leaves[path]):
                raise DamagedError(self.folder, f"leaf {path} is {leaf}, saved was {saved}")
        leaves = [found[path] for path, _ in rules.paths(like)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def array(self, path: str) -> np.ndarray:
        """One leaf. Raises DamagedError where it is not what was saved."""
        saved = self.manifest.leaves[path]
        try:
            array = arrays.read(self.folder / "state", path)
        except Exception as error:
            raise self._unreadable(f"leaf {path}", error) from error
        found = Leaf(str(array.dtype), array.shape, checksums.of_array(array))
        if found != saved:
            raise DamagedError(self.folder, f"leaf {path} is {found}, saved was {saved}")
        return array

    def arrays(self, *prefixes: str) -> dict:
        """The leaves whose paths begin with one of the prefixes, or all, as nested dicts of numpy
        arrays. It needs neither the model nor the mesh of the run.

        Raises DamagedError where one of them is not what was saved.
        """
        tree: dict = {}
        for path in self.manifest.empty:
            _insert(tree, path, {})
        for path in self.manifest.leaves:
            if path.startswith(prefixes or ""):
                _insert(tree, path, self.array(path))
        return tree

    def problems(self) -> Iterator[str]:
        """For each leaf in turn, "" or how it is not what was saved.

        Raises DamagedError where the manifest is not.
        """
        for path in self.manifest.leaves:
            try:
                self.array(path)
            except DamagedError as error:
                yield error.reason
            else:
                yield ""

    def _unreadable(self, what: str, error: Exception) -> OSError:
        """An error of Orbax or tensorstore as one that names what was read."""
        if not self.folder.is_dir():
            return DeletedError(self.folder)
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            what = "state/_METADATA"  # Orbax' list of arrays, its only JSON
        reason = f"{what}: {first_line(error)}"
        if isinstance(error, MemoryError) or any(word in reason for word in _NOT_DAMAGE):
            return OSError(
                f"{self.folder}: checkpoint cannot be read ({reason}); it may be intact: remove "
                "the cause, then run the same command again"
            )
        return DamagedError(self.folder, reason)


def _insert(tree: dict, path: str, value: Any) -> None:
    *parents, name = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = value


def first_line(error: Exception) -> str:
    """The first line of a message, or the type of an error without one."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.split(r" \[(?:tensorstore_spec|source locations|os_error_code)", line)[0]
