"""Keeps the folder of a store for the one command that writes it, and for one set of options, so
that a rerun goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.conversion.finalise import remove_strays
from data_prep.conversion.shard_task import PARTIAL
from eo_jax.data.store import record
from eo_jax.data.store.files import write_atomically
from eo_jax.data.store.manifest import STORE_FORMAT
from eo_jax.data.store.reader import open_store

_WORDS = {
    "listing_sha256": "list of files",
    "modification_times": "version of the files",
    "name": "archive",
    "options": "set of options",
    "sensors_sha256": "band table",
}


def check_output(output: Path) -> None:
    """Raises ValueError where the output is something else than a store or the beginning of one."""
    empty = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not (empty or (output / PARTIAL).is_dir() or (output / "manifest.json").exists()):
        raise ValueError(
            f"{output}: exists and is neither a store nor the beginning of one; give another "
            "--output"
        )


def is_finished(output: Path, about: Mapping[str, Any]) -> bool:
    """Whether the store is there already. Raises ValueError where it is one of something else than
    `about`, the manifest's "archive".
    """
    if not (output / "manifest.json").exists():
        return False
    found = open_store(output).manifest["archive"]
    other = _differing(about, found)
    if other:
        raise ValueError(
            f"{output}: is a finished store, but of another {_named(other, about, found)}; give "
            "another --output, or remove it"
        )
    shutil.rmtree(output / PARTIAL, ignore_errors=True)  # killed between manifest and tidying up
    return True


@contextlib.contextmanager
def hold(output: Path) -> Iterator[None]:
    """Holds the output folder for this command alone. Raises ValueError where another process is at
    it.
    """
    partial = output / PARTIAL
    partial.mkdir(parents=True, exist_ok=True)
    with open(partial / "lock", "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{output}: another process is converting into it; wait for it, or give another "
                "--output"
            ) from error
        remove_strays(output)
        try:
            yield
        finally:
            if [path.name for path in output.rglob("*")] == [PARTIAL, "lock"]:  # nothing came of it
                shutil.rmtree(partial)
                output.rmdir()


def check_resumable(output: Path, about: Mapping[str, Any]) -> None:
    """Notes what is being written. Raises ValueError where the output was begun with something
    else.
    """
    file = output / PARTIAL / "plan.json"
    wanted = {**about, "record_format": record.FORMAT_VERSION, "store_format": STORE_FORMAT}
    if not file.exists():
        write_atomically(file, json.dumps(wanted, indent=1).encode())
    found = json.loads(file.read_bytes())
    other = _differing(wanted, found)
    if other:
        cure = "run that command again, give another --output, or remove the folder"
        raise ValueError(f"{output}: was begun with another {_named(other, wanted, found)}; {cure}")


def _differing(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    wanted = json.loads(json.dumps(wanted))  # as a file has it: lists for tuples
    return [name for name in wanted if found.get(name) != wanted[name]]


def _named(names: Sequence[str], wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """In words, and options one by one: "set of options (format: array-record there, zarr
    here)".
    """
    words = []
    for name in names:
        there, here = found.get(name), wanted[name]
        both = isinstance(there, dict) and isinstance(here, Mapping)
        options = _differing(here, there) if both and name == "options" else []
        detail = "; ".join(
            f"{option}: {there.get(option)} there, {here[option]} here" for option in options
        )
        words.append(_WORDS.get(name, name) + (f" ({detail})" if detail else ""))
    return ", ".join(words)
