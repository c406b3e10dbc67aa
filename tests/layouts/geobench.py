"""GEO-Bench v1: five samples of m-eurosat, with the pickled attribute as published, which names
classes that are not here.
"""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np

from data_prep.readers._geobench_tasks import TASKS

SPLITS = {"train": ["id_0", "id_1", "id_2"], "valid": ["id_3"], "test": ["id_4"]}


class Sentinel2:
    """Stands in for geobench.dataset.Sentinel2."""

    __module__ = "geobench.dataset"

    def __init__(self, name: str):
        self.name, self.wavelength = name, 0.49


def write(root: Path) -> None:
    folder = root / "classification_v1.0" / "m-eurosat"
    names = [name for part in SPLITS.values() for name in part]
    for number, name in enumerate([*names, "id_unlisted"]):
        write_sample(folder / f"{name}.hdf5", bands("m-eurosat", number), number)
    write_lists(folder, SPLITS)


def write_lists(folder: Path, lists: dict[str, list[str]], name: str = "default") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_partition.json").write_text(json.dumps(lists))


def bands(task: str, seed: int, size: int = 16) -> dict[str, np.ndarray]:
    """{name in the file: int16 [h, w]} in the order of the names."""
    names = sorted(set(TASKS[task].names.values()))
    rng = np.random.default_rng(seed)
    return {
        name: (1000 * number + rng.integers(1, 200, (size, size))).astype(np.int16)
        for number, name in enumerate(names)
    }


def write_sample(
    path: Path,
    arrays: dict[str, np.ndarray],
    label: Any = None,
    pickled: bytes | None = None,
) -> None:
    """A file as published; `label` goes into the pickle, as objects of other libraries do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pickled is None:
        pickled = pickle_of({"label": label, **{name: about(name) for name in arrays}})
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        file.attrs["pickle"] = str(pickled)


def about(name: str) -> dict[str, Any]:
    return {"band_info": Sentinel2(name), "date": None, "spatial_resolution": 10, "transform": ()}


def pickle_of(value: Any) -> bytes:
    """The pickle of objects of a module that cannot be imported afterwards."""
    package, module = types.ModuleType("geobench"), types.ModuleType("geobench.dataset")
    module.Sentinel2 = Sentinel2
    with mock.patch.dict(sys.modules, {"geobench": package, "geobench.dataset": module}):
        return pickle.dumps(value, protocol=4)
