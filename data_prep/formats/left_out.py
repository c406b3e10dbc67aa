"""What the listing of an archive leaves out: images that are too small or damaged, and edges.

Readers note it where they notice it; the conversion collects it, counts it in the manifest and
decides whether damaged files end it. Outside `collect` an invalid image raises its error.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections import Counter
from collections.abc import Iterator

from data_prep.archive import ArchiveError
from data_prep.reader import SkipSample


@dataclasses.dataclass
class LeftOut:
    """What one listing left out.

    Attributes:
        errors: (image, reason) of each image; the cause of the error is a SkipSample where the
            image is valid, but excluded by the options.
        cut: {patch size: number of images with edges that no full patch covers}.
        lost: {patch size: pixels of those edges}.
        seen: {patch size: pixels of all images that were cut into patches}.
    """

    errors: list[tuple[str, ArchiveError]] = dataclasses.field(default_factory=list)
    cut: Counter[int] = dataclasses.field(default_factory=Counter)
    lost: Counter[int] = dataclasses.field(default_factory=Counter)
    seen: Counter[int] = dataclasses.field(default_factory=Counter)

    @property
    def reasons(self) -> Counter[str]:
        """{reason: number of images} that the options exclude."""
        causes = (error.__cause__ for _, error in self.errors)
        return Counter(str(cause) for cause in causes if isinstance(cause, SkipSample))

    @property
    def bad(self) -> list[tuple[str, ArchiveError]]:
        """(image, error) of each invalid one."""
        return [
            (name, error)
            for name, error in self.errors
            if not isinstance(error.__cause__, SkipSample)
        ]

    @property
    def edges(self) -> Counter[str]:
        """{sentence with the percentage of pixels: number of images} about edges."""
        return Counter(
            {
                f"right and bottom edges without a full patch of {size} x {size} are left out, "
                f"{self.lost[size] / self.seen[size]:.2%} of the pixels": count
                for size, count in sorted(self.cut.items())
                if count
            }
        )


_current: contextvars.ContextVar[LeftOut | None] = contextvars.ContextVar("left_out", default=None)


@contextlib.contextmanager
def collect() -> Iterator[LeftOut]:
    """Collects what the listing inside the block leaves out."""
    found = LeftOut()
    token = _current.set(found)
    try:
        yield found
    finally:
        _current.reset(token)


@contextlib.contextmanager
def image(name: str) -> Iterator[None]:
    """Leaves out the image that is listed inside the block if that raises ArchiveError."""
    found = _current.get()
    try:
        yield
    except ArchiveError as error:
        if found is None:
            raise
        found.errors.append((name, error))


def note_edges(shape: tuple[int, int], size: int, covered: int) -> None:
    """Notes the pixels of an image that patches of size x size pixels do not cover."""
    found = _current.get()
    if found is None:
        return
    pixels = shape[0] * shape[1]
    lost = pixels - covered
    found.seen[size] += pixels
    found.lost[size] += lost
    found.cut[size] += lost > 0
