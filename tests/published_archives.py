"""Small archives in the published layouts, with images as large as the configs crop.

`write(reader, root, request)` writes the archive that a reader's command converts, from real
pixels, cut, rotated and mirrored. Archives whose samples may not be passed on, or were not
available (SSL4EO-L, GeoNRW, SUN RGB-D), have smooth noise.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from eo_jax.sensors import ENMAP
from tests import tiny_archives
from tests.layouts import bigearthnet, eurosat, geonrw, ssl4eo_l, ssl4eo_s12

LOCATIONS = 8  # the number of samples in the small batches
DAYS = ("20200301", "20200604", "20200903", "20201203")


def write(reader: str, root: Path, request: pytest.FixtureRequest) -> None:
    """Writes the archive; skips the test if it needs real samples that are not available."""
    root.mkdir(parents=True)
    if reader in _REAL:
        _REAL[reader](root, request.getfixturevalue("sample_data"))
    else:
        _NOISE[reader](root)


# ------------------------------------------------------------------ real pixels


def _potsdam(root: Path, real: Path) -> None:
    shutil.copytree(real / "enmap" / "potsdam_l2a_tiles" / "images", root / "images")


def _salinas_a(root: Path, real: Path) -> None:
    shutil.copytree(real / "hyperspectral" / "salinas_a", root, dirs_exist_ok=True)


def _spectral_earth(root: Path, real: Path) -> None:
    """The tiles of Potsdam as locations; every other one has a second date, the mirrored first."""
    kept = [number - 1 for number in ENMAP.band_numbers]
    for number, path in enumerate(
        sorted((real / "enmap" / "potsdam_l2a_tiles" / "images").glob("*.tif")), start=1
    ):
        cube = tiny_archives.read(path)[kept].astype(np.int16)
        for scene, view in enumerate((cube, cube[:, :, ::-1])[: 1 + number % 2], start=1):
            tiny_archives.write(root / "enmap" / f"{number:07d}" / f"{scene:05d}.tif", view)


def _ssl4eo_s12(root: Path, real: Path) -> None:
    """Four windows of the real location, mirrored for four more; its two dates, rotated for two
    more.
    """
    for product in ssl4eo_s12.BANDS:
        scenes = sorted(
            path
            for path in (real / "sentinel" / "SSL4EO-S12_real" / product / "0000200").iterdir()
            if path.is_dir()
        )
        for location in range(LOCATIONS):
            for season, day in enumerate(DAYS):
                folder = root / product / f"{location:07d}" / _scene(product, day)
                _write_scene(folder, product, scenes[season % 2], location, turned=season // 2)


def _scene(product: str, day: str) -> str:
    if product == "s1":
        return f"S1A_IW_GRDH_1SDV_{day}T010800_{day}T010825_032904_03CFBA_D457"
    return f"{day}T054639_{day}T054831_T43RCP"


def _write_scene(folder: Path, product: str, scene: Path, location: int, turned: int) -> None:
    size, step = 96, 168  # pixels of 10 m: whole pixels of 60 m
    for band in ssl4eo_s12.BANDS[product]:
        factor = 1 if product == "s1" else ssl4eo_s12.PIXELS.get(band, 2)
        row, column, length = (
            pixels // factor for pixels in (location // 2 % 2 * step, location % 2 * step, size)
        )
        window = tiny_archives.read(scene / f"{band}.tif")[
            :, row : row + length, column : column + length
        ]
        view = np.rot90(window[:, :, :: 1 - 2 * (location // 4)], 2 * turned, (1, 2))
        tiny_archives.write(
            folder / f"{band}.tif", view, crs="EPSG:4326", transform=ssl4eo_s12.transform(factor)
        )


def _bigearthnet(root: Path, real: Path) -> None:
    """The real patch in its eight orientations, as eight patches for training."""
    (patch,) = (
        real / "sentinel" / "BigEarthNet_v2" / "BigEarthNet-S2" / bigearthnet.TILE
    ).iterdir()
    lines = []
    for number in range(LOCATIONS):
        location = f"{number}_{number}"
        name = f"{bigearthnet.TILE}_{location}"
        for band in bigearthnet.S2:
            view = list(_orientations(tiny_archives.read(patch / f"{patch.name}_{band}.tif")))[
                number
            ]
            grid = bigearthnet.grid(bigearthnet.PIXELS.get(band, 2), location)
            tiny_archives.write(
                root / "BigEarthNet-S2" / bigearthnet.TILE / name / f"{name}_{band}.tif",
                view,
                nodata=0,
                **grid,
            )
        lines.append(f'{name},"Arable land",train,Austria,{bigearthnet.SCENE}_33UUP_{location}\n')
    (root / "metadata.csv").write_text("patch_id,labels,split,country,s1_name\n" + "".join(lines))


def _eurosat(root: Path, real: Path) -> None:
    """The two real chips in their eight orientations: six of each for training, one each for
    validation and test.
    """
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for kind in ("AnnualCrop", "SeaLake"):
        (chip,) = (real / "sentinel" / "EuroSAT_MS" / kind).glob("*.tif")
        for number, view in enumerate(_orientations(tiny_archives.read(chip)), start=1):
            name = f"{kind}_{number}"
            tiny_archives.write(root / eurosat.FOLDER / kind / f"{name}.tif", view)
            lists["train" if number < 7 else "val" if number == 7 else "test"].append(
                f"{name}.jpg\n"
            )
    for split, lines in lists.items():
        (root / f"eurosat-{split}.txt").write_text("".join(lines))


def _orientations(image: np.ndarray) -> Iterator[np.ndarray]:
    """The eight orientations of an image [c, h, w]."""
    for mirrored in (image, image[:, :, ::-1]):
        for quarter in range(4):
            yield np.rot90(mirrored, quarter, (1, 2))


# ------------------------------------------------------------------ smooth noise


def _ssl4eo_l(root: Path) -> None:
    for location in range(LOCATIONS):
        for day in DAYS[:2]:
            image = _smooth((7, 264, 264), seed=10 * location + int(day[5]))
            tiny_archives.write(
                ssl4eo_l.path(root, "oli_sr", f"{location:07d}", f"LC08_223084_{day}"),
                image,
                **ssl4eo_l.GRID,
            )


def _geonrw(root: Path) -> None:
    """One city for training, and the three that are held out."""
    sizes = {
        "aachen/287_5623": (500, 1000),
        "duesseldorf/344_5678": (250, 250),
        "herne/371_5710": (250, 250),
        "neuss/339_5674": (250, 250),
    }
    for tile, shape in sizes.items():
        grid = {**geonrw.GRID, "driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
        tiny_archives.write(root / f"{tile}_rgb.jp2", _smooth((3, *shape), seed=0), **grid)
        tiny_archives.write(
            root / f"{tile}_dem.tif", _smooth((1, *shape), seed=1).astype(np.float32), **geonrw.GRID
        )
        tiny_archives.write(
            root / f"{tile}_seg.tif", _smooth((1, *shape), seed=2) // 24, **geonrw.GRID
        )


def _sunrgbd(root: Path) -> None:
    names = [str(number) for number in range(1, LOCATIONS + 1)]
    for folder in ("RGB", "HHA", "Depth", "Label"):
        (root / folder).mkdir()
    (root / "train.txt").write_text("".join(f"{name}\n" for name in names[:-2]))
    (root / "test.txt").write_text("".join(f"{name}\n" for name in names[-2:]))
    for name in names:
        picture = _smooth((8, 72, 96), seed=int(name)).transpose(1, 2, 0)
        Image.fromarray(picture[..., :3]).save(root / "RGB" / f"{name}.jpg")
        Image.fromarray(picture[..., 3:6]).save(root / "HHA" / f"{name}.png")
        Image.fromarray(picture[..., 6].astype(np.uint16) * 200).save(
            root / "Depth" / f"{name}.png"
        )
        Image.fromarray(picture[..., 7] // 7).save(root / "Label" / f"{name}.png")


def _smooth(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """uint8 [c, h, w] of fields a few pixels in size."""
    fields = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), (0, 4, 4))
    return np.clip(128 + 45 * fields / fields.std(), 1, 255).astype(np.uint8)


_REAL = {
    "bigearthnet": _bigearthnet,
    "enmap-tiles": _potsdam,
    "eurosat": _eurosat,
    "hsi-scene": _salinas_a,
    "spectral-earth": _spectral_earth,
    "ssl4eo-s12": _ssl4eo_s12,
}
_NOISE = {"geonrw": _geonrw, "ssl4eo-l": _ssl4eo_l, "sunrgbd": _sunrgbd}
