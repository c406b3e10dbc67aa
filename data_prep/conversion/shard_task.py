"""One shard of a conversion: a repeatable task that writes the same bytes on any machine."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.archive import ArchiveError
from data_prep.conversion.quantise import Quantiser
from data_prep.formats import remarks
from data_prep.formats.footprint import footprint
from data_prep.reader import Files, Item, Reader, SkipSample
from data_prep.statistics.moments import Contents
from eo_jax.data.store.files import sha256_file, write_atomically
from eo_jax.data.store.writer import index_row, write_shard
from eo_jax.schema import Sample

PARTIAL = ".partial"


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard. Tasks are pickled for worker processes, so they hold no open files."""

    reader: Reader
    items: tuple[Item, ...]
    output: Path
    number: int
    format: str
    samples_per_shard: int
    skip_bad: bool
    quantiser: Quantiser | None

    @property
    def note(self) -> Path:
        """Path of the note that the finished task writes."""
        return self.output / PARTIAL / f"{self.number:05d}.json"


def convert_shard(task: Task) -> tuple[int, int]:
    """Writes one shard and its note, unless both exist. Returns (items, bytes of raw pixels)."""
    note = _valid_note(task)
    if note is None:
        note = _write_shard(task)
        write_atomically(task.note, json.dumps(note).encode())
    return len(task.items), note["raw_bytes"]


def _valid_note(task: Task) -> dict | None:
    """The note of a shard that is finished and undamaged, else None."""
    if not task.note.exists():
        return None
    note = json.loads(task.note.read_bytes())
    files = [note["shard"], *note["shard"].get("pixels", [])] if note["rows"] else []
    undamaged = all(
        (task.output / file["file"]).is_file()
        and sha256_file(task.output / file["file"]) == file["sha256"]
        for file in files
    )
    # A note of an older version lacks what the index needs.
    return note if undamaged and "record_crc32c" in note["shard"] else None


def _write_shard(task: Task) -> dict[str, Any]:
    contents, left_out = Contents(), Counter[str]()
    note: dict[str, Any] = {
        "rows": [],
        "files": [],
        "rejects": [],
        "pixels": {},
        "raw_bytes": 0,
        "footprints": [],
        "found": Counter[str](),
        "classes": {},
    }
    shard = write_shard(
        task.output,
        task.number,
        task.format,
        task.samples_per_shard,
        _samples(task, contents, left_out, note),
    )
    if not note["rows"]:  # all skipped or rejected
        (task.output / shard["file"]).unlink()
    return {**note, "left_out": left_out, "contents": contents.to_json(), "shard": shard}


def _samples(
    task: Task, contents: Contents, left_out: Counter[str], note: dict[str, Any]
) -> Iterator[Sample]:
    """Yields the samples of the shard and fills contents, left_out and note on the way."""
    for item in task.items:
        files = Files(task.reader.archive, item)
        try:
            with remarks.collect() as found:
                sample = read_item(task.reader, item, files, task.quantiser)
        except SkipSample as reason:
            left_out[str(reason)] += 1
        except ArchiveError as error:
            if not task.skip_bad:
                raise with_way_out(error, task.items) from error
            note["rejects"].append(reject_line(item.id, error))
        else:
            _describe(sample, item.split or "train", _sensor(task, sample), contents, note)
            note["found"].update(found.texts)
            merge_classes(note["classes"], found.classes)
            yield sample
        note["files"] += [
            f"{file.name}\t{files.hashes.get(file.name, 'unreadable')}\n" for file in item.all_files
        ]


def read_item(reader: Reader, item: Item, files: Files, quantiser: Quantiser | None) -> Sample:
    """The sample of an item, quantised if there is a quantiser, with a longitude in [-180, 180]:
    some archives count from 0 to 360.

    Raises ArchiveError, also where reading exceeds the memory limit, and SkipSample.
    """
    try:
        sample = reader.read(item, files)
    except MemoryError as error:
        raise ArchiveError(
            item.files[0].name,
            "needs more memory to read than a worker has; give more --memory, or cut the file",
        ) from error
    if sample.lonlat is not None:
        sample = dataclasses.replace(sample, lonlat=_east_and_west(*sample.lonlat))
    return sample if quantiser is None else quantiser.apply(sample, item.files[0].name)


def _east_and_west(longitude: float, latitude: float) -> tuple[float, float]:
    if not -180 <= longitude <= 180:  # others keep every bit
        longitude = (longitude + 180) % 360 - 180
    return longitude, latitude


def reject_line(name: str, error: ArchiveError) -> str:
    """The line of rejects.txt about one bad file."""
    return f"{name}\t{' '.join(str(error).split())}\n"


def with_way_out(error: ArchiveError, items: Sequence[Item]) -> ArchiveError:
    """The error of a bad file with the option that leaves such files out, where there are other
    files.
    """
    is_alone = all(item.files[0].name == error.name for item in items)
    if is_alone or "--skip-bad" in error.reason:
        return error
    return ArchiveError(
        error.name, f"{error.reason}; --skip-bad leaves bad files out and lists them"
    )


def merge_classes(into: dict[str, dict], found: Mapping[str, Mapping[Any, dict]]) -> None:
    """Adds class tables {label: {class: {"name"?, "colour"?}}}; the first file decides."""
    for label, classes in found.items():
        for number, about in classes.items():
            into.setdefault(label, {}).setdefault(str(number), about)


def _sensor(task: Task, sample: Sample) -> Any:
    sensors = task.reader.sensors if task.quantiser is None else task.quantiser.sensors
    return next(sensor for sensor in sensors if sensor.id == sample.sensor)


def _describe(
    sample: Sample, split: str, sensor: Any, contents: Contents, note: dict[str, Any]
) -> None:
    missing = sensor.missing(sample.pixels)
    contents.add_sample(sample, split, missing)
    row = index_row(sample, split, np.count_nonzero(missing) / missing.size)
    for name, pixels in labelled_pixels(sample).items():
        note["pixels"].setdefault(name, []).append([len(note["rows"]), *pixels.tolist()])
    note["rows"].append(row)
    shape = sample.pixels.shape[1:]
    note["footprints"].append(footprint(sample.crs, sample.affine, *shape))
    note["raw_bytes"] += sample.pixels.nbytes


def labelled_pixels(sample: Sample) -> dict[str, np.ndarray]:
    """{label: int64 [4, n]}: row, column, class and split of every pixel in a scene's split maps;
    see eo_jax.data.store.manifest.PIXEL_SPLITS.
    """
    found = {}
    for name, split in sample.labels.items():
        label = sample.labels.get(name.removesuffix(".split"))
        if name.endswith(".split") and label is not None:
            rows, columns = np.nonzero(split)
            found[name.removesuffix(".split")] = np.stack(
                [rows, columns, label[rows, columns], split[rows, columns]]
            ).astype(np.int64)
    return found
