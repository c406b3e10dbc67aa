"""Which acquisitions show the same ground: footprints (see formats/footprint.py) that overlap.

Dates of one place, overlapping scenes and tiles with a stride below their size leak from training
into validation where a split is drawn at random.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

# Neighbouring tiles share an edge, and rounding of coordinates makes that a sliver: an overlap
# counts if it is wider than this fraction of the smaller footprint, in every direction.
_TOLERANCE = 0.02
_MAX_CELLS = 10_000  # of one footprint in the search grid; larger ones are not of one acquisition
_PAIRS_AT_ONCE = 2**18  # of which each takes half a kilobyte


def join_overlapping(footprints: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, str]:
    """{location: name of its ground} for the footprints {location: [8] of each acquisition}.

    Locations that overlap, directly or through others, get one name, the first of theirs.
    """
    parent = {location: location for location in footprints}

    def root(location: str) -> str:
        while parent[location] != location:
            parent[location] = location = parent[parent[location]]
        return location

    locations = list(footprints)
    corners = [corner for found in footprints.values() for corner in found]
    numbers = np.repeat(np.arange(len(locations)), [len(found) for found in footprints.values()])
    distinct, kinds, _ = _distinct(np.array(corners, float).reshape(-1, 8), numbers)
    owners = [locations[kind] for kind in kinds.tolist()]
    for one, other in overlapping(distinct, kinds):
        first, second = sorted((root(owners[one]), root(owners[other])))
        parent[second] = first
    return {location: root(location) for location in footprints}


def overlapping(corners: np.ndarray, kinds: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of footprints [n, 8] that overlap and are of different `kinds` [n]; a pair may come
    twice.
    """
    if len(corners) < 2:
        return
    quads, owners = _unwrapped(corners.reshape(-1, 4, 2))
    for members in _neighbours(quads):
        owner = owners[members]
        for one, other in _pairs(kinds[owner]):
            met = _overlap(quads[members[one]], quads[members[other]])
            yield from zip(owner[one[met]].tolist(), owner[other[met]].tolist(), strict=True)


def _pairs(kinds: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers (one, other) of all pairs of different kinds, each pair once, some at a time."""
    rows = max(1, _PAIRS_AT_ONCE // len(kinds))
    for start in range(0, len(kinds), rows):
        differ = kinds[start : start + rows, None] != kinds[None, start:]
        one, other = np.nonzero(np.triu(differ))
        yield one + start, other + start


def _distinct(corners: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(footprints [m, 8] and kinds [m] without repeats, the number among them of each given one):
    mostly, the acquisitions of a location have one footprint, and pairs are quadratic in them.
    """
    table = np.column_stack([corners, kinds])
    rows, number = np.unique(table, axis=0, return_inverse=True)
    return rows[:, :8], rows[:, 8].astype(np.int64), number.ravel()


def _unwrapped(quads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(footprints in one piece, those that cross the 180th meridian on both sides of the map; the
    number of each in the input).
    """
    quads = quads.copy()
    first = (quads[:, :1, 0] + 180) % 360 - 180
    quads[..., 0] = first + (quads[..., 0] - first + 180) % 360 - 180
    owners, copies = [np.arange(len(quads))], [quads]
    for shift, crosses in (
        (-360, quads[..., 0].max(1) > 180),
        (360, quads[..., 0].min(1) < -180),
    ):
        copies.append(quads[crosses] + (shift, 0))
        owners.append(np.flatnonzero(crosses))
    return np.concatenate(copies), np.concatenate(owners)


def _neighbours(quads: np.ndarray) -> Iterator[np.ndarray]:
    """Numbers of the footprints in each cell of a grid as coarse as a typical footprint."""
    low, high = quads.min(1), quads.max(1)
    side = max(float(np.median((high - low).max(1))), 1e-6)
    first, last = np.floor(low / side).astype(int), np.floor(high / side).astype(int)
    cells = collections.defaultdict(list)
    for number, ((x0, y0), (x1, y1)) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        if (x1 - x0 + 1) * (y1 - y0 + 1) > _MAX_CELLS:
            continue
        for x in range(x0, x1 + 1):
            for y in range(y0, y1 + 1):
                cells[x, y].append(number)
    for members in cells.values():
        if len(members) > 1:
            yield np.array(members)


def _overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """bool [pairs]: whether convex quadrangles [pairs, 4, 2] overlap: no edge separates them
    (separating axis theorem).
    """
    # Degrees of longitude as long as those of latitude.
    stretch = np.stack([np.cos(np.radians(one[:, :, 1].mean(1))), np.ones(len(one))], axis=-1)[
        :, None
    ]
    one, other = one * stretch, other * stretch
    met = np.ones(len(one), bool)
    for quads in (one, other):
        edges = np.roll(quads, -1, axis=1) - quads
        for edge in range(4):
            normal = edges[:, edge, ::-1] * (1, -1)
            a, b = (np.einsum("nij,nj->ni", each, normal) for each in (one, other))
            depth = np.minimum(a.max(1), b.max(1)) - np.maximum(a.min(1), b.min(1))
            smaller = np.minimum(np.ptp(a, axis=1), np.ptp(b, axis=1))
            met &= depth > _TOLERANCE * smaller
    return met


def leaks(footprints: Sequence[Sequence[float] | None], splits: Sequence[str]) -> dict[str, int]:
    """{split: number of its samples whose ground another split shows, too}; only splits with any.

    "train" is left out: a sample of another split is counted there.
    """
    placed = [number for number, corners in enumerate(footprints) if corners is not None]
    names = sorted({splits[number] for number in placed})
    kinds = np.array([names.index(splits[number]) for number in placed], np.int64)
    if len(names) < 2:
        return {}
    corners = np.array([footprints[number] for number in placed], float)
    distinct, kinds_of_distinct, number = _distinct(corners, kinds)
    shared = np.zeros(len(distinct), bool)
    for pair in overlapping(distinct, kinds_of_distinct):
        shared[list(pair)] = True
    counts = collections.Counter(splits[placed[k]] for k in np.flatnonzero(shared[number]))
    return {split: counts[split] for split in sorted(counts) if split != "train"}
