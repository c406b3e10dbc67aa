"""CORINE Land Cover classes: the codes of its maps, and BigEarthNet's 19 groups of them."""

from __future__ import annotations

import numpy as np

# The order of SpectralEarth's 43 classes. CORINE's 44th, 335 (glaciers and perpetual snow), is not
# among them.
CODES = (
    *(111, 112, 121, 122, 123, 124, 131, 132, 133, 141, 142),
    *(211, 212, 213, 221, 222, 223, 231, 241, 242, 243, 244),
    *(311, 312, 313, 321, 322, 323, 324, 331, 332, 333, 334),
    *(411, 412, 421, 422, 423, 511, 512, 521, 522, 523),
)
# BigEarthNet's 19 classes with their codes. Codes in none of them, such as 122 (roads and
# railways), are dropped.
CLASSES_19 = {
    "urban fabric": (111, 112),
    "industrial or commercial units": (121,),
    "arable land": (211, 212, 213),
    "permanent crops": (221, 222, 223, 241),
    "pastures": (231,),
    "complex cultivation patterns": (242,),
    "agriculture with natural vegetation": (243,),
    "agro-forestry areas": (244,),
    "broad-leaved forest": (311,),
    "coniferous forest": (312,),
    "mixed forest": (313,),
    "natural grassland and sparsely vegetated areas": (321, 333),
    "moors, heathland and sclerophyllous vegetation": (322, 323),
    "transitional woodland, shrub": (324,),
    "beaches, dunes, sands": (331,),
    "inland wetlands": (411, 412),
    "coastal wetlands": (421, 422),
    "inland waters": (511, 512),
    "marine waters": (521, 522, 523),
}
GROUPS = {"43": tuple((code,) for code in CODES), "19": tuple(CLASSES_19.values())}


def classes_present(codes: np.ndarray, classes: str) -> np.ndarray:
    """uint8 [19] or [43]: 1 for each class of `classes` ("19" or "43") that occurs in a map of
    CORINE codes [h, w]. Other codes are dropped.
    """
    present = set(np.unique(codes).tolist())
    return np.array([not present.isdisjoint(group) for group in GROUPS[classes]], np.uint8)
