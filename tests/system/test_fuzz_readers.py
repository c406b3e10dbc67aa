"""Every reader on archives damaged in many ways: a valid sample or one clear error, never a crash,
a hang or unbounded memory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import no_hang, peak_bytes

from data_prep import readers
from data_prep.archive import ArchiveError
from data_prep.reader import SkipSample
from eo_jax.data.store import record

NAMES = (*readers.names(), *layouts.OTHER_LAYOUTS)
# Products of agencies, of several files or groups each: more to damage.
# Readers of whole products are fuzzed longest; a .SAFE takes seconds each time.
EXAMPLES = {
    "landsat-c2": 600,
    "sentinel2-safe": 40,
    "prisma": 600,
    "emit": 600,
    "desis": 600,
    "geotiff-bands": 600,
}
MOST_BYTES = 1_500_000_000
BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "xxxxxxxxxx"><!ENTITY b '
    b'"&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c SYSTEM "file:///etc/passwd">]><b>&b;&c;</b>'
)

Damage = Callable[[np.random.Generator, Path, list[Path]], None]


def pick(rng: np.random.Generator, files: list[Path]) -> Path:
    return files[rng.integers(len(files))]


def truncate(rng: np.random.Generator, root: Path, files: list[Path]) -> None:
    path = pick(rng, files)
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size + 1)])


def flip_bits(rng: np.random.Generator, root: Path, files: list[Path]) -> None:
    path = pick(rng, files)
    data = bytearray(path.read_bytes())
    for _ in range(rng.integers(1, 9) if data else 0):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


def damage_head(rng: np.random.Generator, root: Path, files: list[Path]) -> None:
    path = pick(rng, files)
    data = bytearray(path.read_bytes())
    for _ in range(4 if data else 0):
        data[rng.integers(min(len(data), 400))] = rng.integers(256)
    path.write_bytes(data)


def random_bytes(rng: np.random.Generator, root: Path, files: list[Path]) -> None:
    pick(rng, files).write_bytes(rng.bytes(rng.integers(2000)))


def delete(rng: np.random.Generator, root: Path, files: list[Path]) -> None:
    pick(rng, files).unlink()


def swap(rng: np.random.Generator, root: Path, files: list[Path]) -> None:
    one, two = pick(rng, files), pick(rng, files)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def copy_beside(rng: np.random.Generator, root: Path, files: list[Path]) -> None:
    path = pick(rng, files)
    shutil.copy(path, path.with_name(f"{path.stem}_copy{path.suffix}"))


def link_outside(rng: np.random.Generator, root: Path, files: list[Path]) -> None:
    path = pick(rng, files)
    path.unlink()
    path.symlink_to(rng.choice(["/etc/passwd", "/dev/zero", "../../../../etc/passwd", path.name]))


def fifo(rng: np.random.Generator, root: Path, files: list[Path]) -> None:
    path = pick(rng, files)
    path.unlink()
    os.mkfifo(path)


def folder_for_file(rng: np.random.Generator, root: Path, files: list[Path]) -> None:
    path = pick(rng, files)
    path.unlink()
    path.mkdir()


def entity_bomb(rng: np.random.Generator, root: Path, files: list[Path]) -> None:
    pick(rng, [path for path in files if path.suffix.lower() == ".xml"] or files).write_bytes(BOMB)


def edit_text(rng: np.random.Generator, root: Path, files: list[Path]) -> None:
    path = pick(
        rng,
        [path for path in files if path.suffix.lower() in (".txt", ".csv", ".json", ".hdr", ".xml")]
        or files,
    )
    lines = path.read_bytes().split(b"\n")
    line = lines[rng.integers(len(lines))]
    new = [
        b"",
        line,
        line + line,
        b"\xff\xfe\x00",
        b"../../etc/passwd",
        b"9" * 400,
        line[::-1],
        b"nan",
        b'{"a": [[[[' * 50,
    ][rng.integers(9)]
    lines.insert(rng.integers(len(lines) + 1), new)
    path.write_bytes(b"\n".join(lines))


def rewrite_tiff(rng: np.random.Generator, root: Path, files: list[Path]) -> None:
    """Another dtype, size, number of bands, CRS or no-data value, or NaN and infinity: a valid
    GeoTIFF that does not belong there.
    """
    tiffs = [path for path in files if path.suffix.lower() in (".tif", ".tiff")]
    if not tiffs:
        return flip_bits(rng, root, files)
    path = pick(rng, tiffs)
    try:
        with rasterio.open(path) as file:
            cube, profile = file.read(), file.profile
    except rasterio.errors.RasterioError:  # damaged before
        return flip_bits(rng, root, files)
    change = rng.integers(6)
    if change == 0:
        cube = cube.astype(rng.choice(["uint8", "int16", "uint16", "int32", "float32", "float64"]))
    elif change == 1:
        cube = cube[:, : max(1, cube.shape[1] // 2)]
    elif change == 2:
        cube = np.concatenate([cube, cube[:1]])
    elif change == 3:
        profile["crs"] = "EPSG:3857"
    elif change == 4:
        profile["nodata"] = 7
    else:
        cube = cube.astype(np.float32)
        cube[..., 0] = rng.choice([np.nan, np.inf, -np.inf])
    count, height, width = cube.shape
    profile = {
        "crs": profile["crs"],
        "transform": profile["transform"],
        "nodata": profile["nodata"],
    }
    with (
        contextlib.suppress(ValueError, rasterio.errors.RasterioError),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=count,
            height=height,
            width=width,
            dtype=cube.dtype.name,
            **profile,
        ) as file,
    ):
        file.write(cube)


DAMAGES: list[Damage] = [
    truncate,
    flip_bits,
    damage_head,
    random_bytes,
    delete,
    swap,
    copy_beside,
    link_outside,
    fifo,
    folder_for_file,
]
DAMAGES += [entity_bomb, edit_text, rewrite_tiff]


def read_or_explain(name: str, root: Path, options: dict) -> None:
    """Reads everything readable: results must be valid Samples, errors one-line ArchiveErrors."""
    try:
        reader = layouts.make_reader(name, root, **options)
        items = reader.items()
    except ArchiveError as error:
        assert "\n" not in str(error)
        return
    assert len({item.id for item in items}) == len(items)
    sensors = {sensor.id: sensor for sensor in reader.sensors}
    for item in items:
        try:
            sample = layouts.read_item(reader, item)
        except SkipSample:
            continue
        except ArchiveError as error:
            assert "\n" not in str(error)
            continue
        assert sample.id == item.id
        assert sample.pixels.ndim == 3
        assert sample.pixels.shape[0] == len(sensors[sample.sensor].bands)
        record.decode(record.encode(sample), sample.id)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict]]:
    """{reader: (its tiny archive, options)}."""
    found = {}
    for name in NAMES:
        root = tmp_path_factory.mktemp(name.replace(".", "-")) / "archive"
        found[name] = (root, layouts.write(name, root))
    return found


@pytest.fixture(scope="module")
def peak_before() -> int:
    """The peak of the tests that ran in this process before."""
    return peak_bytes()


def damaged(original: tuple[Path, dict], name: str, seed: int, damages: list[Damage]) -> None:
    """One case: a reader's archive is copied, damaged and read."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "archive"
        shutil.copytree(original[0], root)
        for damage in damages:
            files = sorted(
                path for path in root.rglob("*") if path.is_file() and not path.is_symlink()
            )
            if files:
                damage(rng, root, files)
        with no_hang():
            read_or_explain(name, root, original[1])


some_damages = st.lists(st.sampled_from(DAMAGES), min_size=1, max_size=3)
cases = given(name=st.sampled_from(NAMES), seed=st.integers(0, 2**32 - 1), damages=some_damages)
quiet = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=70, derandomize=True, **quiet)
@cases
def test_damaged_archives(
    originals: dict, peak_before: int, name: str, seed: int, damages: list[Damage]
) -> None:
    damaged(originals[name], name, seed, damages)
    assert peak_bytes() <= max(peak_before, 4 * MOST_BYTES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_damaged_archives_at_length(originals: dict, name: str) -> None:
    @settings(max_examples=EXAMPLES.get(name, 250), **quiet)
    @given(seed=st.integers(0, 2**32 - 1), damages=some_damages)
    def many(seed: int, damages: list[Damage]) -> None:
        damaged(originals[name], name, seed, damages)

    many()
