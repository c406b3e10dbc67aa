"""The files in this folder are the list of readers: `spectral_earth.py` is read as
`spectral-earth`. Names that begin with an underscore are what readers of one archive share.
"""

from __future__ import annotations

import importlib
import pkgutil
import re


def names() -> list[str]:
    """The readers there are."""
    return sorted(
        re.sub(r"-v(\d)-(\d)$", r"-v\1.\2", module.name.replace("_", "-"))
        for module in pkgutil.iter_modules(__path__)
        if not module.name.startswith("_")
    )


def reader_class(name: str) -> type:
    """The class of the reader of that name."""
    return importlib.import_module("data_prep.readers." + re.sub("[-.]", "_", name)).Reader
