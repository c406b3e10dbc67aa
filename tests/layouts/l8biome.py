"""L8 Biome: three scenes of two biomes, tiles of 16 pixels with remainders at the edges; the first
tile of a scene is fill.
"""

from __future__ import annotations

from pathlib import Path

from layouts.l7irish import write_scene

OPTIONS = {"patch_size": 16}
BANDS = 11
SCENES = {
    "barren/LC80420082013220LGN00": (35, 40),
    "barren/LC81360302014162LGN00": (32, 33),
    "forest/LC80070662014234LGN00": (16, 32),
}


def write(root: Path) -> None:
    for folder, shape in SCENES.items():
        scene = folder.split("/")[1]
        write_scene(
            root / folder / f"{scene}.TIF", root / folder / f"{scene}_fixedmask.TIF", BANDS, shape
        )
