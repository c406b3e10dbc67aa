"""HySpecNet-11k: four patches of two tiles in their folders, with quality layers and both kinds of
split lists.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tiny_archives

from data_prep.readers._enmap_layers import QUALITY

OPTIONS = {"splits": "hard", "masks": ("cloud", "classes")}
TILES = (
    "ENMAP01-____L2A-DT0000004950_20221103T162438Z_001_V010110_20221118T145147Z",
    "ENMAP01-____L2A-DT0000004951_20221104T162438Z_002_V010110_20221118T145147Z",
)
PATCHES = {
    f"{TILES[0]}-Y01460273_X03110438": "train",
    f"{TILES[0]}-Y01460273_X04390566": "train",
    f"{TILES[1]}-Y01460273_X03110438": "val",
    f"{TILES[1]}-Y02740401_X03110438": "test",
}
SIZE = 8
EMPTY = [*range(126, 141), *range(160, 167)]  # 0-based; bands in water vapour


def write(root: Path) -> None:
    for seed, patch in enumerate(PATCHES):
        write_patch(root, patch, seed)
    write_lists(
        root,
        "easy",
        {patch: ("test", "train", "val", "train")[seed] for seed, patch in enumerate(PATCHES)},
    )
    write_lists(root, "hard", PATCHES)


def write_patch(root: Path, patch: str, seed: int) -> None:
    folder = root / "patches" / patch[: -len("-Y01460273_X03110438")] / patch
    cube = tiny_archives.pixels(4 * seed, 224, SIZE)
    cube[EMPTY] = -32768
    tiny_archives.write(folder / f"{patch}-SPECTRAL_IMAGE.TIF", cube, nodata=-32768)
    for number, layer in enumerate(QUALITY.values()):
        values = np.random.default_rng(10 * seed + number).integers(0, 4, (1, SIZE, SIZE), np.uint8)
        tiny_archives.write(folder / f"{patch}-{layer}.TIF", values)


def write_lists(
    root: Path, kind: str, splits: dict[str, str], line: str = "{tile}/{patch}/{patch}-DATA.npy"
) -> None:
    folder = root / "splits" / kind
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val", "test"):
        patches = [patch for patch, found in splits.items() if found == split]
        lines = [
            line.format(tile=patch[: -len("-Y01460273_X03110438")], patch=patch)
            for patch in patches
        ]
        (folder / f"{split}.csv").write_text("".join(f"{text}\n" for text in lines))
