"""Converts an archive into a store, shard by shard; can be interrupted and resumed at any time.

    python -m data_prep convert spectral-earth --input /data/spectral_earth \\
        --output /data/stores/spectral_earth --labels landuse
    python -m data_prep convert ssl4eo-s12 --input /data/ssl4eo_s12 --output /data/stores/s12 \\
        --format zarr --split blocks:50 --val-fraction 0.1
    python -m data_prep convert enmap-tiles --input /data/tiles --output /data/stores/tiles \\
        --val-fraction 0.2 --dry-run
    python -m data_prep convert ssl4eo-l --input /data/ssl4eo_l --output /shared/stores/l \\
        --executor dask --scheduler tcp://10.0.0.1:8786

The input is the extracted archive, or its tar, tar.gz and zip files as downloaded, which are read
without extracting them. Samples are sorted by id and divided into shards of a fixed number of
samples: --shard-mb of raw pixels, estimated from some samples. Each shard is one task, which ends
by writing a note:

    STORE/.partial/plan.json         archive and options; a resumed run must have the same
    STORE/.partial/00000.json ...    rows, sums, file hashes and rejects of each finished shard

A rerun of the same command keeps every shard whose note exists and whose SHA-256 matches. When all
shards are done, their notes become index and manifest, and .partial is removed. The bytes of a
store depend on the archive and the options, not on workers, machines, interruptions or the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import functools
import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep import readers
from data_prep.archive import Archive, ArchiveError, Folder, LinkedFolder, open_archive
from data_prep.conversion import output_lock, overlaps, quantise, spatial_blocks, splits
from data_prep.conversion.finalise import finalise_store
from data_prep.conversion.quantise import Quantiser
from data_prep.conversion.shard_task import (
    PARTIAL,
    Task,
    convert_shard,
    read_item,
    with_way_out,
)
from data_prep.formats import geotiff, left_out
from data_prep.formats.left_out import LeftOut
from data_prep.formats.listing import TIFF
from data_prep.jobs import executors, progress
from data_prep.reader import Files, Item, Placed, Reader, SkipSample, options, with_sidecars
from data_prep.statistics.moments import raw_bytes, stored_bytes
from eo_jax.data.store import record
from eo_jax.data.store.reader import FORMATS, open_store
from eo_jax.data.store.writer import check_shard_count
from eo_jax.schema import Sample

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_EXAMPLES = 8
# Memory of a worker besides pixels: Python with GDAL, numpy and tensorstore, GDAL's block cache,
# decoded blocks of JPEG 2000.
_WORKER_BASE_BYTES = 420e6


@dataclasses.dataclass(frozen=True)
class Plan:
    """A conversion.

    `about` goes into the manifest; `stamp`, a hash of modification times, is for resuming only;
    `left_out` are the images that have no items.
    """

    reader: Reader
    items: tuple[Item, ...]
    left_out: LeftOut
    output: Path
    about: dict[str, Any]
    stamp: str
    format: str
    skip_bad: bool
    quantiser: Quantiser | None
    shard_bytes: float


# ------------------------------------------------------------------ command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds one sub-parser per reader, with the common options and those of the reader."""
    parser.description = __doc__
    parser.epilog = (
        "`python -m data_prep convert ARCHIVE --help` shows the options.\n"
        "example: python -m data_prep convert enmap-tiles --help"
    )
    archives = parser.add_subparsers(
        dest="archive", required=True, metavar="ARCHIVE", help=", ".join(readers.names())
    )
    for name in readers.names():
        kind = readers.reader_class(name)
        own = archives.add_parser(
            name,
            description=sys.modules[kind.__module__].__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_common(own)
        group = own.add_argument_group(f"options of {name}")
        for field in options(kind):
            _add_option(group, field)


def _add_common(parser: argparse.ArgumentParser) -> None:
    _add_store(parser.add_argument)
    _add_splits(parser.add_argument)
    _add_execution(parser.add_argument)
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be written, and write nothing"
    )


def _add_store(add: Callable[..., Any]) -> None:
    add(
        "--input",
        type=Path,
        required=True,
        metavar="PATH",
        help="folder of the archive, or one of its tar or zip files; never written to",
    )
    add(
        "--follow-links",
        action="store_true",
        help="read what links in a folder of yours point to outside it, too; links in tar and zip "
        "files are never followed",
    )
    add(
        "--output",
        type=output_lock.local_folder,
        required=True,
        metavar="STORE",
        help="folder of the store: a new one, or one to resume",
    )
    add(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        help="array-record: compressed samples; zarr: partial reads; zarr-raw: fastest",
    )
    add(
        "--dtype",
        choices=("archive", "uint8"),
        default="archive",
        help="archive: lossless (default); uint8: quantised by a published formula, clipped",
    )


def _add_splits(add: Callable[..., Any]) -> None:
    add(
        "--split",
        default="archive",
        metavar="RULE",
        help="archive: its own lists (default); blocks:KM: square blocks on the ground, drawn by "
        "--val-fraction",
    )
    add(
        "--val",
        action="append",
        default=[],
        metavar="PATTERN",
        help="ids for validation, such as 'north/*'; repeatable",
    )
    add(
        "--val-fraction",
        "--val-share",  # its name in 0.1
        type=_fraction,
        metavar="F",
        help="fraction of the locations (or blocks) for validation, drawn by a hash of the name",
    )
    add(
        "--test-fraction",
        "--test-share",
        type=_fraction,
        metavar="F",
        help="the same for the test split",
    )
    add(
        "--allow-overlap",
        action="store_true",
        help="draw locations one by one even where their footprints overlap, which leaks",
    )


def _add_execution(add: Callable[..., Any]) -> None:
    add(
        "--workers",
        type=_positive(int),
        default=executors.cores(),
        metavar="N",
        help="processes (default: one per core)",
    )
    add(
        "--memory",
        type=_positive(float),
        metavar="GB",
        help="limit for all workers together; reduces their number where necessary",
    )
    add(
        "--executor",
        choices=("processes", "dask"),
        default="processes",
        help="dask: the workers of a running Dask cluster",
    )
    add(
        "--scheduler",
        metavar="ADDRESS",
        help="of the Dask cluster, such as tcp://10.0.0.1:8786; all its machines must see input "
        "and output",
    )
    add(
        "--shard-mb",
        type=_positive(float),
        default=64.0,
        metavar="MB",
        help="raw pixels per shard (default: 64)",
    )
    add(
        "--skip-bad",
        action="store_true",
        help="skip bad files and list them in the store's rejects.txt",
    )


def _add_option(group: Any, field: dataclasses.Field) -> None:
    about = field.metadata
    name = f"--{field.name.replace('_', '-')}"
    if isinstance(field.default, bool):
        group.add_argument(name, action="store_true", help=about["help"])
        return
    many = isinstance(field.default, tuple)
    kind = str if many else type(field.default)
    default = "" if many or field.default == "" else f" (default: {field.default})"
    extra = {"nargs": "+"} if many else {}
    if about["choices"]:
        extra["choices"] = about["choices"]
    elif about["metavar"]:
        extra["metavar"] = about["metavar"]
    help_text = about["help"] + default
    group.add_argument(name, type=kind, default=field.default, help=help_text, **extra)


def _fraction(text: str) -> float:
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
    _check_executor(args)
    with _full_paths(args.input), _disk_errors(args.output):
        output_lock.check_output(args.output)
        if args.dry_run:
            with tempfile.TemporaryDirectory() as indices:
                _print_dry_run(make_plan(args, _archive(args, Path(indices))))
        elif (args.output / "manifest.json").exists():
            _check_finished(args)
        else:
            _make_store(args)
    return 0


def _archive(args: argparse.Namespace, index_dir: Path) -> Archive:
    return open_archive(args.input, index_dir, LinkedFolder if args.follow_links else Folder)


def _check_finished(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as indices:  # spares workers another pass over a tar.gz
        plan = make_plan(args, _archive(args, Path(indices)))
        output_lock.is_finished(args.output, plan.about)
    print(f"{args.output}: up to date")


def _make_store(args: argparse.Namespace) -> None:
    with output_lock.hold(args.output):
        plan = make_plan(args, _archive(args, args.output / PARTIAL))
        examples = _examples(plan)
        run_tasks = _executor(args, examples)
        output_lock.check_resumable(args.output, {**plan.about, "modification_times": plan.stamp})
        convert(plan, examples, run_tasks)
    _print_summary(args.output)


def _check_executor(args: argparse.Namespace) -> None:
    if (args.executor == "dask") != (args.scheduler is not None):
        raise ValueError(
            "--executor dask and --scheduler ADDRESS go together; `dask scheduler` prints the "
            "address"
        )


@contextlib.contextmanager
def _full_paths(root: Path) -> Iterator[None]:
    """Turns names relative to the archive, as rejects.txt needs them, into full paths for users."""
    try:
        yield
    except ArchiveError as error:
        folder = root if root.is_dir() else root.parent  # a name inside a tar begins with the tar
        raise ArchiveError(str(folder / error.name), error.reason) from error


@contextlib.contextmanager
def _disk_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            hint = "Free space on that disk and run the same command again."
            raise OSError(f"{output}: cannot be written ({error.strerror}). {hint}") from error
        raise


# ------------------------------------------------------------------ plan


def make_plan(args: argparse.Namespace, archive: Archive) -> Plan:
    """Lists the archive and assigns the splits.

    Reads images only for splits by location. Raises ValueError.
    """
    kind = readers.reader_class(args.archive)
    given = {field.name: _immutable(getattr(args, field.name)) for field in options(kind)}
    reader = kind(archive, **given)
    # File names only: paths would make stores of different machines differ.
    chosen = {
        name: Path(value).name if str(value).endswith(".json") else value
        for name, value in given.items()
    }
    quantiser = quantise.make(args.dtype, reader.sensors)
    found, without = _items(args, reader)
    items = _with_splits(args, reader, found)
    listing, stamp = _listing(archive, items)
    about = {
        "name": kind.TITLE,
        "reader": args.archive,
        "reader_version": kind.VERSION,
        "licence": kind.LICENCE,
        "options": {
            **chosen,
            "format": args.format,
            "dtype": args.dtype,
            "split": args.split,
            "val": args.val,
            # Manifest keys: other names would change the bytes of stores.
            "val_share": args.val_fraction,
            "test_share": args.test_fraction,
            "allow_overlap": args.allow_overlap,
            "shard_mb": args.shard_mb,
            "skip_bad": args.skip_bad,
        },
        "quantised": quantiser.about() if quantiser else {},
        "sensors_sha256": hashlib.sha256(
            json.dumps([sensor.row() for sensor in reader.sensors]).encode()
        ).hexdigest(),
        "listing_sha256": listing,
    }
    return Plan(
        reader,
        tuple(items),
        without,
        args.output,
        about,
        stamp,
        args.format,
        args.skip_bad,
        quantiser,
        args.shard_mb * 1e6,
    )


def _immutable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _items(args: argparse.Namespace, reader: Reader) -> tuple[list[Item], LeftOut]:
    """The items, and what the listing left out. Raises ArchiveError where nothing is left, and for
    a bad image unless bad ones are skipped.
    """
    with left_out.collect() as without:
        items = with_sidecars(reader.archive, reader.items())
    if without.bad and not args.skip_bad:
        error = without.bad[0][1]
        raise with_way_out(error, items) from error
    if items:
        return items, without
    if without.errors:
        raise _none_left([error for _, error in without.errors])
    raise ArchiveError(
        ".",
        f"contains nothing that {args.archive} reads; `python -m data_prep convert "
        f"{args.archive} --help` describes the layout",
    )


def _none_left(errors: Sequence[ArchiveError]) -> ArchiveError:
    first = errors[0]
    if len(errors) == 1:
        return first
    return ArchiveError(
        first.name,
        f"{first.reason}. It is the first of {len(errors)} images, all of which are bad or "
        "excluded by the options.",
    )


def _with_splits(args: argparse.Namespace, reader: Reader, items: list[Item]) -> list[Item]:
    ground = functools.partial(_ground, args, reader, items)
    if args.split == "archive":
        return splits.assign(items, args.val, args.val_fraction, args.test_fraction, ground)
    if args.val:
        raise ValueError(
            "--val names locations and --split blocks:KM draws them; give one of the two"
        )
    if args.val_fraction is None and args.test_fraction is None:
        raise ValueError(
            "--split blocks:KM sets how locations are drawn, but not how many; give --val-fraction "
            "or --test-fraction, such as 0.2"
        )
    fractions = {
        split: fraction
        for split, fraction in (("val", args.val_fraction), ("test", args.test_fraction))
        if fraction is not None
    }
    splits.check_fractions(fractions)
    cache = args.output / PARTIAL / "places.json"
    return spatial_blocks.assign(
        reader,
        items,
        spatial_blocks.side_km(args.split),
        fractions,
        args.workers,
        cache if cache.parent.is_dir() else None,
        ground,
    )


def _ground(args: argparse.Namespace, reader: Reader, items: Sequence[Item]) -> dict[str, str]:
    """{location: name of its ground} where locations are drawn at random."""
    is_drawn = args.val_fraction is not None or args.test_fraction is not None
    if not is_drawn or args.allow_overlap:
        return {}
    found: dict[str, list[list[float]]] = {}
    for item in items:
        try:
            corners = _footprint(reader, item)
        except ArchiveError as error:
            if not args.skip_bad:
                raise with_way_out(error, items) from error
            corners = None  # a bad file, which is counted when its shard is written
        found.setdefault(item.group, []).extend([corners] if corners else [])
    ground = overlaps.join_overlapping(found)
    places = len(set(ground.values()))
    if places < len(ground):
        print(
            f"note: {len(ground)} locations show {places} places, because footprints overlap; "
            "each place goes to one split (--allow-overlap: every location by itself)",
            file=sys.stderr,
        )
    return ground


def _footprint(reader: Reader, item: Item) -> list[float] | None:
    """The corners of an item: a reader of parts of files knows them, other GeoTIFFs are whole."""
    if isinstance(reader, Placed):
        return reader.footprint(item)
    name = item.files[0].name
    is_whole = not item.part and name.lower().endswith(TIFF)
    return geotiff.listed_footprint(reader.archive, name) if is_whole else None


def _listing(archive: Archive, items: Sequence[Item]) -> tuple[str, str]:
    """SHA-256 of ids, splits, file names and sizes, and SHA-256 of modification times, which a
    finished store does not record.
    """
    listing, stamp, entries = hashlib.sha256(), hashlib.sha256(), archive.entries()
    for item in items:
        for file in item.all_files:
            if file.name not in entries:
                raise ArchiveError(file.name, f"no such file, but {item.id} needs it; add it")
            found = entries[file.name]
            listing.update(
                f"{item.id}\t{item.split}\t{file.role}\t{file.name}\t{found.size}\n".encode()
            )
            stamp.update(f"{found.stamp}\n".encode())
    return listing.hexdigest(), stamp.hexdigest()


def _tasks(plan: Plan, examples: Sequence[Sample]) -> list[Task]:
    size = max(1, int(plan.shard_bytes // _largest(examples)))
    chunks = [plan.items[start : start + size] for start in range(0, len(plan.items), size)]
    output = plan.output.resolve()
    kinds = {(one.sensor, one.pixels.dtype, one.pixels.shape) for one in examples}
    check_shard_count(output, plan.format, len(chunks), len(kinds))
    return [
        Task(plan.reader, chunk, output, n, plan.format, size, plan.skip_bad, plan.quantiser)
        for n, chunk in enumerate(chunks)
    ]


def _examples(plan: Plan) -> list[Sample]:
    """The first valid sample and about _EXAMPLES more, evenly spaced, because the sensors of an
    archive differ in size.

    Raises ArchiveError for a bad sample before the first valid one, unless bad ones are skipped,
    and where there is no valid sample.
    """
    reasons: list[ArchiveError] = []
    for number, item in enumerate(plan.items):
        try:
            first = _read(plan, item)
        except ArchiveError as error:
            reasons.append(error)
            if not (plan.skip_bad or isinstance(error.__cause__, SkipSample)):
                raise with_way_out(error, plan.items) from error
        else:
            return [first, *_others(plan, plan.items[number + 1 :])]
    raise _none_left(reasons)


def _others(plan: Plan, items: Sequence[Item]) -> Iterator[Sample]:
    for item in items[:: max(1, len(items) // _EXAMPLES)]:
        with contextlib.suppress(ArchiveError):  # reported when its shard is written
            yield _read(plan, item)


def _read(plan: Plan, item: Item) -> Sample:
    try:
        return read_item(plan.reader, item, Files(plan.reader.archive, item), plan.quantiser)
    except SkipSample as reason:
        raise ArchiveError(item.files[0].name, str(reason)) from reason


# ------------------------------------------------------------------ the store


def convert(plan: Plan, examples: Sequence[Sample], run_tasks: Callable[..., Iterable]) -> None:
    """Writes the missing shards and finalises the store; the caller holds the output lock.

    Raises ArchiveError, OSError.
    """
    tasks = _tasks(plan, examples)
    with progress.show("convert", len(plan.items)) as advance:
        for items, size in run_tasks(convert_shard, tasks):
            advance(items, size)
    sensors = plan.reader.sensors if plan.quantiser is None else plan.quantiser.sensors
    notes = [task.note for task in tasks]
    finalise_store(plan.output, notes, plan.about, sensors, plan.left_out)


def _executor(args: argparse.Namespace, examples: Sequence[Sample]) -> Callable[..., Iterable]:
    if args.executor == "dask":
        return functools.partial(executors.run_dask, scheduler=args.scheduler)
    if args.memory is None:
        return functools.partial(executors.run, workers=args.workers)
    total, need = args.memory * 1e9, worker_bytes(examples)
    workers = min(args.workers, int(total // need))
    if not workers:
        raise ValueError(
            f"--memory {args.memory:g}: one worker needs {need / 1e9:.2f} GB; give more"
        )
    return functools.partial(executors.run, workers=workers, bytes_per_worker=int(total / workers))


def worker_bytes(examples: Sequence[Sample]) -> float:
    """Memory of one worker: the process and a few copies of the sample it is working on."""
    return _WORKER_BASE_BYTES + 8 * _largest(examples)


def _largest(examples: Sequence[Sample]) -> int:
    return max(sample.pixels.nbytes for sample in examples)


# ------------------------------------------------------------------ output


def _print_dry_run(plan: Plan) -> None:
    examples = _examples(plan)
    tasks = _tasks(plan, examples)
    raw, size = (
        sum(map(measure, examples)) / len(examples) * len(plan.items)
        for measure in (_raw_size, _stored_size)
    )
    print(
        f"{plan.reader.TITLE}: {len(plan.items)} samples of "
        f"{len({item.group for item in plan.items})} locations in {plan.reader.archive.root}"
    )
    print(f"  splits  {_counts(Counter(item.split for item in plan.items))}")
    for reason, count in sorted(plan.left_out.reasons.items()):
        print(f"  skipped {count}: {reason}")
    for text, count in plan.left_out.edges.items():
        print(f"  found   {count}: {text}")
    if plan.left_out.bad:
        print(f"  bad     {len(plan.left_out.bad)} skipped; the first: {plan.left_out.bad[0][1]}")
    print(
        f"  size    about {size / 1e6:,.0f} MB in {len(tasks)} shards ({raw / 1e6:,.0f} MB raw), "
        f"estimated from {len(examples)} samples"
    )
    print("nothing was written; leave out --dry-run to convert")


def _raw_size(sample: Sample) -> int:
    return sample.pixels.nbytes


def _stored_size(sample: Sample) -> int:
    return len(record.encode(sample))


def _print_summary(path: Path) -> None:
    store = open_store(path)
    size = stored_bytes(store)
    raw = raw_bytes(store)
    print(f"{path}: {len(store)} samples of {store.manifest['groups']} locations")
    print(f"  splits  {_counts(store.manifest['splits'])}")
    print(
        f"  size    {size / 1e6:,.1f} MB in {len(store.manifest['shards'])} shards; raw pixels "
        f"{raw / 1e6:,.1f} MB, ratio {raw / size:.2f}"
    )
    for reason, count in store.manifest["left_out"].items():
        print(f"  skipped {count}: {reason}")
    for split, count in store.manifest["shared_ground"].items():
        total = store.manifest["splits"][split]
        print(f"  WARNING {count} of {total} samples of {split} show ground of another split")
    for text, count in store.manifest["found"].items():
        print(f"  found   {count}: {text}")
    if "rejects" in store.manifest:
        print(
            f"  bad     {store.manifest['rejects']['samples']} skipped, listed in "
            f"{path / store.manifest['rejects']['file']}"
        )
    print(f"next: python -m data_prep inspect {path}")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {counts[name]}" for name in sorted(counts))
