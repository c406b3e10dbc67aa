"""Scenes over simulated locations: season, light, atmosphere, blur, noise, no-data."""

from __future__ import annotations

import dataclasses
import datetime
import math

import numpy as np
import scipy.ndimage

from data_prep.simulation import spectra
from data_prep.simulation.landscape import Landscape
from eo_jax.sensors import ENMAP

SCENES_PER_REGION = 3
LOCATIONS_PER_REGION = 8  # all in the same scenes
# Probabilities of one, two and three dates; in SpectralEarth, 17.5 % of locations have several.
DATES_PROBABILITIES = (0.72, 0.20, 0.08)
PSF_SIGMA_PX = 0.6  # modulation of 0.17 at the Nyquist frequency

# Purposes of random streams. Streams are keyed (seed, purpose, index...), so that none depends on
# other draws.
REGION, SCENE, LOCATION, GROUND, LIBRARY, VIEW, SPLIT = range(7)

_NM = ENMAP.centres_nm
_IS_VNIR = np.array([number <= 91 for number in ENMAP.band_numbers])


@dataclasses.dataclass(frozen=True)
class Scene:
    """One pass over a region: its time, and the errors of its wavelengths and its atmospheric
    correction.
    """

    number: int
    time: datetime.datetime
    shift_nm: tuple[float, float]  # of the VNIR and the SWIR camera; known, and tagged in the file
    unknown_shift_nm: float
    vapour_error: float
    haze_strength: float
    haze_exponent: float
    swir_gain: float  # of the SWIR camera relative to the VNIR camera
    stripe_tilt: float  # shift in columns per row, because the orbit is not aligned with the grid

    @property
    def name(self) -> str:
        return f"{self.number:05d}"

    @property
    def wavelengths_nm(self) -> np.ndarray:
        """Centre wavelengths in this scene, float64 [c], nm."""
        return _NM + np.where(_IS_VNIR, *self.shift_nm)


@dataclasses.dataclass(frozen=True)
class Region:
    """Neighbouring locations: UTM zone, corner in metres, latitude in degrees, and the scenes that
    cover them, oldest first.
    """

    epsg: int
    easting: float
    northing: float
    latitude: float
    scenes: tuple[Scene, ...]


def stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng([seed, *key])


def _scene(seed: int, number: int, when: datetime.datetime) -> Scene:
    rng = stream(seed, SCENE, number)
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
    """Three sorted times in 2022 to 2024, near 11 h local solar time, outside the local winter."""
    times = []
    for year in rng.integers(2022, 2025, SCENES_PER_REGION):
        day = rng.integers(70, 310) + (0 if northern else 182)
        second = rng.integers(10 * 3600 + 1800, 11 * 3600 + 1800)
        times.append(
            datetime.datetime(int(year), 1, 1)
            + datetime.timedelta(days=int(day), seconds=int(second))
        )
    return sorted(times)


def make_region(seed: int, index: int) -> Region:
    """Region `index` of the archive drawn from `seed`."""
    rng = stream(seed, REGION, index)
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
        scenes=tuple(
            _scene(seed, index * SCENES_PER_REGION + k, when) for k, when in enumerate(times)
        ),
    )


@dataclasses.dataclass(frozen=True)
class Location:
    """One location: its region, its upper left corner (UTM metres) and the scenes that show it."""

    index: int
    region: Region
    corner: tuple[float, float]
    scenes: tuple[Scene, ...]

    @property
    def name(self) -> str:
        return f"{self.index:07d}"


def make_location(seed: int, index: int, size: int) -> Location:
    """Location `index` of the archive drawn from `seed`, independent of the number of locations."""
    region_index, number = divmod(index, LOCATIONS_PER_REGION)
    region = make_region(seed, region_index)
    # Each location has a cell of its own on a 4 x 4 chart.
    cell = stream(seed, REGION, region_index, 1).permutation(16)[number]
    corner = (region.easting + 30 * size * (cell % 4), region.northing - 30 * size * (cell // 4))
    rng = stream(seed, LOCATION, index)
    dates = 1 + rng.choice(SCENES_PER_REGION, p=DATES_PROBABILITIES)
    chosen = np.sort(rng.permutation(SCENES_PER_REGION)[:dates])
    return Location(index, region, corner, tuple(region.scenes[k] for k in chosen))


# Plants by day of the northern year (southern days are shifted by half a year): green fraction and
# dry fraction; the rest is bare.
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
    """Day of the northern year with the season of the scene."""
    return (scene.time.timetuple().tm_yday + (0 if latitude > 0 else 182)) % 365


def _at(day: np.ndarray | float, table: tuple[float, ...]) -> np.ndarray:
    return np.interp(day, _DAYS, table, period=365)


def _crop_state(land: Landscape, day: float, year: int) -> tuple[np.ndarray, np.ndarray]:
    """Green and dry fractions [h, w] of cropland: crops rotate by year, and dates of sowing and
    harvest vary by up to 20 days.
    """
    winter_sown = (land.parcel + 0.37 * (year - 2022)) % 1 < 0.55
    own_day = day + 40 * ((land.parcel * 13) % 1 - 0.5)
    green, dry = (
        np.where(winter_sown, _at(own_day, w), _at(own_day, s))
        for w, s in zip(_WINTER_CROP, _SUMMER_CROP, strict=True)
    )
    return green, dry


def endmember_fractions(
    land: Landscape, day: float, year: int, wetness: float
) -> dict[str, np.ndarray]:
    """Cover fractions {name: [h, w]} of the endmembers of `spectra.library`, on a day of the
    northern year.

    `wetness`, 0 to 1, is 1 right after rain. The sum is less than 1 where trees and buildings cast
    shade.
    """
    cover, vigour = land.fractions, land.vigour
    crop_green, crop_dry = _crop_state(land, day, year)
    tree, leafy = 0.75 * cover["tree"], _at(day, _TREE_GREEN)  # a canopy shades a quarter of itself
    # Buildings shade the ground between them.
    unshaded = 1 - 0.4 * (cover["tile"] + cover["bitumen"] + cover["metal"])
    green = _at(day, _GRASS_GREEN)
    growing = cover["crop"] * crop_green
    straw = cover["crop"] * crop_dry + cover["grass"] * (1 - green)
    bare = cover["soil"] + cover["crop"] * (1 - crop_green - crop_dry)
    wet = np.clip(wetness * (0.4 + land.wet), 0, 1)
    return {
        "tree_lush": tree * leafy * vigour,
        "tree_sparse": tree * leafy * (1 - vigour),
        "litter": tree * (1 - leafy) * 0.7,
        "grass_lush": cover["grass"] * green * vigour,
        "grass_sparse": cover["grass"] * green * (1 - vigour),
        "crop_lush": growing * vigour,
        "crop_sparse": growing * (1 - vigour),
        "straw": straw,
        "sand": bare * (1 - wet) * land.sand,
        "loam": bare * (1 - wet) * (1 - land.sand),
        "moist_soil": bare * wet,
        "clear_water": cover["water"] * (1 - land.particles - land.algae),
        "turbid_water": cover["water"] * land.particles,
        "green_water": cover["water"] * land.algae,
        "asphalt": cover["asphalt"] * unshaded * (1 - land.wear),
        "worn_asphalt": cover["asphalt"] * unshaded * land.wear,
        "bitumen": cover["bitumen"],
        "tile": cover["tile"],
        "metal": cover["metal"],
        "concrete": cover["concrete"] * unshaded,
    }


def sun_direction(latitude: float, day_of_year: int) -> tuple[float, float, float]:
    """Unit vector to the sun (east, north, up) an hour before local noon; `latitude` in degrees."""
    declination = math.radians(23.45) * math.sin(2 * math.pi * (284 + day_of_year) / 365)
    phi, hour = math.radians(latitude), math.radians(-15)
    east = -math.cos(declination) * math.sin(hour)
    north = math.cos(phi) * math.sin(declination) - math.sin(phi) * math.cos(
        declination
    ) * math.cos(hour)
    up = math.sin(phi) * math.sin(declination) + math.cos(phi) * math.cos(declination) * math.cos(
        hour
    )
    return east, north, up


def illumination(land: Landscape, sun: tuple[float, float, float]) -> np.ndarray:
    """Light on the slope relative to level ground [h, w]; one sixth is diffuse; water is level."""
    east, north, up = sun
    steep = np.sqrt(1 + land.slope_east**2 + land.slope_north**2)
    cos_incidence = (up - east * land.slope_east - north * land.slope_north) / steep
    lit = 1 / 6 + 5 / 6 * np.clip(cos_incidence / up, 0.2, 1.6)
    return np.where(land.fractions["water"] > 0, 1.0, lit)


def covers(seed: int, location: Location, scene: Scene, land: Landscape) -> dict[str, np.ndarray]:
    """`endmember_fractions` of a location in a scene."""
    wetness = stream(seed, SCENE, scene.number, 1).random()
    day = _plant_day(scene, location.region.latitude)
    return endmember_fractions(land, day, scene.time.year, wetness)


def reflectance(
    seed: int, location: Location, scene: Scene, land: Landscape, nm: np.ndarray
) -> np.ndarray:
    """Mixed, lit and blurred reflectance, float32 [c, h, w], at wavelengths `nm` [c]."""
    endmembers = spectra.library(nm, stream(seed, LIBRARY, location.index))
    fractions = covers(seed, location, scene, land)
    sun = sun_direction(location.region.latitude, scene.time.timetuple().tm_yday)
    light = land.gain * illumination(land, sun)
    # Mixing is linear, so blurring the 20 fractions blurs the 202 bands.
    weights = np.stack([fraction * light for fraction in fractions.values()]).astype(np.float32)
    weights = scipy.ndimage.gaussian_filter(
        weights, (0, PSF_SIGMA_PX, PSF_SIGMA_PX), mode="nearest"
    )
    matrix = np.stack([endmembers[name] for name in fractions], axis=1).astype(np.float32)
    return (matrix @ weights.reshape(len(weights), -1)).reshape(len(nm), *land.labels.shape)


def _retrieve(surface: np.ndarray, scene: Scene) -> np.ndarray:
    """Digital numbers of `surface` [c, h, w] after atmospheric correction, with residues of water
    vapour, haze and camera gain.
    """
    nm = scene.wavelengths_nm
    factor = spectra.air_residue(nm, scene.vapour_error, scene.unknown_shift_nm) * np.where(
        _IS_VNIR, 1.0, scene.swir_gain
    )
    offset = spectra.haze(nm, scene.haze_strength, scene.haze_exponent)
    scaled = surface * (factor / ENMAP.scale).astype(np.float32)[:, None, None]
    return scaled + (offset / ENMAP.scale).astype(np.float32)[:, None, None]


def _add_noise(rng: np.random.Generator, pixels: np.ndarray, tilt: float) -> np.ndarray:
    """Digital numbers [c, h, w] with signal-dependent noise and stripes along the orbit."""
    bands, rows, columns = pixels.shape
    floor = (spectra.noise_floor(_NM) / ENMAP.scale).astype(np.float32)[:, None, None]
    # Photon noise equals the floor at a reflectance of 0.15.
    shot = np.sqrt(1 + np.maximum(pixels, 0) / np.float32(1500))
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * shot
    detector = (np.arange(columns) + (tilt * np.arange(rows))[:, None]).astype(int)
    stripes = rng.standard_normal((bands, detector.max() + 1), dtype=np.float32)
    return pixels + floor * (noise + np.float32(0.4) * stripes[:, detector])


def _mark_scene_edge(rng: np.random.Generator, missing: np.ndarray) -> None:
    """Marks a corner beyond the scene's edge in all bands; modifies `missing` [c, h, w]."""
    size = missing.shape[-1]
    u, v = np.mgrid[:size, :size] / size
    corner = rng.uniform(0.1, 0.6) > u + v * rng.uniform(0.4, 1.6)
    missing |= np.rot90(corner, rng.integers(4))


def _mark_dead_pixels(rng: np.random.Generator, missing: np.ndarray) -> None:
    """Marks one to six single pixels in one camera or in both; modifies `missing` [c, h, w]."""
    camera = (_IS_VNIR, ~_IS_VNIR, np.ones(len(_NM), bool))[rng.integers(3)]
    rows, columns = rng.integers(0, missing.shape[-1], (2, rng.integers(1, 7)))
    for row, column in zip(rows, columns, strict=True):
        missing[camera, row, column] = True


def _missing(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    missing = np.zeros(shape, bool)
    if rng.random() < 0.08:
        _mark_scene_edge(rng, missing)
    if rng.random() < 0.06:
        _mark_dead_pixels(rng, missing)
    return missing


def observe(
    seed: int, location: Location, scene: Scene, land: Landscape
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels int16 [c, h, w] and labels uint8 [h, w] of a location in a scene; labels are 0 where
    any band is no-data.
    """
    rng = stream(seed, VIEW, location.index, scene.number)
    surface = reflectance(seed, location, scene, land, scene.wavelengths_nm)
    values = _add_noise(rng, _retrieve(surface, scene), scene.stripe_tilt)
    pixels = np.clip(np.rint(values), -32767, 32767).astype(np.int16)
    missing = _missing(rng, pixels.shape)
    pixels[missing] = ENMAP.nodata
    return pixels, np.where(missing.any(0), 0, land.labels).astype(np.uint8)
