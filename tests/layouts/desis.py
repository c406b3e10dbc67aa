"""Two DESIS L2A products of 6 bands, cut into patches of 8 pixels; one patch has no data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny_archives

OPTIONS = {"patch_size": 8}
HEIGHT, WIDTH = 18, 25
CENTRES = (401.9, 470.6, 551.2, 650.3, 801.4, 999.5)
SCENES = (
    "DESIS-HSI-L2A-DT0667868308_019-20211218T214555-V0220",
    "DESIS-HSI-L2A-DT0667868309_002-20211219T101500-V0220",
)


def write(root: Path) -> None:
    for seed, scene in enumerate(SCENES, 1):
        write_product(root / scene, scene, seed)


def cube(seed: int) -> np.ndarray:
    """int16 [c, h, w]."""
    found = np.random.default_rng(seed).integers(0, 9000, (len(CENTRES), HEIGHT, WIDTH))
    found[:, :8, 16:] = -32768
    return found.astype(np.int16)


def write_product(folder: Path, scene: str = SCENES[0], seed: int = 1, **texts: str) -> None:
    """`texts` are those of `metadata`."""
    tiny_archives.write(folder / f"{scene}-SPECTRAL_IMAGE.tif", cube(seed), nodata=-32768)
    quality = np.random.default_rng(seed).integers(0, 2, (10, HEIGHT, WIDTH), np.uint8)
    tiny_archives.write(folder / f"{scene}-QL_QUALITY-2.tif", quality)
    (folder / f"{scene}-METADATA.xml").write_text(metadata(**texts))


def metadata(gain: str = "0.0001", time: str = "2021-12-18T21:45:55.123Z", shift: float = 0) -> str:
    bands = "".join(
        f"<band><bandNumber>{number}</bandNumber>"
        f"<wavelengthCenterOfBand>{nm + shift}</wavelengthCenterOfBand>"
        "<wavelengthWidthOfBand>2.9</wavelengthWidthOfBand><response>0.1,1,0.1</response>"
        f"<gainOfBand>{gain}</gainOfBand><offsetOfBand>0</offsetOfBand></band>"
        for number, nm in enumerate(CENTRES, 1)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<hsi_doc>'
        f"<base><temporalCoverage><startTime>{time}</startTime></temporalCoverage></base>"
        "<specific><backgroundValue>-32768</backgroundValue>"
        f"<bandCharacterisation>{bands}</bandCharacterisation>"
        "<interiorOrientation><band><bandNumber>1</bandNumber></band></interiorOrientation>"
        "</specific></hsi_doc>\n"
    )
