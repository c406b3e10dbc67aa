"""Completes a store: turns the notes of its shards into index and manifest.

The manifest is written last, because a store without one is unfinished.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.conversion.overlaps import leaks
from data_prep.conversion.shard_task import PARTIAL, merge_classes, reject_line
from data_prep.formats.left_out import LeftOut
from data_prep.statistics.moments import Contents
from eo_jax.data.store.files import write_atomically
from eo_jax.data.store.manifest import PIXEL_SPLITS
from eo_jax.data.store.writer import finish_store
from eo_jax.sensors import Sensor

REJECTS = "rejects.txt"
PIXELS = "pixels.npz"
PIXEL_COLUMNS = ("sample", "row", "column", "class", "split")


def finalise_store(
    output: Path,
    notes: Sequence[Path],
    about: dict[str, Any],
    sensors: Sequence[Sensor],
    listed: LeftOut,
) -> None:
    """Writes everything except the shards of a store, and removes the notes.

    Args:
        notes: one per shard, in order.
        about: name, reader, options and so on, for the manifest's "archive".
        sensors: rows of the sensor table that the samples may have.
        listed: what the listing of the archive left out.
    """
    shards, rows, files, contents = [], [], [], Contents()
    left_out, rejects = listed.reasons, [reject_line(*bad) for bad in listed.bad]
    pixels: dict[str, list[np.ndarray]] = {}
    found, classes, places = listed.edges, dict[str, dict](), []
    for path in notes:
        note = json.loads(path.read_bytes())
        contents.add(Contents.from_json(note["contents"]))
        files += note["files"]
        rejects += note["rejects"]
        left_out.update(note["left_out"])
        found.update(note["found"])
        places += note["footprints"]
        merge_classes(classes, note["classes"])
        _collect_pixels(pixels, note["pixels"], sum(map(len, rows)))
        if note["rows"]:
            shards.append(note["shard"])
            rows.append(note["rows"])
    files = sorted(set(files))
    archive = {
        **about,
        "files": len(files),
        "files_sha256": hashlib.sha256("".join(files).encode()).hexdigest(),
    }
    extra = {
        "left_out": dict(sorted(left_out.items())),
        "found": dict(sorted(found.items())),
        **_write_rejects(output, rejects),
        **_write_pixels(output, pixels),
    }
    all_rows = [row for shard in rows for row in shard]
    extra["shared_ground"] = leaks(places, [row["split"] for row in all_rows])
    entries = describe(archive, all_rows, contents, sensors) | extra
    for label in classes.keys() & entries["labels"].keys():
        entries["labels"][label]["classes"] = classes[label]
    remove_strays(output)  # of tasks that ran twice or were killed
    finish_store(output, shards, rows, entries, about["options"]["format"], len(notes))
    shutil.rmtree(output / PARTIAL)


def remove_strays(output: Path) -> None:
    """Removes the unfinished files of tasks that were killed."""
    for stray in output.rglob(".*.partial"):
        shutil.rmtree(stray) if stray.is_dir() else stray.unlink()


def describe(
    archive: dict[str, Any], rows: Sequence[dict], contents: Contents, sensors: Sequence[Sensor]
) -> dict[str, Any]:
    """The manifest's entries on the contents of a store; `rows` are index rows."""
    present = {row["sensor"] for row in rows}
    return {
        "archive": archive,
        "sensors": {
            sensor.id: sensor.row()
            for sensor in sorted(sensors, key=lambda sensor: sensor.id)
            if sensor.id in present
        },
        "splits": dict(sorted(Counter(row["split"] for row in rows).items())),
        "groups": len({row["group"] for row in rows}),
        **contents.about(),
    }


def _write_rejects(output: Path, lines: Sequence[str]) -> dict[str, Any]:
    if not lines:
        return {}
    text = "".join(sorted(lines)).encode()
    write_atomically(output / REJECTS, text)
    return {
        "rejects": {
            "file": REJECTS,
            "samples": len(lines),
            "sha256": hashlib.sha256(text).hexdigest(),
        }
    }


def _collect_pixels(
    pixels: dict[str, list[np.ndarray]], noted: dict[str, list], first: int
) -> None:
    """Adds the labelled pixels of a shard, int64 [5, n]: sample, row, column, class, split.

    `first` is the number of its first sample.
    """
    for name, samples in noted.items():
        for number, *columns in samples:
            table = np.array(columns, np.int64).reshape(4, -1)
            pixels.setdefault(name, []).append(
                np.concatenate([np.full((1, table.shape[1]), first + number), table])
            )


def _write_pixels(output: Path, pixels: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """Writes STORE/pixels.npz: <label>/{sample,row,column,class,split} of each label with a split
    map; see eo_jax.data.store.manifest.PIXEL_SPLITS.
    """
    if not pixels:
        return {}
    tables = {name: np.concatenate(parts, 1) for name, parts in sorted(pixels.items())}
    columns = {
        f"{name}/{column}": table[c]
        for name, table in tables.items()
        for c, column in enumerate(PIXEL_COLUMNS)
    }
    buffer = io.BytesIO()
    np.savez(buffer, **columns)
    write_atomically(output / PIXELS, buffer.getvalue())
    counts = {
        name: {
            split: int((table[4] == code).sum()) for code, split in enumerate(PIXEL_SPLITS) if split
        }
        for name, table in tables.items()
    }
    return {
        "pixels": {
            "file": PIXELS,
            "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
            "counts": counts,
        }
    }
