"""Single pixels of scenes as what a row shows: which there are, in what order they come, and the
window around each.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from eo_jax.data.index import Order
from eo_jax.data.source import Draw, Source, SourceConfig


@dataclasses.dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels that may be drawn, in the order of samples, rows and columns.

    Attributes:
        where: int32 [m, 4], location, sample, row and column of each.
        classes: [m], its label; 0 where none is asked for.
    """

    where: np.ndarray
    classes: np.ndarray

    def only(self, chosen: np.ndarray) -> Pixels:
        """Those of these numbers."""
        return Pixels(self.where[chosen], self.classes[chosen])


class ClassesInTurn:
    """Position p -> pixel: one of each class in turn, so that batches are balanced; every epoch of
    a class is another permutation of its pixels.

    Pixels are numbered class by class, as many of each.
    """

    def __init__(self, classes: int, of_each: int, seed: int):
        self._classes, self._of_each, self._seed = classes, of_each, seed
        self._epoch = functools.lru_cache(64)(
            self._permuted
        )  # Grain's shuffle takes milliseconds for each of so few

    def __getitem__(self, position: int) -> int:
        turn, number = divmod(position, self._classes)
        epoch, within = divmod(turn, self._of_each)
        return number * self._of_each + int(self._epoch(epoch)[number, within])

    def _permuted(self, epoch: int) -> np.ndarray:
        """int64 [k, pixels of a class], the order of each class."""
        rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(1, epoch)))
        return rng.permuted(np.tile(np.arange(self._of_each), (self._classes, 1)), axis=1)


def sample_per_class(classes: np.ndarray, count: int, seed: int, where: str) -> np.ndarray:
    """int64 [k, count], numbers of `count` entries of each of the k classes in `classes` [m], drawn
    by the seed, in their order.

    Raises ValueError, beginning with `where`, for a class that has fewer.
    """
    rng = np.random.default_rng(
        np.random.SeedSequence(seed, spawn_key=(0, 0))
    )  # no stream of rows, nor of mixtures
    codes, counts = np.unique(classes, return_counts=True)
    if counts.min() < count:
        scarce = codes[counts.argmin()]
        raise ValueError(
            f"{where}: {count}, but class {scarce} has {counts.min()} labelled in this split; "
            "expected at most that, or 0 for all"
        )
    return np.stack(
        [
            np.sort(rng.choice(np.flatnonzero(classes == code), count, replace=False))
            for code in codes
        ]
    )


class PixelSource(Source):
    """A store whose pixels are drawn, each with the window around it; beyond the border of its
    scene by reflection, as numpy's "reflect" has it.

    Labels of a window are cut alike; they are 0 but for the pixels that may be drawn.
    """

    unit = "pixels"

    @functools.cached_property
    def drawn(self) -> Pixels:
        """What is drawn: all candidates, or with `labels_per_class` so many of each class, class by
        class.
        """
        found = self.candidates(self.config.label)
        if not self.config.labels_per_class:
            return found
        where = f"config.data.sources.{self.name}.labels_per_class"
        return found.only(
            sample_per_class(found.classes, self.config.labels_per_class, self.seed, where).ravel()
        )

    @property
    def locations(self) -> int:
        return len(self.drawn.where)

    def order(self) -> Order | ClassesInTurn:
        of_each = self.config.labels_per_class
        return (
            ClassesInTurn(self.locations // of_each, of_each, self.seed)
            if of_each
            else super().order()
        )

    def candidates(self, label: str) -> Pixels:
        """Pixels of this split that have a label of that name; for "", those with data in any band.
        Raises ValueError where there is none.
        """
        locations = np.repeat(np.arange(len(self.groups)), np.diff(self.groups.starts))
        found = [
            self._candidates(location, i, label)
            for i, location in sorted(
                zip(self.groups.members.tolist(), locations.tolist(), strict=True)
            )
        ]
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
                f"whole patch; source {self.name!r} draws pixels, "
                f"so it needs a map, or draw='patch'"
            )
        return found

    def draw(self, location: int, rng: np.random.Generator) -> Draw:
        """The window around a pixel; the generator is not needed."""
        group, i, row, column = self.drawn.where[location].tolist()
        return Draw(np.array([i]), row - self.crop // 2, column - self.crop // 2, group)

    def decode_into(self, batch: dict[str, np.ndarray], row: int, t: int, draw: Draw) -> None:
        i = int(draw.samples[t])
        pixels, _ = self.arrays(i)
        rows, columns = self._window(pixels, draw.top, draw.left)
        batch["pixels"][row, t] = pixels[:, rows, columns]
        self.put_metadata(batch, row, t, i)
        if self.config.label:
            batch["label"][row, t] = self._drawn_labels[i][rows, columns]

    def windows(self, label: str) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        """(sample, window [c, crop, crop], class of its centre; None for "") of every candidate,
        whatever `labels_per_class` says.
        """
        found = self.candidates(label or self.config.label)
        for (_, i, row, column), code in zip(found.where, found.classes, strict=True):
            pixels, _ = self.arrays(int(i))
            rows, columns = self._window(pixels, row - self.crop // 2, column - self.crop // 2)
            yield int(i), pixels[:, rows, columns], code if label else None

    def _window(self, pixels: np.ndarray, top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows [w, 1] and columns [1, w] of a window."""
        height, width = pixels.shape[1:]
        return np.ix_(_reflected(top, self.crop, height), _reflected(left, self.crop, width))

    @functools.cached_property
    def _drawn_labels(self) -> dict[int, np.ndarray]:
        """{sample: its labels [h, w] where they may be drawn, 0 elsewhere}."""
        sides = {i: self.store.index["shape"][i, 1:] for i in self.groups.members.tolist()}
        maps = {i: np.zeros(side, self.drawn.classes.dtype) for i, side in sides.items()}
        for (_, i, row, column), code in zip(
            self.drawn.where.tolist(), self.drawn.classes, strict=True
        ):
            maps[i][row, column] = code
        return maps


def _reflected(first: int, count: int, side: int) -> np.ndarray:
    """Rows or columns `first` ... of a scene with so many, mirrored at its first and last one;
    `count` is at most `side`.
    """
    at = np.abs(np.arange(first, first + count))
    return np.where(at < side, at, 2 * (side - 1) - at)


def open_source(name: str, config: SourceConfig, crop: int, seed: int) -> Source:
    """A source, opened for what it draws: patches or pixels. Raises ValueError, StoreError."""
    return (PixelSource if config.draw == "pixel" else Source)(name, config, crop, seed)
