"""Two EnMAP L2A products, one of them cloud-optimised, cut into patches of 8 pixels: some cloudy,
some beyond the swath.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny_archives

from data_prep.readers._enmap_layers import QUALITY
from eo_jax.sensors import ENMAP_PRODUCT

OPTIONS = {"patch_size": 8}
SCENES = {
    "ENMAP01-____L2A-DT0000001053_20220611T072305Z_002_V010400_20231221T134421Z": "",
    "ENMAP01-____L2A-DT0000001054_20220711T072309Z_003_V010402_20231221T134421Z": "_COG",
}
HEIGHT, WIDTH = 18, 25


def write(root: Path) -> None:
    for seed, (scene, kind) in enumerate(SCENES.items(), 1):
        write_product(root / scene, scene, seed, kind)


def write_product(folder: Path, scene: str, seed: int = 1, kind: str = "") -> None:
    """The upper left pixel is no-data; pixel (9, 9) and all columns from 16 are cloudy."""
    rng = np.random.default_rng(seed)
    cube = (
        1000 + 10 * np.arange(224)[:, None, None] + rng.integers(0, 50, (224, HEIGHT, WIDTH))
    ).astype(np.int16)
    cube[126:141] = cube[160:167] = -32768
    cube[:, 0, 0] = -32768
    cloud = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    cloud[:, 9, 9] = cloud[:, :, 16:] = 1
    suffix = ".tiff" if kind else ".TIF"
    tiny_archives.write(folder / f"{scene}-SPECTRAL_IMAGE{kind}{suffix}", cube, nodata=-32768)
    for layer in QUALITY.values():
        values = cloud if layer.endswith("CLOUD") else rng.integers(0, 4, cloud.shape, np.uint8)
        tiny_archives.write(folder / f"{scene}-{layer}{kind}{suffix}", values)
    (folder / f"{scene}-METADATA.XML").write_text(metadata())


def metadata(**changes: str) -> str:
    """METADATA.XML; `changes` are {element: text}."""
    texts = {
        "level": "L2A",
        "startTime": "2022-06-11T07:23:05.138Z",
        "backgroundValue": "-32768",
        **changes,
    }
    bands = "".join(
        f'<bandID number="{number}">'
        f"<wavelengthCenterOfBand>{nm + 0.1:.3f}</wavelengthCenterOfBand>"
        f"<FWHMOfBand>{band.fwhm_nm}</FWHMOfBand>"
        "<GainOfBand>0.0001</GainOfBand><OffsetOfBand>0</OffsetOfBand></bandID>"
        for number, (nm, band) in enumerate(
            zip(ENMAP_PRODUCT.centres_nm, ENMAP_PRODUCT.bands, strict=True), 1
        )
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<level_X '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f"<base><level>{texts['level']}</level><temporalCoverage><startTime>{texts['startTime']}</startTime></temporalCoverage></base>"
        f"<specific><backgroundValue>{texts['backgroundValue']}</backgroundValue><deadPixels><bandID>7</bandID></deadPixels>"
        f"<bandCharacterisation>{bands}</bandCharacterisation></specific></level_X>\n"
    )
