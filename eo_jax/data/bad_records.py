"""Skipping undecodable records and retrying unreadable files."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from eo_jax.data.store.record import RecordError
from eo_jax.data.store.remote import RemoteError

_PAUSES = (0.1, 0.4, 1.6)  # seconds before a file is read again


class BadRecord(NamedTuple):
    """A record that cannot be decoded: source, sample number in its store, error with its name."""

    source: str
    sample: int
    error: str


class BadRecords:
    """The distinct records that were skipped, each with the first batch that contained it.

    Threads decode batches in any order; their bad records are counted when the batch is taken, in
    the order of batches. So counts do not depend on threads.
    """

    def __init__(self, limits: Mapping[str, float]):
        """`limits`: {source: the largest number of distinct bad records}."""
        self._limits = limits
        self._waiting: dict[int, Sequence[BadRecord]] = {}
        self._first: dict[tuple[str, int], int] = {}
        self._counts = collections.Counter[str]()  # of self._first, per source

    def report(self, n: int, bad: Sequence[BadRecord]) -> None:
        """Reports the bad records of batch n; batches may come in any order."""
        if bad:
            self._waiting[n] = bad

    def commit(self, n: int, log: Callable[[str], None]) -> None:
        """Counts the bad records of batch n, which is the next one, and logs new ones.

        Raises RecordError where a source has more than its limit.
        """
        for source, sample, error in self._waiting.pop(n, ()):
            if (source, sample) not in self._first:
                self._first[source, sample] = n
                self._counts[source] += 1
                log(f"skipped, another location is shown instead: {error}")
                self._check_count(source, self._counts[source], error)

    def restore(self, bad: Mapping[str, Sequence[int]]) -> None:
        """Continues counting from {source: samples}, the result of `skipped_before`."""
        self._first |= {
            (source, sample): -1 for source, samples in bad.items() for sample in samples
        }
        self._counts = collections.Counter(source for source, _ in self._first)

    def is_known(self, source: str, sample: int) -> bool:
        """Whether this process has counted the record, or continues from one that had."""
        return (source, sample) in self._first

    def skipped_before(self, n: int) -> dict[str, list[int]]:
        """{source: samples skipped in batches before n}, without sources that have none."""
        skipped: dict[str, list[int]] = {}
        for (source, sample), first in sorted(self._first.items()):
            if first < n:
                skipped.setdefault(source, []).append(sample)
        return skipped

    def check(self, skipped: Mapping[str, Sequence[int]]) -> None:
        """Raises RecordError where the records that all processes skipped are above a limit."""
        for source, samples in skipped.items():
            self._check_count(source, len(samples), f"see the log; sample {samples[-1]}")

    def _check_count(self, source: str, count: int, error: str) -> None:
        if count > self._limits[source]:
            raise RecordError(
                f"source {source!r}: {count} records cannot be decoded, "
                f"config.data.max_bad_fraction allows {self._limits[source]:g}; repair the store "
                f"or raise config.data.max_bad_fraction. The last: {error}"
            )


def union(skipped: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, list[int]]:
    """What several processes skipped: {source: samples}, each once."""
    samples: dict[str, set[int]] = {}
    for one in skipped:
        for source, found in one.items():
            samples.setdefault(source, set()).update(found)
    return {source: sorted(found) for source, found in sorted(samples.items())}


def retry_reads(
    read: Callable[[], None], reopen: Callable[[], None], sleep: Callable[[float], None], step: int
) -> None:
    """Calls `read`, and again after 0.1, 0.4 and 1.6 s where the system cannot read a file.

    A mount may be gone for a moment. Raises OSError with file and step after the last attempt; at
    once RecordError for a record that is there but damaged, and RemoteError.
    """
    for pause in (*_PAUSES, None):
        try:
            return read()
        except (OSError, RecordError) as error:
            if not _is_outage(error):
                raise
            if pause is None:
                raise OSError(
                    f"step {step}: {error}; tried {len(_PAUSES) + 1} times in {sum(_PAUSES):g} s. "
                    "When the file can be read, the same command resumes the run"
                ) from error
        sleep(pause)
        reopen()


def _is_outage(error: Exception) -> bool:
    """Whether the system failed to read, as opposed to a record that cannot be decoded."""
    if isinstance(error, RemoteError):  # remote.py has already retried it
        return False
    cause = error if isinstance(error, OSError) else error.__cause__
    # Riegeli, which ArrayRecord reads with, raises RuntimeError for everything; of a failed system
    # call, "open() failed: No such file or directory".
    return isinstance(cause, OSError) or (
        isinstance(cause, RuntimeError) and "() failed: " in str(cause)
    )
