"""Class names of BigEarthNet as multi-label vectors.

Version 1 has the 43 CORINE classes; both versions are published with 19 classes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from data_prep.archive import ArchiveError
from data_prep.readers import _corine

# In the order of _corine.CLASSES_19.
NAMES_19 = (
    "Urban fabric",
    "Industrial or commercial units",
    "Arable land",
    "Permanent crops",
    "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub",
    "Beaches, dunes, sands",
    "Inland wetlands",
    "Coastal wetlands",
    "Inland waters",
    "Marine waters",
)
# In the order of _corine.CODES.
NAMES_43 = (
    "Continuous urban fabric",
    "Discontinuous urban fabric",
    "Industrial or commercial units",
    "Road and rail networks and associated land",
    "Port areas",
    "Airports",
    "Mineral extraction sites",
    "Dump sites",
    "Construction sites",
    "Green urban areas",
    "Sport and leisure facilities",
    "Non-irrigated arable land",
    "Permanently irrigated land",
    "Rice fields",
    "Vineyards",
    "Fruit trees and berry plantations",
    "Olive groves",
    "Pastures",
    "Annual crops associated with permanent crops",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland",
    "Moors and heathland",
    "Sclerophyllous vegetation",
    "Transitional woodland/shrub",
    "Beaches, dunes, sands",
    "Bare rock",
    "Sparsely vegetated areas",
    "Burnt areas",
    "Inland marshes",
    "Peatbogs",
    "Salt marshes",
    "Salines",
    "Intertidal flats",
    "Water courses",
    "Water bodies",
    "Coastal lagoons",
    "Estuaries",
    "Sea and ocean",
)
_INDEX_19 = {name: index for index, name in enumerate(NAMES_19)}
_INDEX_43 = {name: index for index, name in enumerate(NAMES_43)}


def indices_19(source: str, names: Iterable[str]) -> tuple[int, ...]:
    """Sorted indices of some of the 19 classes.

    Raises ArchiveError about `source` for an unknown name.
    """
    return _indices(source, names, _INDEX_19)


def multi_hot(indices: Iterable[int], classes: int) -> np.ndarray:
    """uint8 [classes]: 1 at each of the indices."""
    vector = np.zeros(classes, np.uint8)
    vector[list(indices)] = 1
    return vector


def labels_of_43(source: str, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The labels `multilabel` [19] and `multilabel_43` [43] of CORINE class names; classes outside
    the 19 are in the latter only.
    """
    indices = _indices(source, names, _INDEX_43)
    codes = np.array([_corine.CODES[index] for index in indices])
    return {
        "multilabel": _corine.classes_present(codes, "19"),
        "multilabel_43": multi_hot(indices, len(NAMES_43)),
    }


def _indices(source: str, names: Iterable[str], known: dict[str, int]) -> tuple[int, ...]:
    names = list(names)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ArchiveError(
            source,
            f"has the class {str(unknown[0])[:100]!r}, which is not one of BigEarthNet's "
            f"{len(known)}; copy it again",
        )
    return tuple(sorted({known[name] for name in names}))
