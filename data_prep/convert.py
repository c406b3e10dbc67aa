"""Converts an archive into a store, in shards that can be interrupted and resumed at any moment.

    python -m data_prep convert spectral-earth --input /data/spectral_earth --output /data/stores/spectral_earth --labels landuse
    python -m data_prep convert enmap-tiles --input /data/tiles --output /data/stores/tiles --val-share 0.2 --dry-run

Samples are sorted by id and cut into shards of a fixed number: as many as --shard-mb of raw pixels hold, judged by the first sample. Each
shard is one task, which ends by writing a note of what it did:

    STORE/.partial/plan.json           what is converted, and how; another input or other options cannot be mixed in
    STORE/.partial/00000.json ...      rows, sums, file hashes and rejects of each finished shard

A rerun of the same command keeps every shard whose note is there and whose SHA-256 agrees. When all are done the notes become index and
manifest, and .partial goes. The bytes of a store depend on the archive and the options, not on workers, interruptions or the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep import parallel, progress, readers, splits
from data_prep.readers import ArchiveError, Item, Reader
from data_prep.statistics import Contents, raw_bytes
from eo_jax.data import record, stores
from eo_jax.schema import Sample
from eo_jax.sensors import get_sensor

PARTIAL = ".partial"
REJECTS = "rejects.txt"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be converted. `archive` goes into the manifest; `stamp` is a hash of modification times, for resuming only."""

    reader: Reader
    items: tuple[Item, ...]
    output: Path
    archive: dict[str, Any]
    stamp: str
    skip_bad: bool
    shard_bytes: float


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard of a plan, for a worker process."""

    reader: Reader
    items: tuple[Item, ...]
    output: Path
    number: int
    skip_bad: bool

    @property
    def shard(self) -> Path:
        return self.output / "shards" / f"{self.number:05d}.array_record"

    @property
    def note(self) -> Path:
        return self.output / PARTIAL / f"{self.number:05d}.json"


# ------------------------------------------------------------------ command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep convert`."""
    parser.description = __doc__
    parser.epilog = "example: python -m data_prep convert enmap-tiles --input /data/tiles --output /data/stores/tiles --val 'north/*'"
    parser.add_argument("archive", choices=readers.names(), help="layout of the archive")
    parser.add_argument("--input", type=Path, required=True, metavar="DIR", help="folder of the archive; only read")
    parser.add_argument("--output", type=Path, required=True, metavar="STORE", help="folder of the store; new, or one to resume")
    absent = argparse.SUPPRESS  # a reader's own default holds
    parser.add_argument("--labels", nargs="+", default=absent, metavar="NAME_OR_DIR", help="folders of label maps, laid out as the images")
    trust = "enmap-tiles: the bands of tiles without wavelength tags are bands 1 to 224"
    parser.add_argument("--trust-product-order", action="store_true", default=absent, help=trust)
    parser.add_argument("--val", action="append", default=[], metavar="PATTERN", help="ids for validation, such as 'north/*'; repeatable")
    parser.add_argument("--val-share", type=_share, metavar="F", help="share of the places for validation, by a hash of the place's name")
    parser.add_argument("--workers", type=_positive(int), default=parallel.cores(), metavar="N", help="processes (default: one a core)")
    parser.add_argument("--shard-mb", type=_positive(float), default=64.0, metavar="MB", help="raw pixels in a shard (default: 64)")
    parser.add_argument("--skip-bad", action="store_true", help="leave bad files out and list them in the store's rejects.txt")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")


def _share(text: str) -> float:
    if not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}, expected more than 0 and less than 1")
    return float(text)


def _positive(kind: type) -> Any:
    def parse(text: str) -> float:
        if not 0 < kind(text) < float("inf"):
            raise argparse.ArgumentTypeError(f"{text}, expected more than 0")
        return kind(text)

    return parse


def run(args: argparse.Namespace) -> int:
    """Runs the command. Raises ValueError or OSError with a message for the user."""
    with _whole_paths(args.input), _disk_errors(args.output):
        plan = make_plan(args)
        if args.dry_run:
            _print_dry_run(plan)
        elif _is_finished(plan):
            print(f"{plan.output}: up to date")
        else:
            with _claimed(plan):
                convert(plan, args.workers)
            _print_summary(plan.output)
    return 0


@contextlib.contextmanager
def _whole_paths(root: Path) -> Iterator[None]:
    """Readers name files relative to the archive, for the sake of rejects.txt; the user gets the whole path."""
    try:
        yield
    except ArchiveError as error:
        raise ArchiveError(str(root / error.name), error.reason) from error


@contextlib.contextmanager
def _disk_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            cure = "Free space on that disk and run the same command again."
            raise OSError(f"{output}: cannot be written ({error.strerror}). {cure}") from error
        raise


# ------------------------------------------------------------------ plan


def make_plan(args: argparse.Namespace) -> Plan:
    """Lists the archive and decides the splits; reads no image. Raises ValueError."""
    if not args.input.is_dir():
        raise ValueError(f"--input {args.input}: no such folder")
    given = vars(args)
    options = {name: given[name] for name in ("trust_product_order",) if name in given}
    labels = {"labels": tuple(args.labels)} if "labels" in given else {}
    reader = readers.make_reader(args.archive, args.input, options | labels)
    items = splits.assign(reader.items(), args.val, args.val_share)
    listing, stamp = _listing(args.input, items)
    archive = {
        "name": reader.TITLE,
        "reader": args.archive,
        "reader_version": reader.VERSION,
        "options": {
            **options,
            "labels": [file.role for file in items[0].files[1:]],
            "val": args.val,
            "val_share": args.val_share,
            "shard_mb": args.shard_mb,
            "skip_bad": args.skip_bad,
        },
        "listing_sha256": listing,
    }
    return Plan(reader, tuple(items), args.output, archive, stamp, args.skip_bad, args.shard_mb * 1e6)


def _listing(root: Path, items: Sequence[Item]) -> tuple[str, str]:
    """SHA-256 of ids, splits, file names and sizes; and of modification times, which a finished store does not record."""
    listing, stamp = hashlib.sha256(), hashlib.sha256()
    for item in items:
        for file in item.files:
            found = os.stat(root / file.name)
            listing.update(f"{item.id}\t{item.split}\t{file.role}\t{file.name}\t{found.st_size}\n".encode())
            stamp.update(f"{found.st_mtime_ns}\n".encode())
    return listing.hexdigest(), stamp.hexdigest()


def _tasks(plan: Plan) -> list[Task]:
    size = max(1, int(plan.shard_bytes // _first_good(plan).pixels.nbytes))
    chunks = [plan.items[start : start + size] for start in range(0, len(plan.items), size)]
    return [Task(plan.reader, chunk, plan.output, number, plan.skip_bad) for number, chunk in enumerate(chunks)]


def _first_good(plan: Plan) -> Sample:
    """The first sample that can be read; without --skip-bad, the first. Raises ArchiveError where there is none."""
    errors = []
    for item in plan.items:
        try:
            return read_item(plan.reader, item, {})
        except ArchiveError as error:
            errors.append(error)
            if not plan.skip_bad:
                raise
    raise ArchiveError(errors[0].name, f"{errors[0].reason}. It is the first of {len(errors)} images, and every one is bad.")


# ------------------------------------------------------------------ the store, while it is being made


def _is_finished(plan: Plan) -> bool:
    """True where the output is the finished store of this plan. Raises ValueError where it is something else."""
    if not (plan.output / "manifest.json").exists():
        return False
    found = stores.open_store(plan.output).manifest["archive"]
    wanted = json.loads(json.dumps(plan.archive))
    other = [name for name in wanted if found.get(name) != wanted[name]]
    if other:
        raise ValueError(f"{plan.output}: is a finished store, but of another {_others(other)}; give another --output, or remove it")
    shutil.rmtree(plan.output / PARTIAL, ignore_errors=True)  # killed between manifest and tidying up
    return True


@contextlib.contextmanager
def _claimed(plan: Plan) -> Iterator[None]:
    """Holds the output folder for this plan alone. Raises ValueError where it holds something else or another process is at it."""
    partial = plan.output / PARTIAL
    empty = not plan.output.exists() or (plan.output.is_dir() and not any(plan.output.iterdir()))
    if not (empty or partial.is_dir()):
        raise ValueError(f"{plan.output}: exists and is neither a store nor the beginning of one; give another --output")
    partial.mkdir(parents=True, exist_ok=True)
    with open(partial / "lock", "wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{plan.output}: another process is converting into it; wait for it, or give another --output") from error
        _check_plan(plan, partial / "plan.json")
        (plan.output / "shards").mkdir(exist_ok=True)
        for folder in (plan.output, plan.output / "shards", partial):
            for stray in folder.glob(".*.partial"):  # of a run that was killed
                stray.unlink()
        yield


def _check_plan(plan: Plan, file: Path) -> None:
    formats = {"record_format": record.FORMAT_VERSION, "store_format": stores.STORE_FORMAT}
    wanted = json.loads(json.dumps({**plan.archive, **formats, "modification_times": plan.stamp}))
    if not file.exists():
        stores.write_atomically(file, json.dumps(wanted, indent=1).encode())
    found = json.loads(file.read_bytes())
    other = [name for name in wanted if found.get(name) != wanted[name]]
    if other:
        cure = "run that command again, give another --output, or remove the folder"
        raise ValueError(f"{plan.output}: was begun with another {_others(other)}; {cure}")


def _others(names: Sequence[str]) -> str:
    words = {"listing_sha256": "list of files", "modification_times": "version of the files", "name": "archive", "options": "set of options"}
    return ", ".join(words.get(name, name) for name in names)


def convert(plan: Plan, workers: int) -> None:
    """Writes what is missing of the store. The output is claimed. Raises ArchiveError, OSError."""
    tasks = _tasks(plan)
    with progress.show("convert", len(plan.items)) as advance:
        for items, size in parallel.run(convert_shard, tasks, workers):
            advance(items, size)
    _finish(plan, tasks)


def _finish(plan: Plan, tasks: Sequence[Task]) -> None:
    notes = [json.loads(task.note.read_bytes()) for task in tasks]
    contents = Contents()
    for note in notes:
        contents.add(Contents.from_json(note["contents"]))
    full = [note for note in notes if note["rows"]]
    rows = [row for note in full for row in note["rows"]]
    files = sorted(line for note in notes for line in note["files"])
    about = {
        "archive": {**plan.archive, "files": len(files), "files_sha256": hashlib.sha256("".join(files).encode()).hexdigest()},
        "sensors": {sensor: get_sensor(sensor).row() for sensor in sorted({row["sensor"] for row in rows})},
        "splits": dict(sorted(Counter(row["split"] for row in rows).items())),
        "groups": len({row["group"] for row in rows}),
        **_write_rejects(plan.output, [line for note in notes for line in note["rejects"]]),
        **contents.about(),
    }
    stores.finish_store(plan.output, [note["shard"] for note in full], [note["rows"] for note in full], about)
    shutil.rmtree(plan.output / PARTIAL)


def _write_rejects(output: Path, lines: Sequence[str]) -> dict[str, Any]:
    if not lines:
        return {}
    text = "".join(sorted(lines)).encode()
    stores.write_atomically(output / REJECTS, text)
    return {"rejects": {"file": REJECTS, "samples": len(lines), "sha256": hashlib.sha256(text).hexdigest()}}


# ------------------------------------------------------------------ one shard


def convert_shard(task: Task) -> tuple[int, int]:
    """Writes one shard and its note, unless both are there. Returns (items, bytes of raw pixels)."""
    note = _kept_note(task)
    if note is None:
        note = _write_shard(task)
        stores.write_atomically(task.note, json.dumps(note).encode())
    return len(task.items), note["raw_bytes"]


def _kept_note(task: Task) -> dict | None:
    """The note of a shard that is finished and whole, else None."""
    if not task.note.exists():
        return None
    note = json.loads(task.note.read_bytes())
    shard = note["shard"]
    whole = not note["rows"] or (task.shard.is_file() and stores.sha256_file(task.shard) == shard["sha256"])
    return note if whole else None


def _write_shard(task: Task) -> dict[str, Any]:
    contents, note = Contents(), {"rows": [], "files": [], "rejects": [], "raw_bytes": 0}
    shard = stores.write_shard(task.shard, _records(task, contents, note))
    if not note["rows"]:  # all rejected
        task.shard.unlink()
    return {**note, "contents": contents.to_json(), "shard": {"file": task.shard.relative_to(task.output).as_posix(), **shard}}


def _records(task: Task, contents: Contents, note: dict[str, Any]) -> Iterator[bytes]:
    """The records of the shard, one at a time; `contents` and `note` are filled on the way."""
    for item in task.items:
        hashes: dict[str, str] = {}
        try:
            sample = read_item(task.reader, item, hashes)
        except ArchiveError as error:
            if not task.skip_bad:
                raise
            note["rejects"].append(f"{item.id}\t{' '.join(str(error).split())}\n")
        else:
            contents.add_sample(sample, item.split)
            missing = (sample.pixels == get_sensor(sample.sensor).nodata).mean()
            note["rows"].append(stores.index_row(sample, item.split, float(missing)))
            note["raw_bytes"] += sample.pixels.nbytes
            yield record.encode(sample)
        note["files"] += [f"{file.name}\t{hashes.get(file.name, 'unreadable')}\n" for file in item.files]


def read_item(reader: Reader, item: Item, hashes: dict[str, str]) -> Sample:
    """The sample of an item; the SHA-256 of each of its files goes into `hashes`, also where it turns out to be bad."""
    contents = {}
    for file in item.files:
        try:
            contents[file.role] = (reader.root / file.name).read_bytes()
        except OSError as error:
            raise ArchiveError(file.name, f"cannot be read ({error.strerror})") from error
        hashes[file.name] = hashlib.sha256(contents[file.role]).hexdigest()
    return reader.read(item, contents)


# ------------------------------------------------------------------ what the user sees


def _print_dry_run(plan: Plan) -> None:
    tasks, first = _tasks(plan), _first_good(plan)
    raw = first.pixels.nbytes * len(plan.items)
    size = len(record.encode(first)) * len(plan.items)
    print(f"{plan.reader.TITLE}: {len(plan.items)} samples of {len({item.group for item in plan.items})} places in {plan.reader.root}")
    print(f"  splits  {_counts(Counter(item.split for item in plan.items))}")
    print(f"  size    about {size / 1e6:,.0f} MB in {len(tasks)} shards ({raw / 1e6:,.0f} MB raw), judged by the first sample")
    print("nothing was written; leave out --dry-run to convert")


def _print_summary(path: Path) -> None:
    store = stores.open_store(path)
    size = sum(shard["bytes"] for shard in store.manifest["shards"])
    raw = raw_bytes(store)
    print(f"{path}: {len(store)} samples of {store.manifest['groups']} places")
    print(f"  splits  {_counts(store.manifest['splits'])}")
    print(f"  size    {size / 1e6:,.1f} MB in {len(store.manifest['shards'])} shards, {raw / size:.2f} times smaller than raw pixels")
    if "rejects" in store.manifest:
        print(f"  bad     {store.manifest['rejects']['samples']} left out, listed in {path / REJECTS}")
    print(f"next: python -m data_prep inspect {path}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {counts[name]}" for name in sorted(counts))
