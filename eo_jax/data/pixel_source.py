"""Sampling single labelled pixels of scenes: candidates, order, and the window around each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import numpy as np

from eo_jax.data.index import Order
from eo_jax.data.source import Draw, Source, SourceConfig, Window, Windows


@dataclasses.dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels that may be drawn, in the order of samples, rows and columns.

    Attributes:
        where: int32 [m, 4], location, sample, row and column of each.
        classes: [m], its label; 0 where no label is used.
    """

    where: np.ndarray
    classes: np.ndarray

    def select(self, chosen: np.ndarray) -> Pixels:
        """The pixels with these numbers."""
        return Pixels(self.where[chosen], self.classes[chosen])


class ClassesInTurn:
    """Position p -> pixel: the classes in turn, so that batches are balanced.

    Every epoch of a class is another permutation of its pixels. Pixels are numbered class by class,
    `per_class` of each.
    """

    def __init__(self, classes: int, per_class: int, seed: int):
        self._classes, self._per_class, self._seed = classes, per_class, seed
        # Not Grain's shuffle, which takes milliseconds per class even for a few pixels.
        self._epoch = functools.lru_cache(64)(self._permute)

    def __getitem__(self, position: int) -> int:
        turn, number = divmod(position, self._classes)
        epoch, within = divmod(turn, self._per_class)
        return number * self._per_class + int(self._epoch(epoch)[number, within])

    def _permute(self, epoch: int) -> np.ndarray:
        """int64 [k, pixels per class], the order of each class."""
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(1, epoch)))
        return rng.permuted(np.tile(np.arange(self._per_class), (self._classes, 1)), axis=1)


def sample_per_class(classes: np.ndarray, count: int, seed: int, where: str) -> np.ndarray:
    """int64 [k, count], `count` numbers of entries of each of the k classes in `classes` [m].

    They are drawn by the seed and sorted. Raises ValueError, beginning with `where`, for a class
    that has fewer.
    """
    # The spawn key separates this stream from those of rows and mixtures.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0, 0)))
    codes, counts = np.unique(classes, return_counts=True)
    if counts.min() < count:
        scarce = codes[counts.argmin()]
        raise ValueError(
            f"{where}: {count}, but class {scarce} has {counts.min()} labels in this split; "
            "expected at most that, or 0 for all"
        )
    return np.stack(
        [
            np.sort(rng.choice(np.flatnonzero(classes == code), count, replace=False))
            for code in codes
        ]
    )


class PixelSource(Source):
    """A store opened for drawing pixels, each with the window around it.

    A window that crosses the border of its scene is filled by reflection, numpy's "reflect". Labels
    are cropped with the window; they are 0 except at pixels that may be drawn.
    """

    unit = "pixels"

    @functools.cached_property
    def drawn_pixels(self) -> Pixels:
        """All candidates, or with `labels_per_class` that number of each class, class by class."""
        pixels, count = self.candidates(self.config.label), self.config.labels_per_class
        if not count:
            return pixels
        where = f"config.data.sources.{self.name}.labels_per_class"
        return pixels.select(sample_per_class(pixels.classes, count, self.seed, where).ravel())

    @property
    def locations(self) -> int:
        """The number of pixels that are drawn."""
        return len(self.drawn_pixels.where)

    def order(self) -> Order | ClassesInTurn:
        """The pixel at each position."""
        per_class = self.config.labels_per_class
        if per_class:
            return ClassesInTurn(self.locations // per_class, per_class, self.seed)
        return super().order()

    def candidates(self, label: str) -> Pixels:
        """Pixels of this split that have a label of that name; for "", those with data in any band.

        Raises ValueError where there is none.
        """
        locations = np.repeat(np.arange(len(self.groups)), np.diff(self.groups.starts))
        samples = sorted(zip(self.groups.members.tolist(), locations.tolist(), strict=True))
        found = [self._candidates(location, i, label) for i, location in samples]
        where, classes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        if not len(where):
            missing = f"has label {label!r}" if label else "has data"
            raise ValueError(
                f"{self.store.path}: no pixel of split {self.config.split!r} {missing}; draw "
                "another split, or convert with other maps"
            )
        return Pixels(where, classes)

    def _candidates(self, location: int, i: int, label: str) -> tuple[np.ndarray, np.ndarray]:
        if label:
            classes = self._map(i, label)
            rows, columns = np.nonzero(classes)
        else:
            rows, columns = np.nonzero(~self.sensor.missing(self.arrays(i)[0]).all(0))
        where = np.stack(
            [np.full(len(rows), location), np.full(len(rows), i), rows, columns], axis=1
        ).astype(np.int32)
        return where, classes[rows, columns] if label else np.zeros(len(rows), np.uint8)

    def _map(self, i: int, label: str) -> np.ndarray:
        """Classes [h, w] of sample i in this split, 0 elsewhere."""
        found = self.label(i, self.store.labels(i), label)
        if found.ndim != 2:
            raise ValueError(
                f"{self.store.path}: label {label!r} of {self.store.index['id'][i]} belongs to the "
                f"whole patch; source {self.name!r} draws pixels, so it needs a map, or "
                "draw='patch'"
            )
        return found

    def draw(self, location: int, rng: np.random.Generator) -> Draw:
        """The window around a pixel; `location` is its number, and `rng` is not used."""
        group, i, row, column = self.drawn_pixels.where[location].tolist()
        return Draw(np.array([i]), row - self.crop // 2, column - self.crop // 2, group)

    def decode_into(self, batch: dict[str, np.ndarray], row: int, t: int, draw: Draw) -> None:
        i = int(draw.samples[t])
        pixels, _ = self.arrays(i)
        rows, columns = self._window(pixels, draw.top, draw.left)
        batch["pixels"][row, t] = pixels[:, rows, columns]
        self.put_metadata(batch, row, t, i)
        if self.config.label:
            batch["label"][row, t] = self._drawn_labels[i][rows, columns]

    def windows(self, label: str) -> Windows:
        """The window around every candidate, with the class of its centre.

        `labels_per_class` does not apply.
        """
        candidates = self.candidates(label or self.config.label)

        def read(numbers: Iterable[int]) -> Iterator[Window]:
            for number in numbers:
                (_, i, row, column), code = candidates.where[number], candidates.classes[number]
                pixels, _ = self.arrays(int(i))
                rows, columns = self._window(pixels, row - self.crop // 2, column - self.crop // 2)
                yield int(i), pixels[:, rows, columns], code if label else None

        return Windows(len(candidates.where), read)

    def label_windows(self, label: str) -> Iterator[np.ndarray]:
        """The class of every candidate."""
        return iter(self.candidates(label).classes)

    def _window(self, pixels: np.ndarray, top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows [w, 1] and columns [1, w] of a window."""
        height, width = pixels.shape[1:]
        return np.ix_(_reflect(top, self.crop, height), _reflect(left, self.crop, width))

    @functools.cached_property
    def _drawn_labels(self) -> dict[int, np.ndarray]:
        """{sample: its labels [h, w] at drawn pixels, 0 elsewhere}."""
        sides = {i: self.store.index["shape"][i, 1:] for i in self.groups.members.tolist()}
        drawn = self.drawn_pixels
        maps = {i: np.zeros(side, drawn.classes.dtype) for i, side in sides.items()}
        for (_, i, row, column), code in zip(drawn.where.tolist(), drawn.classes, strict=True):
            maps[i][row, column] = code
        return maps


def _reflect(first: int, count: int, side: int) -> np.ndarray:
    """`count` rows or columns from `first` of a scene with `side` of them, mirrored at both ends.

    `count` is at most `side`.
    """
    at = np.abs(np.arange(first, first + count))
    return np.where(at < side, at, 2 * (side - 1) - at)


def open_source(name: str, config: SourceConfig, crop: int, seed: int) -> Source:
    """A source that draws patches or pixels, as its config says. Raises ValueError, StoreError."""
    return (PixelSource if config.draw == "pixel" else Source)(name, config, crop, seed)
