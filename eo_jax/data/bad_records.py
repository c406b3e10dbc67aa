"""What becomes of records that cannot be decoded and of files that vanish: the former are counted,
the latter are read again, then given up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from eo_jax.data.store.record import RecordError
from eo_jax.data.store.remote import RemoteError

_PAUSES = (0.1, 0.4, 1.6)  # seconds before a file is read again


class BadRecord(NamedTuple):
    """A record that cannot be decoded: source, number of the sample in its store, and the error,
    which names it.
    """

    source: str
    sample: int
    error: str


class BadRecords:
    """The distinct records that were skipped, and the batch that met each first.

    Threads decode batches in any order; what they met counts when its batch is taken, in the order
    of batches. So counts depend on no thread.
    """

    def __init__(self, limits: Mapping[str, float]):
        """`limits`: {source: how many distinct bad records it may have}."""
        self._limits = limits
        self._waiting: dict[int, Sequence[BadRecord]] = {}
        self._first: dict[tuple[str, int], int] = {}

    def report(self, n: int, bad: Sequence[BadRecord]) -> None:
        """Batch n, which may not be the next, met these."""
        if bad:
            self._waiting[n] = bad

    def commit(self, n: int, say: Callable[[str], None]) -> None:
        """Batch n is the next: counts what it met, and says what is new. Raises RecordError where a
        source has more than its limit.
        """
        for source, sample, error in self._waiting.pop(n, ()):
            if (source, sample) not in self._first:
                self._first[source, sample] = n
                say(f"skipped, another location is shown instead: {error}")
                self._check(source, error)

    def restore(self, bad: Mapping[str, Sequence[int]]) -> None:
        """Goes on counting from {source: samples}, as `skipped_before` gave it."""
        self._first |= {
            (source, sample): -1 for source, samples in bad.items() for sample in samples
        }

    def skipped_before(self, n: int) -> dict[str, list[int]]:
        """{source: samples that batches before n met}; sources without any are left out."""
        found: dict[str, list[int]] = {}
        for (source, sample), first in sorted(self._first.items()):
            if first < n:
                found.setdefault(source, []).append(sample)
        return found

    def _check(self, source: str, error: str) -> None:
        count = sum(name == source for name, _ in self._first)
        if count > self._limits[source]:
            raise RecordError(
                f"source {source!r}: {count} records cannot be decoded, "
                "config.data.max_bad_fraction allows "
                f"for {self._limits[source]:g}; mend the store or "
                f"raise config.data.max_bad_fraction. The last: {error}"
            )


def retry_reads(
    read: Callable[[], None], reopen: Callable[[], None], sleep: Callable[[float], None], step: int
) -> None:
    """Calls `read`; where the system cannot read a file, as when a mount is gone for a moment,
    three times more, after 0.1, 0.4 and 1.6 s.

    Raises OSError, which names file and step, where that does not help either; at once RecordError
    for a record that is there but damaged, and RemoteError.
    """
    for pause in (*_PAUSES, None):
        try:
            return read()
        except (OSError, RecordError) as error:
            if not _is_outage(error):
                raise
            if pause is None:
                tried = f"tried {len(_PAUSES) + 1} times in {sum(_PAUSES):g} s"
                raise OSError(
                    f"step {step}: {error}; {tried}. When the file can be read, the same command "
                    "goes on"
                ) from error
        sleep(pause)
        reopen()


def _is_outage(error: Exception) -> bool:
    """Whether the system failed to read, rather than the record to decode."""
    if isinstance(error, RemoteError):  # was tried again and again already
        return False
    cause = error if isinstance(error, OSError) else error.__cause__
    # Riegeli, with which ArrayRecord reads, has RuntimeError for everything; a failed system call
    # is "open() failed: No such file or directory".
    return isinstance(cause, OSError) or (
        isinstance(cause, RuntimeError) and "() failed: " in str(cause)
    )
