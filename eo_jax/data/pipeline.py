"""From stores to Batches: row r of global batch n is a function of (seed, n, r) alone.

The only state is the number of the next batch, so a resumed run continues exactly where the
checkpoint was taken, whatever was prefetched. (Skipped records are counted, too, which changes no
batch.) Grain's threads decode each batch into a buffer of a pool, which gets it back when nothing
refers to the batch any more. Buffers in use are the `prefetch` ones and those of batches that the
caller and the device hold, so peak memory is about prefetch + 4 batches.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from eo_jax.data.bad_records import BadRecord, BadRecords, retry_reads, union
from eo_jax.data.mixture import ComponentConfig, Mixture, check_mixture
from eo_jax.data.pixel_source import open_source
from eo_jax.data.source import Draw, Source, SourceConfig, draw_together, keep_common_locations
from eo_jax.data.store.buffers import BufferPool
from eo_jax.data.store.reader import begin_reading
from eo_jax.data.store.record import RecordError
from eo_jax.schema import TIME_ABSENT, Batch

_NAMED = 4  # samples of a batch that its description names
_ATTEMPTS = 100  # locations tried for a row; if all are bad, something else is wrong


@dataclasses.dataclass(frozen=True)
class Config:
    """The sources of a run, and how batches are read from them.

    Attributes:
        sources: {name: SourceConfig}.
        batch_size: rows of a global batch, over all processes.
        crop: side in pixels of the random crop that is read of each patch, before augmentation; or
            of the window around a pixel, which is odd.
        threads: Grain threads that decode.
        prefetch: decoded batches held ready; never fewer than threads.
        mixture: {name: ComponentConfig}, the sources that are read together, one component per
            step; {} for one component "all" with all sources.
        on_error: "stop" at a record that cannot be decoded, or "skip" it: its row shows another
            location.
        undo_differences: where the band differences that stores keep of integers become digital
            numbers: "host", while decoding; "device", in the train step, so that the host has less
            to do; "auto", on the device in a run on an accelerator. No view depends on it.
        max_bad_fraction: fraction of a source's samples that may be skipped; more stop the run.
    """

    sources: Mapping[str, SourceConfig] = dataclasses.field(default_factory=dict)
    batch_size: int = 64
    crop: int = 128
    threads: int = 2
    prefetch: int = 2
    mixture: Mapping[str, ComponentConfig] = dataclasses.field(default_factory=dict)
    on_error: str = "stop"
    undo_differences: str = "auto"
    max_bad_fraction: float = 0.001

    def __post_init__(self):
        for field in ("batch_size", "crop"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"config.data.{field}: {getattr(self, field)}; expected at least 1"
                )
        if self.on_error not in ("stop", "skip"):
            raise ValueError(f"config.data.on_error: {self.on_error!r}; expected 'stop' or 'skip'")
        if self.undo_differences not in ("auto", "host", "device"):
            raise ValueError(
                f"config.data.undo_differences: {self.undo_differences!r}; expected 'auto', 'host' "
                "or 'device'"
            )
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(
                f"config.data.max_bad_fraction: {self.max_bad_fraction}; expected a fraction from "
                "0 to 1"
            )
        if self.mixture:
            check_mixture(self.mixture, self.sources)
        for name, source in self.sources.items():
            if source.draw == "pixel" and self.crop % 2 == 0:
                raise ValueError(
                    f"config.data.crop: {self.crop}; expected an odd number, the side of the "
                    f"window around a pixel of source {name!r}"
                )
            if source.paired_with:
                self._check_pairing(name, source.paired_with)

    def _check_pairing(self, name: str, leader: str) -> None:
        leaders = [source for source, config in self.sources.items() if not config.paired_with]
        if leader not in leaders:
            raise ValueError(
                f"config.data.sources.{name}.paired_with: {leader!r}; expected a source that is "
                f"not paired itself: {', '.join(leaders) or 'none'}"
            )
        if self.sources[name].draw != self.sources[leader].draw:
            draws = [self.sources[source].draw for source in (name, leader)]
            raise ValueError(
                f"config.data.sources.{name}.draw: {draws[0]!r}, but it is paired with {leader!r}, "
                f"which draws {draws[1]!r}; draw the same"
            )
        for component, about in self.mixture.items():
            if name in about.sources and leader not in about.sources:
                raise ValueError(
                    f"config.data.mixture.{component}.sources: {name!r} is paired with {leader!r}, "
                    f"which is missing; add it, or remove {name!r}"
                )


RowDraws = Sequence[tuple[Source, Draw]]  # what a row shows of a source and those paired with it


class Pipeline:
    """Batches, or the rows of them that one process needs, each with the sources of one component.

    Args:
        rows: which rows of each global batch are read, ascending; None for all.
        gather: value -> what every process gives there.

    Attributes:
        sources: {name: Source}.
        mixture: which component is drawn at a step.
        bad: the records that were skipped.
    """

    def __init__(
        self,
        config: Config,
        seed: int,
        rows: Sequence[int] | None = None,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.config, self.seed, self._gather, self._sleep = config, seed, gather, sleep
        self.sources = {
            name: open_source(name, source, config.crop, seed)
            for name, source in config.sources.items()
        }
        components = config.mixture or {"all": ComponentConfig(tuple(config.sources))}
        self.mixture = Mixture(components, seed)
        leaders = [name for name, source in config.sources.items() if not source.paired_with]
        for leader in leaders:
            keep_common_locations(self._paired_sources(leader, self.sources))
        self._orders = {name: self.sources[name].order() for name in leaders}
        self.rows = range(config.batch_size) if rows is None else rows
        # Buffers being decoded, held ready, with the caller and on the device.
        buffers = config.threads + config.prefetch + 2
        self._pools = {
            name: BufferPool(source.pixels_shape(len(self.rows)), source.dtype, buffers)
            for name, source in self.sources.items()
        }
        on_device = config.undo_differences == "device"
        self._fields = {
            name: source.stored_field if on_device else "pixels"
            for name, source in self.sources.items()
        }
        self.bad = BadRecords(
            {
                name: config.max_bad_fraction * len(source.groups.members)
                for name, source in self.sources.items()
            }
        )

    def _paired_sources(self, leader: str, among: Iterable[str]) -> list[Source]:
        """A source, and those of `among` that are paired with it, by name."""
        return [
            self.sources[leader],
            *(
                self.sources[name]
                for name in sorted(among)
                if self.config.sources[name].paired_with == leader
            ),
        ]

    def empty_batch(self, component: str) -> Batch:
        """This process's rows of a component's batch, uninitialised."""
        return {
            name: self.sources[name].new_batch(self._pools[name].take(), self._fields[name])
            for name in self.mixture.components[component].sources
        }

    def batch(self, n: int) -> Batch:
        """This process's rows of global batch n.

        Its memory is reused when nothing refers to it or to views of it any more.
        """
        batch = self.empty_batch(self.mixture.component(n))
        bad = []
        for leader in batch:
            if leader in self._orders:
                bad += self._fill(batch, n, self._paired_sources(leader, batch))
        self.bad.report(n, bad)
        return batch

    def samples(self, n: int) -> dict[str, np.ndarray]:
        """{source: int64 [b, t], the samples that are drawn for all rows of global batch n}: those
        that it shows where none of their records is bad. Nothing is read.
        """
        return self._samples(n, self._draws)

    def shown(self, n: int) -> dict[str, np.ndarray]:
        """The same, but where a record is known to be bad, as it is once its batch was taken, those
        that its row shows instead.
        """
        return self._samples(n, self._shown_draws)

    def _samples(
        self, n: int, draws: Callable[[int, Sequence[Source], Sequence[int]], list[RowDraws]]
    ) -> dict[str, np.ndarray]:
        together = self.mixture.components[self.mixture.component(n)].sources
        found: dict[str, list[np.ndarray]] = {name: [] for name in together}
        for leader in filter(self._orders.__contains__, together):
            sources = self._paired_sources(leader, together)
            for row in draws(n, sources, range(self.config.batch_size)):
                for source, draw in row:
                    found[source.name].append(draw.samples)
        return {name: np.stack(rows) for name, rows in found.items()}

    def _positions(self, n: int, leader: str, rows: Iterable[int]) -> list[int]:
        """How many rows of a source are drawn before each of these rows of batch n."""
        first = self.mixture.occurrences(leader, n) * self.config.batch_size
        return [first + r for r in rows]

    def _draws(self, n: int, sources: Sequence[Source], rows: Sequence[int]) -> list[RowDraws]:
        """What these rows of batch n show of a source and those paired with it."""
        leader = sources[0].name
        return [
            draw_together(
                sources, self._orders[leader][position], np.random.default_rng((self.seed, n, r))
            )
            for r, position in zip(rows, self._positions(n, leader, rows), strict=True)
        ]

    def _shown_draws(
        self, n: int, sources: Sequence[Source], rows: Sequence[int]
    ) -> list[RowDraws]:
        """The same without the records that are known to be bad."""
        draws = self._draws(n, sources, rows)
        return [self._without_bad(n, r, drawn) for r, drawn in zip(rows, draws, strict=True)]

    def _without_bad(self, n: int, r: int, draws: RowDraws) -> RowDraws:
        for attempt in range(1, _ATTEMPTS):
            if not any(
                self.bad.is_known(source.name, i)
                for source, draw in draws
                for i in draw.samples.tolist()
            ):
                break
            draws = self._another(n, r, attempt, draws)
        return draws

    def _another(self, n: int, r: int, attempt: int, draws: RowDraws) -> RowDraws:
        """Another location for row r of batch n, drawn from all.

        The next one in the order would be shown twice in this very batch, and contrastive
        objectives assume that different rows are different locations.
        """
        sources = [source for source, _ in draws]
        rng = np.random.default_rng((self.seed, n, r, attempt))
        return draw_together(sources, int(rng.integers(sources[0].locations)), rng)

    def _fill(self, batch: Batch, n: int, sources: Sequence[Source]) -> list[BadRecord]:
        """Fills a source and those paired with it; returns the bad records that were skipped."""
        for source in sources:
            batch[source.name]["position"][:] = self._positions(n, sources[0].name, self.rows)
        draws = self._draws(n, sources, self.rows)
        begin_reading(
            (source.store, i)
            for source, draw in itertools.chain.from_iterable(draws)
            if source.can_prefetch
            for i in draw.samples.tolist()
        )
        return [
            bad
            for row, row_draws in enumerate(draws)
            for bad in self._fill_row(batch, n, row, row_draws)
        ]

    def _fill_row(self, batch: Batch, n: int, row: int, draws: RowDraws) -> list[BadRecord]:
        """Fills one row with its draws, or with another location if one of their records is bad.

        The other location is a function of (seed, n, r) and the number of the attempt.
        """
        bad: list[BadRecord] = []
        while failed := self._read(batch, n, row, draws):
            bad.append(failed)
            if len(bad) == _ATTEMPTS:
                raise RecordError(
                    f"step {n + 1}: none of {_ATTEMPTS} locations of source {draws[0][0].name!r} "
                    f"can be decoded; the last: {failed.error}"
                )
            draws = self._another(n, self.rows[row], len(bad), draws)
        return bad

    def _read(self, batch: Batch, n: int, row: int, draws: RowDraws) -> BadRecord | None:
        """Decodes the draws of a row.

        With on_error="skip", a record that cannot be decoded is returned instead of raised.
        """
        for source, draw in draws:
            fields = batch[source.name]
            # An earlier attempt may have left other values.
            fields["time"][row], fields["lonlat"][row] = TIME_ABSENT, np.nan
            for t, i in enumerate(draw.samples.tolist()):
                decode = functools.partial(source.decode_into, fields, row, t, draw)
                try:
                    retry_reads(decode, source.reopen, self._sleep, n + 1)
                except RecordError as error:
                    if self.config.on_error == "stop":
                        raise
                    return BadRecord(source.name, i, str(error))
        return None

    def batches(self, first: int, last: int, log: Callable[[str], None] = print) -> Iterator[Batch]:
        """Batches first ... last - 1, decoded ahead in `threads` threads.

        `log` gets a line for every bad record, when its batch is taken.
        """
        if first >= last:
            return iter(())
        dataset = grain.MapDataset.range(first, last).map(self.batch)
        # Grain's default buffer of 500 elements would be tens of gigabytes of batches; threads
        # beyond the size of the buffer would idle.
        options = grain.ReadOptions(
            num_threads=self.config.threads,
            prefetch_buffer_size=max(self.config.prefetch, self.config.threads),
        )

        def take(n: int, batch: Batch) -> Batch:
            self.bad.commit(n, log)
            return batch

        return map(take, itertools.count(first), dataset.to_iter_dataset(options))

    def skipped_before(self, n: int) -> dict[str, list[int]]:
        """{source: samples that any process skipped in batches before n}."""
        if self.config.on_error == "stop":
            return self.bad.skipped_before(n)  # those of earlier runs, which all processes know
        return union(self._gather(self.bad.skipped_before(n)))

    def describe(self, n: int) -> str:
        """Global batch n in a line: its component, and the first samples that each source shows."""
        parts, drawn = [], self.samples(n)
        for name, samples in self.shown(n).items():
            store, ids = self.sources[name].store, self.sources[name].store.index["id"]
            pairs = zip(samples.ravel()[:_NAMED], drawn[name].ravel(), strict=False)
            named = [f"{ids[i]}{f' in place of {ids[j]}' if i != j else ''}" for i, j in pairs]
            more = f" and {samples.size - _NAMED} more" if samples.size > _NAMED else ""
            parts.append(f"source {name!r} ({store.path}): samples {', '.join(named)}{more}")
        component = self.mixture.component(n)
        of_component = f", component {component!r}" if len(self.mixture.components) > 1 else ""
        return f"batch {n}{of_component}, " + "; ".join(parts)

    def counts(self, step: int) -> dict[str, float | str]:
        """What to log at `step` about the batches before it.

        The keys are "component", "mixture/<component>" (its fraction of all steps so far) and
        "bad_records".
        """
        counts: dict[str, float | str] = {}
        if len(self.mixture.components) > 1:
            fractions = {
                f"mixture/{name}": count / step
                for name, count in self.mixture.counts_before(step).items()
            }
            counts |= {"component": self.mixture.component(step - 1), **fractions}
        if self.config.on_error == "skip":
            counts["bad_records"] = sum(map(len, self.skipped_before(step).values()))
        return counts


def in_order(
    source: Source, batch_size: int, label: str | None = None, rows: Sequence[int] | None = None
) -> Iterator[Batch]:
    """Every sample of a source once, in store order, as non-overlapping crops; for evaluation.
    With `rows`, only those rows of every batch.

    A source that draws pixels gives the window around every pixel that has the label, or without a
    label around every pixel that may be drawn.

    `position` is the number of the sample. Shapes are static: the last batch is padded with repeats
    of the last crop, whose `position` is -1. With `label`, the label array of that name is under
    "label", [b, ...]: a map is cropped with the pixels, a window has the class of its centre.
    """
    if source.config.dates != 1:
        raise ValueError(
            f"source {source.name!r}: evaluation takes one date at a time, this source draws "
            f"{source.config.dates}; open it with dates=1"
        )
    rows = range(batch_size) if rows is None else rows
    count, read = source.windows(label or "")
    numbers = [first + row for first in range(0, count, batch_size) for row in rows]
    windows = read(min(number, count - 1) for number in numbers)
    for first in range(0, len(numbers), len(rows)):
        batch, labels = _blank(source, len(rows)), []
        for row in range(len(rows)):
            sample, pixels, value = next(windows)
            batch["pixels"][row, 0] = pixels
            batch["position"][row] = sample if numbers[first + row] < count else -1
            source.put_metadata(batch, row, 0, sample)
            labels.append(value)
        yield _labelled(source.name, batch, labels)


def _blank(source: Source, rows: int) -> dict[str, np.ndarray]:
    """An uninitialised batch without a label."""
    fields = source.new_batch(np.empty(source.pixels_shape(rows), source.dtype))
    return {name: array for name, array in fields.items() if name != "label"}


def _labelled(name: str, batch: dict[str, np.ndarray], labels: list[np.ndarray | None]) -> Batch:
    return {name: batch if labels[0] is None else batch | {"label": np.stack(labels)}}
