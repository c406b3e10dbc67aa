"""The readers, one module per archive; the folder is their registry.

`spectral_earth.py` is the reader `spectral-earth`. Modules that begin with an underscore are shared
by the readers of one archive family. No reader imports another.
"""

from __future__ import annotations

import importlib
import pkgutil
import re


def names() -> list[str]:
    """The names of all readers, sorted."""
    return sorted(
        re.sub(r"-v(\d)-(\d)$", r"-v\1.\2", module.name.replace("_", "-"))
        for module in pkgutil.iter_modules(__path__)
        if not module.name.startswith("_")
    )


def reader_class(name: str) -> type:
    """The class of a reader, by name."""
    return importlib.import_module("data_prep.readers." + re.sub("[-.]", "_", name)).Reader
