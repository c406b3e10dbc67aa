"""What grows, in which sizes, what is measured at each, and why a figure may be superlinear."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.growth import records, steps, stores


def _nothing(path: Path, size: int) -> None:
    """Nothing to prepare."""


def _as_it_is(size: int) -> int:
    return size


@dataclasses.dataclass(frozen=True)
class Axis:
    """A kind of work.

    Attributes:
        unit: of the work.
        sizes: ascending in work.
        measure: (path, size) -> {figure: cost}, in a process of its own.
        prepare: (path, size): makes what `measure` needs there; not measured.
        work: of a size.
        causes: {end of a figure's name: why its growth is superlinear, or may be}.
    """

    unit: str
    sizes: tuple[int, ...]
    measure: Callable[[Path, int], dict[str, float]]
    prepare: Callable[[Path, int], None] = _nothing
    work: Callable[[int], int] = _as_it_is
    causes: Mapping[str, str] = dataclasses.field(default_factory=dict)


_CROPS = (
    "augment.geometry.resample: a crop is two products with dense matrices, side^3 per band, "
    "pixels^1.5"
)
_ATTENTION = "models.layers.attention: every token attends to every other, tokens^2"
_MEMORY_BOUND = (
    "steps per record are constant; columns that no longer fit the processor's caches are read "
    "from memory, some of them in random order (data.index.group_samples sorts locations)"
)
_LARGER = (
    "FLOP and bytes are in proportion; above 32 MB, temporary memory is fresh pages in every step, "
    "and larger arrays fit fewer caches of the processor"
)


def _step(path: Path, size: int, varying: str, **settings: Any) -> dict[str, float]:
    return steps.step_figures({**settings, varying: size}, path)


def _store(path: Path, size: int, format: str) -> None:
    stores.write_store(path / "store", format, size)


def _fixed_store(path: Path, _: int) -> None:
    stores.write_store(path / "store", "zarr", 100_000)


def _in_store(path: Path, size: int, measure: Callable[..., dict[str, float]]) -> dict[str, float]:
    return measure(path / "store", size)


def _opened(path: Path, _: int) -> dict[str, float]:
    return records.opened(path)


def _in_memory(_: Path, size: int, measure: Callable[[int], dict[str, float]]) -> dict[str, float]:
    return measure(size)


def _records(format: str) -> Axis:
    return Axis(
        "records",
        (1_000, 10_000, 100_000, 1_000_000, 10_000_000),
        partial(_in_store, measure=_opened),
        partial(_store, format=format),
        causes={"_s": _MEMORY_BOUND},
    )


AXES = {
    "step: bands": Axis(
        "bands",
        (12, 60, 202, 400),
        partial(_step, varying="bands", side=32),
        causes={"cpu_s": _LARGER},
    ),
    # The adapter takes 75 bands or more.
    "step: bands, spectral adapter": Axis(
        "bands",
        (100, 202, 400),
        partial(_step, varying="bands", stem="spectral_adapter", side=32),
        causes={"cpu_s": _LARGER},
    ),
    "step: tokens, by patch size 16, 8, 4 of 128 pixels": Axis(
        "tokens",
        (16, 8, 4),
        partial(_step, varying="patch", side=128),
        work=lambda patch: (128 // patch) ** 2,
        causes={"": _ATTENTION},
    ),
    "step: pixels, by image size 32, 64, 128, 224": Axis(
        "pixels",
        (32, 64, 128, 224),
        partial(_step, varying="side", patch=16),
        work=lambda side: side**2,
        causes={"flop": _CROPS, "cpu_s": _CROPS},
    ),
    "host: records, array-record": _records("array-record"),
    "host: records, zarr": _records("zarr"),
    "host: components of a mixture": Axis(
        "components",
        (1, 4, 16),
        partial(_in_store, measure=records.mixed),
        _fixed_store,
        causes={"counts_s": "a single component is not counted, so the first size costs nothing"},
    ),
    "host: sources read together": Axis(
        "sources", (1, 4, 16), partial(_in_store, measure=records.paired), _fixed_store
    ),
    "host: bad records": Axis(
        "bad records", (100, 1_000, 10_000), partial(_in_memory, measure=records.skipped)
    ),
    "conversion: files": Axis(
        "files",
        (1_000, 10_000, 100_000),
        partial(_in_memory, measure=records.converted),
        causes={
            "index_s": "data.store.index_file.index_bytes has a dict per record: Python's garbage "
            "collector visits all of them again and again (a third of the time of 100,000), and "
            "they fit no cache of the processor"
        },
    ),
    "conversion: acquisitions of two locations": Axis(
        "acquisitions", (100, 1_000, 10_000), partial(_in_memory, measure=records.revisited)
    ),
}
