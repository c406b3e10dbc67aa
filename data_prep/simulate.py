"""Writes a synthetic EnMAP archive in the SpectralEarth layout: places with a land-use map, seen on one to three dates.

    python -m data_prep simulate --output /data/simulated --locations 48 --size 128 --seed 0

    <output>/simulate.json                     what the archive was made from
    <output>/enmap/<location>/<scene>.tif      int16 [202, size, size], reflectance x 10000
    <output>/landuse/<location>/<scene>.tif    uint8 [size, size], 0 = unlabelled
    <output>/landuse/classes.csv               code,name
    <output>/splits/train.txt, val.txt         one <location>/<scene>.tif a line, all dates of a location on one side

It is for learning the tools and for tests, not for results about the Earth. A pixel is a linear mixture of the endmembers in
`data_prep.spectra`, lit by the slope, blurred by the sensor and read with noise. Land uses made of the same materials in nearly the same
shares differ in arrangement only: large and small cropland, orchard rows and wooded pasture, city and industry. At 30 m single orchard rows
are below the pixel; the strips here are blocks of rows between alleys.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import scipy.fft
import scipy.ndimage
import scipy.special
import threadpoolctl
from rasterio.crs import CRS
from rasterio.transform import Affine

from data_prep import parallel, progress, spectra
from eo_jax.sensors import ENMAP

RECIPE = 1  # raise it with every change that alters bytes, so that no archive mixes two recipes
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
SMALLEST_SIZE = 16
SCENES_PER_REGION = 3
LOCATIONS_PER_REGION = 8  # they lie in the same scenes
MOST_LOCATIONS = 99_999 // SCENES_PER_REGION * LOCATIONS_PER_REGION  # a scene number has five digits
VAL_EVERY = 5  # one location in so many is for validation
DATES_SHARE = (0.72, 0.20, 0.08)  # of the locations have one, two, three dates; SpectralEarth: 17.5 % have more than one
PSF_SIGMA_PX = 0.6  # modulation of 0.17 at the Nyquist frequency

# What a random stream is for. Streams are keyed (seed, purpose, index...), so nothing depends on what else is drawn, or where.
_REGION, _SCENE, _LOCATION, _GROUND, _LIBRARY, _VIEW, _SPLIT = range(7)
_MARKER = "simulate.json"

_NM = ENMAP.centres_nm
_IS_VNIR = np.array([number <= 91 for number in ENMAP.band_numbers])
_FWHM = [band.fwhm_nm for band in ENMAP.bands]


# --- regions and scenes -------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scene:
    """One pass over a region: when, and what is wrong with its wavelengths and its atmospheric correction."""

    number: int
    time: datetime.datetime
    shift_nm: tuple[float, float]  # of the VNIR and the SWIR camera, known and tagged in the file
    unknown_shift_nm: float
    vapour_error: float
    haze_strength: float
    haze_exponent: float
    swir_gain: float  # of the SWIR camera relative to the VNIR camera
    stripe_tilt: float  # columns moved a row: the orbit is not along the grid

    @property
    def name(self) -> str:
        return f"{self.number:05d}"

    @property
    def wavelengths_nm(self) -> np.ndarray:
        """Centre wavelengths in this scene, float64 [c], nm."""
        return _NM + np.where(_IS_VNIR, *self.shift_nm)


@dataclasses.dataclass(frozen=True)
class Region:
    """Where neighbouring locations lie: UTM zone, corner in metres, latitude in degrees, and the scenes that cover it, oldest first."""

    epsg: int
    easting: float
    northing: float
    latitude: float
    scenes: tuple[Scene, ...]


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng([seed, *key])


def _scene(seed: int, number: int, when: datetime.datetime) -> Scene:
    rng = _stream(seed, _SCENE, number)
    return Scene(
        number=number,
        time=when,
        shift_nm=(rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4)),
        unknown_shift_nm=rng.normal(0, 0.15),
        vapour_error=rng.normal(0, 0.10),
        haze_strength=rng.normal(0.002, 0.006),
        haze_exponent=rng.uniform(1.5, 3.5),
        swir_gain=1 + rng.normal(0, 0.035),
        stripe_tilt=rng.uniform(0.15, 0.30),
    )


def _acquisition_times(rng: np.random.Generator, northern: bool) -> list[datetime.datetime]:
    """Three instants UTC in 2022 to 2024, sorted, near 11 h local solar time, outside the local winter."""
    times = []
    for year in rng.integers(2022, 2025, SCENES_PER_REGION):
        day = rng.integers(70, 310) + (0 if northern else 182)
        second = rng.integers(10 * 3600 + 1800, 11 * 3600 + 1800)
        times.append(datetime.datetime(int(year), 1, 1) + datetime.timedelta(days=int(day), seconds=int(second)))
    return sorted(times)


def make_region(seed: int, index: int) -> Region:
    """Region `index` of the archive drawn from `seed`."""
    rng = _stream(seed, _REGION, index)
    northern = rng.random() < 0.7
    latitude = rng.uniform(32, 56)
    zone = int(rng.integers(1, 61))
    to_utc = datetime.timedelta(hours=(zone * 6 - 183) / 15)
    times = [local - to_utc for local in _acquisition_times(rng, northern)]
    metres = 110_900 * latitude
    return Region(
        epsg=(32600 if northern else 32700) + zone,
        easting=30.0 * rng.integers(12_000, 20_000) + 15,
        northing=30.0 * round((metres if northern else 10_000_000 - metres) / 30) + 15,
        latitude=latitude if northern else -latitude,
        scenes=tuple(_scene(seed, index * SCENES_PER_REGION + k, when) for k, when in enumerate(times)),
    )


@dataclasses.dataclass(frozen=True)
class Location:
    """One place: its region, its upper left corner (UTM metres) and the scenes that see it."""

    index: int
    region: Region
    corner: tuple[float, float]
    scenes: tuple[Scene, ...]

    @property
    def name(self) -> str:
        return f"{self.index:07d}"


def make_location(seed: int, index: int, size: int) -> Location:
    """Location `index` of the archive drawn from `seed`; it does not depend on how many others there are."""
    region_index, slot = divmod(index, LOCATIONS_PER_REGION)
    region = make_region(seed, region_index)
    cell = _stream(seed, _REGION, region_index, 1).permutation(16)[slot]  # places on a 4 x 4 chart, no two on one
    corner = (region.easting + 30 * size * (cell % 4), region.northing - 30 * size * (cell // 4))
    rng = _stream(seed, _LOCATION, index)
    dates = 1 + rng.choice(SCENES_PER_REGION, p=DATES_SHARE)
    seen = np.sort(rng.permutation(SCENES_PER_REGION)[:dates])
    return Location(index, region, corner, tuple(region.scenes[k] for k in seen))


# --- patterns on the ground ---------------------------------------------------------------------------------------------------------------


def smooth_field(rng: np.random.Generator, size: int, length_px: float) -> np.ndarray:
    """Gaussian random field [h, w] of mean 0 and standard deviation 1 that varies over `length_px` pixels, with rougher detail below."""
    padded = scipy.fft.next_fast_len(size + int(4 * length_px), real=True)  # so that opposite edges do not fit together
    fy, fx = np.fft.fftfreq(padded)[:, None], np.fft.rfftfreq(padded)[None, :]
    amplitude = (1 + (2 * np.pi * length_px) ** 2 * (fy**2 + fx**2)) ** -1.75
    field = scipy.fft.irfft2(scipy.fft.rfft2(rng.standard_normal((padded, padded))) * amplitude, (padded, padded))
    return (field[:size, :size] - field.mean()) / field.std()


def even_field(rng: np.random.Generator, size: int, length_px: float) -> np.ndarray:
    """`smooth_field` with its values spread evenly over 0 to 1."""
    return scipy.special.ndtr(smooth_field(rng, size, length_px))


def turned(size: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates u, v [h, w] in pixels of a frame turned by `angle`, non-negative."""
    y, x = np.mgrid[:size, :size].astype(float)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    return u - u.min(), v - v.min()


def parcels(rng: np.random.Generator, size: int, angle: float, width_px: tuple[float, float], length_px: tuple[float, float]) -> np.ndarray:
    """Numbers [h, w] of parcels: strips of random width, each cut at a random length, in a frame turned by `angle`."""
    u, v = turned(size, angle)
    edges = np.cumsum(rng.uniform(*width_px, int(1.5 * size / width_px[0]) + 2))
    strip = np.searchsorted(edges, u)
    length = rng.uniform(*length_px, len(edges) + 1)[strip]
    cut = ((v + rng.uniform(0, 1, len(edges) + 1)[strip] * length) / length).astype(int)
    return np.unique(strip * 10_000 + cut, return_inverse=True)[1].reshape(size, size)


def draw_each(rng: np.random.Generator, ids: np.ndarray) -> np.ndarray:
    """One number in 0 to 1 for each object in `ids` [h, w], as a map [h, w]."""
    return rng.random(ids.max() + 1)[ids]


def shares_each(rng: np.random.Generator, ids: np.ndarray, mean: np.ndarray, evenness: float) -> np.ndarray:
    """Dirichlet shares [k, h, w] of each object in `ids`, adding to 1, of mean `mean` [k]; a low `evenness` makes objects pure."""
    raw = rng.standard_gamma(np.asarray(mean)[:, None] * evenness, (len(mean), ids.max() + 1)) + 1e-9
    return (raw / raw.sum(0))[:, ids]


def borders(ids: np.ndarray) -> np.ndarray:
    """True [h, w] on the pixels whose right or lower neighbour is another object."""
    edge = np.zeros(ids.shape, bool)
    edge[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    edge[:-1] |= ids[:-1] != ids[1:]
    return edge


# --- land uses: what covers the ground ----------------------------------------------------------------------------------------------------

COVERS = ("water", "tree", "grass", "crop", "soil", "tile", "bitumen", "metal", "concrete", "asphalt")


@dataclasses.dataclass(frozen=True)
class Place:
    """What the land uses of one location have in common; the generator is the location's own."""

    rng: np.random.Generator
    size: int
    angle: float  # of fields and streets
    roofs: np.ndarray  # shares of tile, bitumen, metal and concrete among roofs


@dataclasses.dataclass(frozen=True)
class Ground:
    """What one land use would put on the whole patch: cover shares {name: [h, w]} that add to 1, and the numbers of its objects [h, w]."""

    shares: dict[str, np.ndarray]
    objects: np.ndarray


def _water(place: Place) -> Ground:
    flat = np.zeros((place.size, place.size), int)
    return Ground({"water": flat + 1.0}, flat)


def _forest(place: Place) -> Ground:
    gaps = even_field(place.rng, place.size, 3) ** 6
    tree = 0.98 - 0.5 * gaps
    return Ground({"tree": tree, "grass": 1 - tree}, parcels(place.rng, place.size, place.angle + 0.6, (8, 22), (8, 30)))


def _trees_over_grass(tree: np.ndarray, bare: np.ndarray, objects: np.ndarray) -> Ground:
    return Ground({"tree": tree, "grass": (1 - tree) * (1 - bare), "soil": (1 - tree) * bare}, objects)


def _orchard(place: Place) -> Ground:
    """Tree strips in each block; the share of trees along a row's section is that of a wave."""
    blocks = parcels(place.rng, place.size, place.angle, (9, 20), (10, 24))
    u, v = turned(place.size, place.angle)
    across = np.where(draw_each(place.rng, blocks) < 0.5, u, v)
    period = 3 + 3 * draw_each(place.rng, blocks)
    wave = 0.5 + 0.5 * np.cos(2 * np.pi * (across / period + draw_each(place.rng, blocks)))
    density = 0.4 + 0.5 * draw_each(place.rng, blocks)
    return _trees_over_grass(density * wave, 0.4 * draw_each(place.rng, blocks), blocks)


def _pasture(place: Place) -> Ground:
    """Tree clumps over paddocks. `wave` has the distribution of values that it has in an orchard, laid out without rows."""
    paddocks = parcels(place.rng, place.size, place.angle + 0.3, (6, 14), (8, 20))
    wave = 0.5 + 0.5 * np.cos(np.pi * even_field(place.rng, place.size, 1.5))
    density = 0.2 + 0.6 * draw_each(place.rng, paddocks)
    return _trees_over_grass(density * wave, 0.3 * draw_each(place.rng, paddocks), paddocks)


def _cropland(place: Place, width_px: tuple[float, float], length_px: tuple[float, float]) -> Ground:
    fields = parcels(place.rng, place.size, place.angle, width_px, length_px)
    return Ground({"crop": np.ones(fields.shape)}, fields)


@dataclasses.dataclass(frozen=True)
class Fabric:
    """How a built-up land use is woven: sizes of street blocks and plots in pixels; shares of roof, paving and green; evenness."""

    block_px: tuple[float, float]
    plot_px: tuple[float, float]
    mean: tuple[float, float, float]
    evenness: float


def _built_up(place: Place, fabric: Fabric) -> Ground:
    rng = place.rng
    blocks = parcels(rng, place.size, place.angle, fabric.block_px, fabric.block_px)
    plots = parcels(rng, place.size, place.angle, fabric.plot_px, fabric.plot_px)
    street = 0.5 * borders(blocks)
    between = np.maximum(np.array(fabric.mean) - (0, street.mean(), 0), 0.02) / (1 - street.mean())  # streets are part of the paving
    roof, paved, green = 0.6 * shares_each(rng, plots, between, fabric.evenness) + 0.4 * shares_each(rng, blocks, between, 8)
    roof, paved, green = roof * (1 - street), paved * (1 - street) + street, green * (1 - street)
    tile, bitumen, metal, light = roof * shares_each(rng, plots, place.roofs, fabric.evenness)
    tree = draw_each(rng, blocks)
    yard = 0.3 * draw_each(rng, plots)  # concrete in place of asphalt
    shares = {"tile": tile, "bitumen": bitumen, "metal": metal, "concrete": light + paved * yard, "asphalt": paved * (1 - yard)}
    return Ground(shares | {"tree": green * tree, "grass": green * (1 - tree)}, plots)


# City and industry have the same shares on purpose: many small buildings to a pixel, or a hall that fills several.
_SUBURB = Fabric(block_px=(4, 9), plot_px=(1, 2.2), mean=(0.25, 0.18, 0.57), evenness=10)
_CITY = Fabric(block_px=(3, 6), plot_px=(1, 2.2), mean=(0.45, 0.35, 0.20), evenness=10)
_INDUSTRY = Fabric(block_px=(9, 20), plot_px=(3, 8), mean=(0.45, 0.35, 0.20), evenness=2)

GROUND_OF: dict[int, Callable[[Place], Ground]] = {
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


# --- a landscape: what stays between dates ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Landscape:
    """What stays between dates. All maps are [h, w].

    Attributes:
        labels: land-use code.
        shares: cover shares {name: map} for COVERS, adding to 1.
        parcel: a number in 0 to 1 of each object, which decides crop and sowing date.
        vigour: 0 to 1, between the sparse and the lush end of each plant.
        sand, wet, wear: 0 to 1, of soils and asphalt.
        particles, algae: 0 to 1, of water, adding to at most 1.
        gain: brightness factor of the object.
        slope_east, slope_north: rise of the terrain, metres a metre.
    """

    labels: np.ndarray
    shares: dict[str, np.ndarray]
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
    """Land-use codes [h, w]: two to five uses, each where its own smooth field is the highest."""
    uses = rng.choice(list(CLASSES), size=rng.choice([2, 3, 4, 5], p=[0.25, 0.35, 0.25, 0.15]), replace=False)
    heights = [smooth_field(rng, size, 16) + 0.12 * smooth_field(rng, size, 2.5) + rng.normal(0, 0.4) for _ in uses]
    return uses[np.argmax(heights, axis=0)].astype(np.uint8)


def _lay_out(place: Place, labels: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Cover shares, a number in 0 to 1 of each object and an object's brightness, each use taken where the labels say so."""
    shares = {cover: np.zeros(labels.shape) for cover in COVERS}
    parcel, gain = np.zeros(labels.shape), np.ones(labels.shape)
    for code in np.unique(labels):
        here = labels == code
        ground = GROUND_OF[code](place)
        for cover, share in ground.shares.items():
            shares[cover][here] = share[here]
        parcel[here] = draw_each(place.rng, ground.objects)[here]
        gain[here] = 1 + 0.16 * (draw_each(place.rng, ground.objects)[here] - 0.5)
    return shares, parcel, gain


def make_landscape(seed: int, index: int, size: int) -> Landscape:
    """The ground at location `index`, [size, size] pixels of 30 m."""
    rng = _stream(seed, _GROUND, index)
    labels = _zones(rng, size)
    place = Place(rng, size, rng.uniform(0, np.pi / 2), rng.dirichlet([3, 3, 1, 2]) + 0.02)
    shares, parcel, gain = _lay_out(place, labels)
    height_m = rng.gamma(1.5, 20) * smooth_field(rng, size, 12)
    north, east = np.gradient(height_m, 30)
    particles = even_field(rng, size, 20)
    return Landscape(
        labels=labels,
        shares=shares,
        parcel=parcel,
        vigour=np.clip(0.5 * (parcel * 7 % 1) + 0.5 * even_field(rng, size, 8) + rng.normal(0, 0.1), 0, 1),
        sand=even_field(rng, size, 15),
        wet=even_field(rng, size, 10),
        wear=even_field(rng, size, 4),
        particles=particles * rng.random(),
        algae=(1 - particles) * rng.random(),
        gain=gain,
        slope_east=east,
        slope_north=-north,  # rows run south
    )


# --- one date -----------------------------------------------------------------------------------------------------------------------------

# Plants by day of the northern year (southern days are moved by half a year): share that is green, share that is dry; the rest is bare.
_DAYS = (0, 60, 90, 120, 150, 180, 210, 240, 270, 300, 330, 365)
_TREE_GREEN = (0.05, 0.05, 0.15, 0.65, 0.95, 1.0, 1.0, 0.97, 0.85, 0.45, 0.10, 0.05)
_GRASS_GREEN = (0.55, 0.60, 0.75, 0.92, 0.92, 0.80, 0.65, 0.62, 0.70, 0.72, 0.62, 0.55)
_WINTER_CROP = (
    (0.25, 0.35, 0.65, 0.92, 0.95, 0.55, 0.05, 0.05, 0.08, 0.15, 0.22, 0.25),
    (0.00, 0.00, 0.00, 0.00, 0.03, 0.40, 0.75, 0.45, 0.15, 0.05, 0.00, 0.00),
)
_SUMMER_CROP = (
    (0.10, 0.12, 0.12, 0.08, 0.25, 0.75, 0.95, 0.92, 0.60, 0.10, 0.08, 0.10),
    (0.10, 0.08, 0.05, 0.02, 0.00, 0.00, 0.00, 0.05, 0.30, 0.45, 0.20, 0.10),
)


def _plant_day(scene: Scene, latitude: float) -> float:
    """Day of the northern year whose season this is."""
    return (scene.time.timetuple().tm_yday + (0 if latitude > 0 else 182)) % 365


def _at(day: np.ndarray | float, table: tuple[float, ...]) -> np.ndarray:
    return np.interp(day, _DAYS, table, period=365)


def _crop_state(land: Landscape, day: float, year: int) -> tuple[np.ndarray, np.ndarray]:
    """Green and dry share [h, w] of cropland: crops rotate by year, and fields are sown and harvested up to 20 days apart."""
    winter_sown = (land.parcel + 0.37 * (year - 2022)) % 1 < 0.55
    own_day = day + 40 * ((land.parcel * 13) % 1 - 0.5)
    green, dry = (np.where(winter_sown, _at(own_day, w), _at(own_day, s)) for w, s in zip(_WINTER_CROP, _SUMMER_CROP, strict=True))
    return green, dry


def endmember_shares(land: Landscape, day: float, year: int, wetness: float) -> dict[str, np.ndarray]:
    """What each endmember of `spectra.library` covers, {name: [h, w]}, on a day of the northern year.

    `wetness` 0 to 1 is how recent the rain is. The sum is less than 1 where trees and buildings cast shade.
    """
    share, vigour = land.shares, land.vigour
    crop_green, crop_dry = _crop_state(land, day, year)
    tree, leafy = 0.75 * share["tree"], _at(day, _TREE_GREEN)  # a canopy shades a quarter of itself
    unshaded = 1 - 0.4 * (share["tile"] + share["bitumen"] + share["metal"])  # buildings shade what lies between them
    green = _at(day, _GRASS_GREEN)
    grown, straw = share["crop"] * crop_green, share["crop"] * crop_dry + share["grass"] * (1 - green)
    bare = share["soil"] + share["crop"] * (1 - crop_green - crop_dry)
    wet = np.clip(wetness * (0.4 + land.wet), 0, 1)
    return {
        "tree_lush": tree * leafy * vigour,
        "tree_sparse": tree * leafy * (1 - vigour),
        "litter": tree * (1 - leafy) * 0.7,
        "grass_lush": share["grass"] * green * vigour,
        "grass_sparse": share["grass"] * green * (1 - vigour),
        "crop_lush": grown * vigour,
        "crop_sparse": grown * (1 - vigour),
        "straw": straw,
        "sand": bare * (1 - wet) * land.sand,
        "loam": bare * (1 - wet) * (1 - land.sand),
        "moist_soil": bare * wet,
        "clear_water": share["water"] * (1 - land.particles - land.algae),
        "turbid_water": share["water"] * land.particles,
        "green_water": share["water"] * land.algae,
        "asphalt": share["asphalt"] * unshaded * (1 - land.wear),
        "worn_asphalt": share["asphalt"] * unshaded * land.wear,
        "bitumen": share["bitumen"],
        "tile": share["tile"],
        "metal": share["metal"],
        "concrete": share["concrete"] * unshaded,
    }


def sun_direction(latitude: float, day_of_year: int) -> tuple[float, float, float]:
    """Unit vector to the sun (east, north, up) an hour before local noon; `latitude` in degrees."""
    declination = math.radians(23.45) * math.sin(2 * math.pi * (284 + day_of_year) / 365)
    phi, hour = math.radians(latitude), math.radians(-15)
    east = -math.cos(declination) * math.sin(hour)
    north = math.cos(phi) * math.sin(declination) - math.sin(phi) * math.cos(declination) * math.cos(hour)
    up = math.sin(phi) * math.sin(declination) + math.cos(phi) * math.cos(declination) * math.cos(hour)
    return east, north, up


def illumination(land: Landscape, sun: tuple[float, float, float]) -> np.ndarray:
    """Light on the slope relative to level ground [h, w]; a sixth is diffuse, and water is level."""
    east, north, up = sun
    steep = np.sqrt(1 + land.slope_east**2 + land.slope_north**2)
    cos_incidence = (up - east * land.slope_east - north * land.slope_north) / steep
    lit = 1 / 6 + 5 / 6 * np.clip(cos_incidence / up, 0.2, 1.6)
    return np.where(land.shares["water"] > 0, 1.0, lit)


def _reflectance(seed: int, location: Location, scene: Scene, land: Landscape) -> np.ndarray:
    """Mixed, lit and blurred reflectance, float32 [c, h, w]."""
    nm = scene.wavelengths_nm
    latitude = location.region.latitude
    endmembers = spectra.library(nm, _stream(seed, _LIBRARY, location.index))
    wetness = _stream(seed, _SCENE, scene.number, 1).random()
    shares = endmember_shares(land, _plant_day(scene, latitude), scene.time.year, wetness)
    light = land.gain * illumination(land, sun_direction(latitude, scene.time.timetuple().tm_yday))
    # Mixing is linear, so blurring the 20 shares is blurring the 202 bands.
    weights = np.stack([share * light for share in shares.values()]).astype(np.float32)
    weights = scipy.ndimage.gaussian_filter(weights, (0, PSF_SIGMA_PX, PSF_SIGMA_PX), mode="nearest")
    matrix = np.stack([endmembers[name] for name in shares], axis=1).astype(np.float32)
    return (matrix @ weights.reshape(len(weights), -1)).reshape(len(nm), *land.labels.shape)


def _retrieve(surface: np.ndarray, scene: Scene) -> np.ndarray:
    """What atmospheric correction makes of `surface` [c, h, w]: residues of water vapour, haze and camera gain, in digital numbers."""
    nm = scene.wavelengths_nm
    factor = spectra.air_residue(nm, scene.vapour_error, scene.unknown_shift_nm) * np.where(_IS_VNIR, 1.0, scene.swir_gain)
    offset = spectra.haze(nm, scene.haze_strength, scene.haze_exponent)
    scaled = surface * (factor / ENMAP.scale).astype(np.float32)[:, None, None]
    return scaled + (offset / ENMAP.scale).astype(np.float32)[:, None, None]


def _add_noise(rng: np.random.Generator, pixels: np.ndarray, tilt: float) -> np.ndarray:
    """Adds noise that grows with the signal, and stripes along the orbit, to digital numbers [c, h, w]."""
    bands, rows, columns = pixels.shape
    floor = (spectra.noise_floor(_NM) / ENMAP.scale).astype(np.float32)[:, None, None]
    shot = np.sqrt(1 + np.maximum(pixels, 0) / np.float32(1500))  # photon noise equals the floor at a reflectance of 0.15
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * shot
    detector = (np.arange(columns) + (tilt * np.arange(rows))[:, None]).astype(int)
    stripes = rng.standard_normal((bands, detector.max() + 1), dtype=np.float32)
    return pixels + floor * (noise + np.float32(0.4) * stripes[:, detector])


def _cut_wedge(rng: np.random.Generator, missing: np.ndarray) -> None:
    """Marks a corner beyond the scene's edge in all bands; changes `missing` [c, h, w]."""
    size = missing.shape[-1]
    u, v = np.mgrid[:size, :size] / size
    corner = rng.uniform(0.1, 0.6) > u + v * rng.uniform(0.4, 1.6)
    missing |= np.rot90(corner, rng.integers(4))


def _kill_pixels(rng: np.random.Generator, missing: np.ndarray) -> None:
    """Marks one to six single pixels in one camera or in both; changes `missing` [c, h, w]."""
    camera = (_IS_VNIR, ~_IS_VNIR, np.ones(len(_NM), bool))[rng.integers(3)]
    rows, columns = rng.integers(0, missing.shape[-1], (2, rng.integers(1, 7)))
    for row, column in zip(rows, columns, strict=True):
        missing[camera, row, column] = True


def _missing(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    missing = np.zeros(shape, bool)
    if rng.random() < 0.08:
        _cut_wedge(rng, missing)
    if rng.random() < 0.06:
        _kill_pixels(rng, missing)
    return missing


def observe(seed: int, location: Location, scene: Scene, land: Landscape) -> tuple[np.ndarray, np.ndarray]:
    """Pixels int16 [c, h, w] and labels uint8 [h, w] of a location in a scene; a label is 0 where any band has no data."""
    rng = _stream(seed, _VIEW, location.index, scene.number)
    values = _add_noise(rng, _retrieve(_reflectance(seed, location, scene, land), scene), scene.stripe_tilt)
    pixels = np.clip(np.rint(values), -32767, 32767).astype(np.int16)
    missing = _missing(rng, pixels.shape)
    pixels[missing] = ENMAP.nodata
    return pixels, np.where(missing.any(0), 0, land.labels).astype(np.uint8)


# --- files --------------------------------------------------------------------------------------------------------------------------------


def _replace_with(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a temporary file beside `path`, then puts it in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    write(partial)
    os.replace(partial, path)


def _write_text(path: Path, text: str) -> None:
    _replace_with(path, lambda partial: partial.write_text(text, encoding="utf-8", newline="\n"))


def _profile(location: Location, count: int, size: int) -> dict:
    west, north = location.corner
    return {
        "driver": "GTiff",
        "count": count,
        "height": size,
        "width": size,
        "crs": CRS.from_epsg(location.region.epsg),
        "transform": Affine(30, 0, west, 0, -30, north),
        "compress": "deflate",
        "zlevel": 1,  # higher levels cost three times the time for 3 % less
        "blockysize": size,
        "interleave": "band",
    }


def _write_pixels(path: Path, pixels: np.ndarray, location: Location, scene: Scene) -> None:
    profile = _profile(location, len(pixels), pixels.shape[-1]) | {"dtype": "int16", "predictor": 2, "nodata": ENMAP.nodata}
    with rasterio.open(path, "w", **profile) as file:
        file.write(pixels)
        file.scales = (ENMAP.scale,) * len(pixels)
        file.update_tags(start_time=scene.time.isoformat())
        for band, (nm, fwhm) in enumerate(zip(scene.wavelengths_nm, _FWHM, strict=True), start=1):
            file.update_tags(band, wavelength=f"{nm:.3f}", fwhm=f"{fwhm:.2f}", wavelength_units="Nanometers")


def _write_labels(path: Path, labels: np.ndarray, location: Location) -> None:
    with rasterio.open(path, "w", **_profile(location, 1, len(labels)), dtype="uint8", nodata=0) as file:
        file.write(labels, 1)


def write_location(output: Path, seed: int, size: int, index: int) -> tuple[int, int]:
    """Writes all dates of a location that are not there yet; returns how many, and their images' bytes. Finished files are left alone."""
    location = make_location(seed, index, size)
    folders = output / "enmap" / location.name, output / "landuse" / location.name
    targets = [(scene, *(folder / f"{scene.name}.tif" for folder in folders)) for scene in location.scenes]
    absent = [target for target in targets if not (target[1].exists() and target[2].exists())]
    if not absent:
        return 0, 0
    land = make_landscape(seed, index, size)
    for scene, image, label in absent:
        with threadpoolctl.threadpool_limits(1):  # one core a worker, and the same sums in whatever number of them
            pixels, labels = observe(seed, location, scene, land)
        _replace_with(image, functools.partial(_write_pixels, pixels=pixels, location=location, scene=scene))
        _replace_with(label, functools.partial(_write_labels, labels=labels, location=location))
    return len(absent), sum(image.stat().st_size for _, image, _ in absent)


def is_validation(seed: int, index: int) -> bool:
    """Whether a location is for validation: one in every five, whatever the number of locations; one of the first two is, one is not."""
    block, place = divmod(index, VAL_EVERY)
    return place == _stream(seed, _SPLIT, block).integers(2 if block == 0 else VAL_EVERY)


def _write_splits(output: Path, seed: int, size: int, locations: int) -> None:
    lines: dict[bool, list[str]] = {False: [], True: []}
    for index in range(locations):
        location = make_location(seed, index, size)
        lines[is_validation(seed, index)] += [f"{location.name}/{scene.name}.tif\n" for scene in location.scenes]
    _write_text(output / "splits" / "train.txt", "".join(lines[False]))
    _write_text(output / "splits" / "val.txt", "".join(lines[True]))


def _write_classes(output: Path) -> None:
    rows = [f"{code},{name}\n" for code, name in CLASSES.items()]
    _write_text(output / "landuse" / "classes.csv", "code,name\n" + "".join(rows))


# --- the archive --------------------------------------------------------------------------------------------------------------------------


def _check_arguments(output: Path, locations: int, size: int, seed: int, workers: int) -> None:
    limits = {
        "--locations": (locations, 2, MOST_LOCATIONS, "one location at least goes to each split, and scene numbers have five digits"),
        "--size": (size, SMALLEST_SIZE, 4096, "rows and columns of a patch; SpectralEarth has 128"),
        "--seed": (seed, 0, 2**63, "any non-negative integer"),
        "--workers": (workers, 1, 4096, "processes; leave it out for one a core"),
    }
    for name, (value, least, most, why) in limits.items():
        if not least <= value <= most:
            raise ValueError(f"{name} {value}: expected {least} to {most} ({why})")
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file; expected a folder that is new, or an archive of `simulate` to complete")


def _claim(output: Path, made_from: dict[str, int]) -> None:
    """Writes what the archive is made from, or checks that the archive there is made from the same."""
    marker = output / _MARKER
    if marker.exists():
        _check_marker(marker, made_from)
        return
    if (output / "enmap").exists():
        raise ValueError(f"{output} holds enmap/ but no {_MARKER}: expected an archive made by `simulate`. Give another --output.")
    try:
        _write_text(marker, json.dumps(made_from, indent=1) + "\n")
    except OSError as error:
        raise OSError(f"--output {output}: cannot be written ({error.strerror}); choose a folder that you may write to") from error


def _check_extends(output: Path, locations: int) -> None:
    """Raises ValueError where the archive has a location beyond the first `locations`: its splits would no longer name all files."""
    last = max((folder.name for folder in output.glob("enmap/[0-9]*")), default="")
    if last >= f"{locations:07d}":
        raise ValueError(f"{output} holds location {last}: --locations {locations} found, {int(last) + 1} or more expected")


def _check_marker(marker: Path, made_from: dict[str, int]) -> None:
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{marker}: not JSON ({error}); remove the archive, or give another --output") from error
    if not isinstance(found, dict):
        raise ValueError(f"{marker}: found {found!r}, expected an object; remove the archive, or give another --output")
    for field, value in made_from.items():
        if found.get(field) != value:
            raise ValueError(f"{marker}: {field} is {found.get(field)}, expected {value}. Use the same {field}, or give another --output.")


def simulate_archive(
    output: str | os.PathLike,
    locations: int = 48,
    size: int = 128,
    seed: int = 0,
    workers: int | None = None,
    advance: progress.Advance = lambda units, size: None,
) -> int:
    """Writes, or completes, a synthetic archive; returns how many patches were written.

    Args:
        output: folder of the archive.
        locations: number of places. The files of one depend on `seed`, its number and `size` alone, so a larger number extends an archive.
        size: rows and columns of a patch, pixels of 30 m.
        seed: non-negative.
        workers: processes; one a core by default.
        advance: called with (1, bytes written) for each finished location; for showing progress.

    Raises:
        ValueError: an argument out of range, or `output` holds something else.
        OSError: `output` cannot be written.
    """
    output, workers = Path(output), parallel.cores() if workers is None else workers
    _check_arguments(output, locations, size, seed, workers)
    _claim(output, {"recipe": RECIPE, "seed": seed, "size": size})
    _check_extends(output, locations)
    written = 0
    for patches, written_bytes in parallel.run(functools.partial(write_location, output, seed, size), range(locations), workers):
        written += patches
        advance(1, written_bytes)
    _write_classes(output)
    _write_splits(output, seed, size, locations)  # last: a split never names a file that is not there
    return written


# --- command line -------------------------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python -m data_prep simulate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    parser.epilog = "example: python -m data_prep simulate --output /tmp/simulated --locations 8 --size 64"
    parser.add_argument("--output", type=Path, required=True, help="folder of the archive; a partial one is completed")
    parser.add_argument("--locations", type=int, default=48, help="number of places (default: 48)")
    parser.add_argument("--size", type=int, default=128, help="rows and columns of a patch (default: 128)")
    parser.add_argument("--seed", type=int, default=0, help="non-negative (default: 0)")
    parser.add_argument("--workers", type=int, default=parallel.cores(), help="processes (default: one a core)")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status. Raises what `simulate_archive` raises."""
    with progress.show("simulate", args.locations, "locations") as advance:
        written = simulate_archive(args.output, args.locations, args.size, args.seed, args.workers, advance)
    print(f"{args.output}: {written} patches written, {args.locations} locations complete")
    return 0
