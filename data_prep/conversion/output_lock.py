"""Locks the folder of a store for one command and one set of options, so that reruns resume it."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import re
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

_COPY = {
    "s3": "with `aws s3 sync STORE {}`",
    "gs": "with `gcloud storage rsync --recursive STORE {}`",
}
_WORDS = {
    "listing_sha256": "list of files",
    "modification_times": "version of the files",
    "name": "archive",
    "options": "set of options",
    "sensors_sha256": "band table",
}


def local_folder(text: str) -> Path:
    """The path in the option --output. Raises argparse.ArgumentTypeError for a URL."""
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", text, re.I)
    if scheme is None:
        return Path(text)
    copy = _COPY.get(scheme[1].lower(), "with any tool").format(text)
    raise argparse.ArgumentTypeError(
        f"{text} is a URL, but stores are written to a local folder; give one, then copy it {copy}"
    )


def check_output(output: Path) -> None:
    """Raises ValueError where the output is neither a store nor an unfinished one."""
    empty = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if not (empty or (output / PARTIAL).is_dir() or (output / "manifest.json").exists()):
        raise ValueError(
            f"{output}: exists and is neither a store nor an unfinished one; give another --output"
        )


def is_finished(output: Path, about: Mapping[str, Any]) -> bool:
    """Whether the store is complete.

    Raises ValueError where it is a store of something other than `about`, the manifest's "archive".
    """
    if not (output / "manifest.json").exists():
        return False
    found = open_store(output).about("archive")
    different = _differences(about, found)
    if different:
        raise ValueError(
            f"{output}: is a finished store of a different {_in_words(different, about, found)}; "
            "give another --output, or remove it"
        )
    shutil.rmtree(output / PARTIAL, ignore_errors=True)  # killed between manifest and tidying up
    return True


@contextlib.contextmanager
def hold(output: Path) -> Iterator[None]:
    """Locks the output folder for this command. Raises ValueError if another process holds it."""
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
            if [path.name for path in output.rglob("*")] == [PARTIAL, "lock"]:  # nothing written
                shutil.rmtree(partial)
                output.rmdir()


def check_resumable(output: Path, about: Mapping[str, Any]) -> None:
    """Records archive and options of a new output.

    Raises ValueError where an unfinished output has others.
    """
    file = output / PARTIAL / "plan.json"
    wanted = {**about, "record_format": record.FORMAT_VERSION, "store_format": STORE_FORMAT}
    if not file.exists():
        write_atomically(file, json.dumps(wanted, indent=1).encode())
    found = json.loads(file.read_bytes())
    different = _differences(wanted, found)
    if different:
        hint = "run that command again, give another --output, or remove the folder"
        raise ValueError(
            f"{output}: was started with a different {_in_words(different, wanted, found)}; {hint}"
        )


def _differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    wanted = json.loads(json.dumps(wanted))  # as in a file: lists for tuples
    return [name for name in wanted if found.get(name) != wanted[name]]


def _in_words(names: Sequence[str], wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The differences, options one by one: "set of options (format: array-record there, zarr
    here)".
    """
    words = []
    for name in names:
        there, here = found.get(name), wanted[name]
        both = isinstance(there, dict) and isinstance(here, Mapping)
        options = _differences(here, there) if both and name == "options" else []
        detail = "; ".join(
            f"{option}: {there.get(option)} there, {here[option]} here" for option in options
        )
        words.append(_WORDS.get(name, name) + (f" ({detail})" if detail else ""))
    return ", ".join(words)
