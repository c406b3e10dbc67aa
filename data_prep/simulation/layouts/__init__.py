"""The archives that are simulated, one module each; the folder is their registry.

`spectral_earth.py` is the archive `spectral-earth`; its docstring shows the layout. A module has

    LEAST: the smallest number of locations
    write_location(output, seed, size, index) -> (patches, bytes) written; finished files are left
    write_lists(output, seed, size, locations): all that is written once, last
    last_location(output) -> the highest number of a location that is there, -1 without any
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def names() -> list[str]:
    """The names of all archives, sorted."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def find(name: str) -> ModuleType:
    """The module of an archive, by name. Raises ValueError."""
    if name not in names():
        raise ValueError(f"--archive {name}: expected one of {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
