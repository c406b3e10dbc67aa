"""Simulated EnMAP patches with a map of what is on the ground."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import threadpoolctl

from data_prep.simulation.acquisition import (
    GROUND,
    Location,
    make_location,
    observe,
    stream,
)
from data_prep.simulation.files import write_enmap, write_map
from data_prep.simulation.landscape import make_landscape


def write_scenes(
    root: Path, product: str, codes: Mapping[int, int], seed: int, size: int, index: int
) -> tuple[int, int]:
    """Writes the missing dates of a location; returns their number and the bytes of their images.

    Finished files are left alone.

    Args:
        root: folder with enmap/ and the maps.
        product: folder of the maps.
        codes: {land use: its code in the maps}; 0 is unlabelled.
    """
    location = make_location(seed, index, size)
    folders = root / "enmap" / location.name, root / product / location.name
    targets = [
        (scene, *(folder / f"{scene.name}.tif" for folder in folders)) for scene in location.scenes
    ]
    absent = [target for target in targets if not (target[1].exists() and target[2].exists())]
    if not absent:
        return 0, 0
    land = make_landscape(stream(seed, GROUND, index), size)
    recoded = np.zeros(max(codes) + 1, np.min_scalar_type(max(codes.values())))
    recoded[list(codes)] = list(codes.values())
    for scene, image, label in absent:
        # One core per worker, and sums that do not depend on the number of cores.
        with threadpoolctl.threadpool_limits(1):
            pixels, labels = observe(seed, location, scene, land)
        write_enmap(image, pixels, location, scene)
        write_map(label, recoded[labels], location, nodata=0)
    return len(absent), sum(image.stat().st_size for _, image, _ in absent)


def lines_of(location: Location) -> list[str]:
    """The lines of a location in split lists, one per date."""
    return [f"{location.name}/{scene.name}.tif" for scene in location.scenes]
