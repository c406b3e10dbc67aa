"""The ground of a simulated site: land uses, covers and arrangement, without date or sensor."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import scipy.fft
import scipy.special

CLASSES = {
    1: "water",
    2: "broadleaf forest",
    3: "orchard",
    4: "large-parcel cropland",
    5: "smallholder cropland",
    6: "wooded pasture",
    7: "suburban housing",
    8: "dense city",
    9: "industry and commerce",
}
WATER = 1
BUILT_UP = (7, 8, 9)


# ------------------------------------------------------------------ patterns on the ground


def smooth_field(rng: np.random.Generator, size: int, length_px: float) -> np.ndarray:
    """Gaussian random field [h, w] of mean 0 and standard deviation 1 that varies over `length_px`
    pixels, with rougher detail below.
    """
    # Padded, because the field is periodic and opposite edges must not match.
    padded = scipy.fft.next_fast_len(size + int(4 * length_px), real=True)
    fy, fx = np.fft.fftfreq(padded)[:, None], np.fft.rfftfreq(padded)[None, :]
    amplitude = (1 + (2 * np.pi * length_px) ** 2 * (fy**2 + fx**2)) ** -1.75
    field = scipy.fft.irfft2(
        scipy.fft.rfft2(rng.standard_normal((padded, padded))) * amplitude, (padded, padded)
    )
    return (field[:size, :size] - field.mean()) / field.std()


def uniform_field(rng: np.random.Generator, size: int, length_px: float) -> np.ndarray:
    """`smooth_field` with its values distributed uniformly over 0 to 1."""
    return scipy.special.ndtr(smooth_field(rng, size, length_px))


def rotated_coordinates(size: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative coordinates u, v [h, w], in pixels, in a frame rotated by `angle`."""
    y, x = np.mgrid[:size, :size].astype(float)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    return u - u.min(), v - v.min()


def parcels(
    rng: np.random.Generator,
    size: int,
    angle: float,
    width_px: tuple[float, float],
    length_px: tuple[float, float],
) -> np.ndarray:
    """Numbers [h, w] of parcels: strips of random width, each cut at a random length, in a frame
    rotated by `angle`.
    """
    u, v = rotated_coordinates(size, angle)
    edges = np.cumsum(rng.uniform(*width_px, int(1.5 * size / width_px[0]) + 2))
    strip = np.searchsorted(edges, u)
    length = rng.uniform(*length_px, len(edges) + 1)[strip]
    cut = ((v + rng.uniform(0, 1, len(edges) + 1)[strip] * length) / length).astype(int)
    return np.unique(strip * 10_000 + cut, return_inverse=True)[1].reshape(size, size)


def uniform_each(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    """A random number in 0 to 1 per object in `ids` [h, w], as a map [h, w]."""
    return rng.random(ids.max() + 1)[ids]


def dirichlet_each(
    rng: np.random.Generator, ids: np.ndarray, mean: np.ndarray, concentration: float
) -> np.ndarray:
    """Dirichlet fractions [k, h, w] of each object in `ids`, adding to 1, with mean `mean` [k]; a
    low `concentration` makes objects pure.
    """
    shape = np.asarray(mean)[:, None] * concentration
    raw = rng.standard_gamma(shape, (len(mean), ids.max() + 1)) + 1e-9
    return (raw / raw.sum(0))[:, ids]


def borders(ids: np.ndarray) -> np.ndarray:
    """True [h, w] at pixels whose right or lower neighbour is another object."""
    edge = np.zeros(ids.shape, bool)
    edge[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    edge[:-1] |= ids[:-1] != ids[1:]
    return edge


# ------------------------------------------------------------------ land uses and their covers

COVERS = (
    "water",
    "tree",
    "grass",
    "crop",
    "soil",
    "tile",
    "bitumen",
    "metal",
    "concrete",
    "asphalt",
)


@dataclasses.dataclass(frozen=True)
class Site:
    """Properties shared by the land uses of one location; the generator is the location's own."""

    rng: np.random.Generator
    size: int
    angle: float  # of fields and streets
    roofs: np.ndarray  # fractions of tile, bitumen, metal and concrete among roofs


@dataclasses.dataclass(frozen=True)
class Ground:
    """One land use laid out over the whole patch: cover fractions {name: [h, w]} that add to 1, and
    the numbers of its objects [h, w].
    """

    fractions: dict[str, np.ndarray]
    objects: np.ndarray


def _water(site: Site) -> Ground:
    flat = np.zeros((site.size, site.size), int)
    return Ground({"water": flat + 1.0}, flat)


def _forest(site: Site) -> Ground:
    gaps = uniform_field(site.rng, site.size, 3) ** 6
    tree = 0.98 - 0.5 * gaps
    return Ground(
        {"tree": tree, "grass": 1 - tree},
        parcels(site.rng, site.size, site.angle + 0.6, (8, 22), (8, 30)),
    )


def _trees_over_grass(tree: np.ndarray, bare: np.ndarray, objects: np.ndarray) -> Ground:
    return Ground(
        {"tree": tree, "grass": (1 - tree) * (1 - bare), "soil": (1 - tree) * bare}, objects
    )


def _orchard(site: Site) -> Ground:
    """Tree strips in each block; across the rows, tree density follows a cosine."""
    blocks = parcels(site.rng, site.size, site.angle, (9, 20), (10, 24))
    u, v = rotated_coordinates(site.size, site.angle)
    across = np.where(uniform_each(site.rng, blocks) < 0.5, u, v)
    period = 3 + 3 * uniform_each(site.rng, blocks)
    wave = 0.5 + 0.5 * np.cos(2 * np.pi * (across / period + uniform_each(site.rng, blocks)))
    density = 0.4 + 0.5 * uniform_each(site.rng, blocks)
    return _trees_over_grass(density * wave, 0.4 * uniform_each(site.rng, blocks), blocks)


def _pasture(site: Site) -> Ground:
    """Tree clumps over paddocks.

    `wave` has the same distribution of values as in an orchard, but without rows.
    """
    paddocks = parcels(site.rng, site.size, site.angle + 0.3, (6, 14), (8, 20))
    wave = 0.5 + 0.5 * np.cos(np.pi * uniform_field(site.rng, site.size, 1.5))
    density = 0.2 + 0.6 * uniform_each(site.rng, paddocks)
    return _trees_over_grass(density * wave, 0.3 * uniform_each(site.rng, paddocks), paddocks)


def _cropland(site: Site, width_px: tuple[float, float], length_px: tuple[float, float]) -> Ground:
    fields = parcels(site.rng, site.size, site.angle, width_px, length_px)
    return Ground({"crop": np.ones(fields.shape)}, fields)


@dataclasses.dataclass(frozen=True)
class Fabric:
    """Urban fabric of a built-up land use: sizes of street blocks and plots in pixels; mean
    fractions of roof, paving and green; concentration of the fractions (see `dirichlet_each`).
    """

    block_px: tuple[float, float]
    plot_px: tuple[float, float]
    mean: tuple[float, float, float]
    concentration: float


def _built_up(site: Site, fabric: Fabric) -> Ground:
    rng = site.rng
    blocks = parcels(rng, site.size, site.angle, fabric.block_px, fabric.block_px)
    plots = parcels(rng, site.size, site.angle, fabric.plot_px, fabric.plot_px)
    street = 0.5 * borders(blocks)
    # Fractions between the streets, which are part of the paving.
    between = np.maximum(np.array(fabric.mean) - (0, street.mean(), 0), 0.02) / (1 - street.mean())
    by_plot = dirichlet_each(rng, plots, between, fabric.concentration)
    roof, paved, green = 0.6 * by_plot + 0.4 * dirichlet_each(rng, blocks, between, 8)
    roof, paved, green = roof * (1 - street), paved * (1 - street) + street, green * (1 - street)
    roofs = dirichlet_each(rng, plots, site.roofs, fabric.concentration)
    tile, bitumen, metal, light = roof * roofs
    tree = uniform_each(rng, blocks)
    yard = 0.3 * uniform_each(rng, plots)  # concrete instead of asphalt
    fractions = {
        "tile": tile,
        "bitumen": bitumen,
        "metal": metal,
        "concrete": light + paved * yard,
        "asphalt": paved * (1 - yard),
    }
    return Ground(fractions | {"tree": green * tree, "grass": green * (1 - tree)}, plots)


# City and industry have the same fractions on purpose: many small buildings per pixel, or one hall
# over several pixels.
_SUBURB = Fabric(block_px=(4, 9), plot_px=(1, 2.2), mean=(0.25, 0.18, 0.57), concentration=10)
_CITY = Fabric(block_px=(3, 6), plot_px=(1, 2.2), mean=(0.45, 0.35, 0.20), concentration=10)
_INDUSTRY = Fabric(block_px=(9, 20), plot_px=(3, 8), mean=(0.45, 0.35, 0.20), concentration=2)

GROUND_OF: dict[int, Callable[[Site], Ground]] = {
    1: _water,
    2: _forest,
    3: _orchard,
    4: functools.partial(_cropland, width_px=(8, 20), length_px=(12, 34)),
    5: functools.partial(_cropland, width_px=(1.5, 4), length_px=(3, 8)),
    6: _pasture,
    7: functools.partial(_built_up, fabric=_SUBURB),
    8: functools.partial(_built_up, fabric=_CITY),
    9: functools.partial(_built_up, fabric=_INDUSTRY),
}


# ------------------------------------------------------------------ landscapes


@dataclasses.dataclass(frozen=True)
class Landscape:
    """Ground that is the same on all dates. All maps are [h, w].

    Attributes:
        labels: land-use code.
        fractions: cover fractions {name: map} for COVERS, adding to 1.
        parcel: a number in 0 to 1 per object, which determines crop and sowing date.
        vigour: 0 to 1, from the sparse to the lush spectrum of each plant.
        sand, wet, wear: 0 to 1, of soils and asphalt.
        particles, algae: 0 to 1, of water, adding to at most 1.
        gain: brightness factor of the object.
        slope_east, slope_north: slope of the terrain, metres per metre.
    """

    labels: np.ndarray
    fractions: dict[str, np.ndarray]
    parcel: np.ndarray
    vigour: np.ndarray
    sand: np.ndarray
    wet: np.ndarray
    wear: np.ndarray
    particles: np.ndarray
    algae: np.ndarray
    gain: np.ndarray
    slope_east: np.ndarray
    slope_north: np.ndarray


def _zones(rng: np.random.Generator, size: int) -> np.ndarray:
    """Land-use codes [h, w] of two to five uses."""
    uses = rng.choice(
        list(CLASSES), size=rng.choice([2, 3, 4, 5], p=[0.25, 0.35, 0.25, 0.15]), replace=False
    )
    return _zones_of(uses, rng, size)


def _zones_of(uses: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """Land-use codes [h, w], each where its smooth field is the highest."""
    heights = [
        smooth_field(rng, size, 16) + 0.12 * smooth_field(rng, size, 2.5) + rng.normal(0, 0.4)
        for _ in uses
    ]
    return uses[np.argmax(heights, axis=0)].astype(np.uint8)


def _lay_out(
    site: Site, labels: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Cover fractions, and maps of a number in 0 to 1 and a brightness factor per object, each from
    the land use of the label.
    """
    fractions = {cover: np.zeros(labels.shape) for cover in COVERS}
    parcel, gain = np.zeros(labels.shape), np.ones(labels.shape)
    for code in np.unique(labels):
        here = labels == code
        ground = GROUND_OF[code](site)
        for cover, fraction in ground.fractions.items():
            fractions[cover][here] = fraction[here]
        parcel[here] = uniform_each(site.rng, ground.objects)[here]
        gain[here] = 1 + 0.16 * (uniform_each(site.rng, ground.objects)[here] - 0.5)
    return fractions, parcel, gain


def make_landscape(rng: np.random.Generator, size: int) -> Landscape:
    """One landscape of [size, size] pixels of 30 m, drawn from `rng`."""
    return _landscape(rng, _zones(rng, size))


def make_field(rng: np.random.Generator, size: int) -> Landscape:
    """A landscape that is large-parcel cropland everywhere."""
    return _landscape(rng, np.full((size, size), 4, np.uint8))


def build_up(land: Landscape, rng: np.random.Generator) -> tuple[Landscape, np.ndarray]:
    """(the landscape after building, true [h, w] where there are buildings now and were none)."""
    size = len(land.labels)
    built = _landscape(rng, _zones_of(np.array(BUILT_UP), rng, size))
    site = smooth_field(rng, size, 8) + 0.1 * smooth_field(rng, size, 2) > 0.8
    changed = site & ~np.isin(land.labels, (*BUILT_UP, WATER))
    maps = {
        field.name: np.where(changed, getattr(built, field.name), getattr(land, field.name))
        for field in dataclasses.fields(Landscape)
        if field.name != "fractions"
    }
    fractions = {
        cover: np.where(changed, built.fractions[cover], land.fractions[cover]) for cover in COVERS
    }
    return Landscape(**maps, fractions=fractions), changed


def _landscape(rng: np.random.Generator, labels: np.ndarray) -> Landscape:
    size = len(labels)
    site = Site(rng, size, rng.uniform(0, np.pi / 2), rng.dirichlet([3, 3, 1, 2]) + 0.02)
    fractions, parcel, gain = _lay_out(site, labels)
    height_m = rng.gamma(1.5, 20) * smooth_field(rng, size, 12)
    north, east = np.gradient(height_m, 30)
    particles = uniform_field(rng, size, 20)
    return Landscape(
        labels=labels,
        fractions=fractions,
        parcel=parcel,
        vigour=np.clip(
            0.5 * (parcel * 7 % 1) + 0.5 * uniform_field(rng, size, 8) + rng.normal(0, 0.1), 0, 1
        ),
        sand=uniform_field(rng, size, 15),
        wet=uniform_field(rng, size, 10),
        wear=uniform_field(rng, size, 4),
        particles=particles * rng.random(),
        algae=(1 - particles) * rng.random(),
        gain=gain,
        slope_east=east,
        slope_north=-north,  # rows run south
    )
