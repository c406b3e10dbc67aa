"""L7 Irish: three scenes of two biomes, tiles of 16 pixels with remainders at the edges; the first
tile of a scene is fill.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny_archives

from data_prep.readers._landsat_scenes import CLOUD_CODES

OPTIONS = {"patch_size": 16}
BANDS = 9
SCENES = {
    "austral/p226_r98": ("L71226098_09820011112", "L7_p226_r98_newmask2015", (35, 40)),
    "austral/p231_r93_2": ("L71231093_09320010507", "L7_p231_r93_newmask2015", (32, 33)),
    "boreal/p2_r27": ("L71002027_02720010604", "L7_p2_r27_newmask2015", (16, 32)),
}


def write(root: Path) -> None:
    for folder, (image, mask, shape) in SCENES.items():
        write_scene(root / folder / f"{image}.TIF", root / folder / f"{mask}.TIF", BANDS, shape)


def write_scene(image: Path, mask: Path, bands: int, shape: tuple[int, int]) -> None:
    """An image uint8 [bands, h, w] with distinct bands, and its mask with all codes."""
    rng = np.random.default_rng(shape[0])
    pixels = 20 * np.arange(1, bands + 1)[:, None, None] + rng.integers(0, 20, (bands, *shape))
    cloud = rng.choice(CLOUD_CODES, (1, *shape))
    pixels[:, :16, :16] = cloud[:, :16, :16] = 0
    tiny_archives.write(
        image, pixels.astype(np.uint8), compress="lzw", tiled=True, blockxsize=16, blockysize=16
    )
    tiny_archives.write(mask, cloud.astype(np.uint8), compress="lzw")
