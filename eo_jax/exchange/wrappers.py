"""What the scripts of other projects expect around a state dict: a prefix of its keys, and the key
of a checkpoint that holds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Wrapper(NamedTuple):
    """What is around a state dict.

    Attributes:
        prefix: of its keys.
        inside: key of the dict in a .pth file that holds it; "" for none.
    """

    prefix: str = ""
    inside: str = ""


WRAPPERS = {
    "none": Wrapper(),
    # SSL4EO-S12's linear_BE_moco.py, and MoCo-v2
    "moco_v2": Wrapper("module.encoder_q.", "state_dict"),
    # SSL4EO-S12's linear_BE_moco_v3.py, and MoCo-v3
    "moco_v3": Wrapper("module.base_encoder.", "state_dict"),
    "dino": Wrapper("backbone.", "teacher"),
    "mae": Wrapper("", "model"),
    # torchgeo's tasks read a backbone of a Lightning checkpoint so
    "lightning": Wrapper("backbone.", "state_dict"),
}


def nested(tensors: Mapping[str, Any], wrapper: Wrapper) -> dict[str, Any]:
    """The content of a .pth file."""
    return {wrapper.inside: dict(tensors)} if wrapper.inside else dict(tensors)
