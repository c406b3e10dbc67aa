"""What the scripts of other projects expect around a state dict: a prefix of its keys, and what a
checkpoint has beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Wrapper(NamedTuple):
    """What is around a state dict.

    Attributes:
        prefix: of its keys.
        inside: key of the dict in a .pth file that holds it; "" for none.
        named: whether the .pth file names the network, as hyperparameters of Lightning do.
    """

    prefix: str = ""
    inside: str = ""
    named: bool = False


WRAPPERS = {
    "none": Wrapper(),
    # SSL4EO-S12's linear_BE_moco.py, and MoCo-v2
    "moco_v2": Wrapper("module.encoder_q.", "state_dict"),
    # SSL4EO-S12's linear_BE_moco_v3.py, and MoCo-v3
    "moco_v3": Wrapper("module.base_encoder.", "state_dict"),
    "dino": Wrapper("backbone.", "teacher"),
    "mae": Wrapper("", "model"),
    # torchgeo.trainers.utils.extract_backbone, for the `weights` of its tasks
    "lightning": Wrapper("model.", "state_dict", named=True),
}


def nested(tensors: Mapping[str, Any], wrapper: Wrapper, network: str) -> dict[str, Any]:
    """The content of a .pth file.

    Args:
        network: its name, for wrappers that have one.
    """
    content = {wrapper.inside: dict(tensors)} if wrapper.inside else dict(tensors)
    return content | ({"hyper_parameters": {"model": network}} if wrapper.named else {})
