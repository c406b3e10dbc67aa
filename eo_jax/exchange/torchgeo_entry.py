"""The text of an entry of torchgeo's weights, for a pull request there.

torchgeo makes `timm.create_model(meta["model"], in_chans=meta["in_chans"])` and compares the start
of the file's SHA-256 with the end of its name. What only the publisher knows is in angle brackets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eo_jax.exchange.text import python_list

# Classes of torchgeo 0.10 by size or depth, patch, and whether there is layer scale: a ViT of 224
# pixels without registers, or a ResNet.
_VITS = {
    ("small", 16, False): ("ViTSmall16", "vit_small_patch16_224"),
    ("base", 16, False): ("ViTBase16", "vit_base_patch16_224"),
    ("large", 16, False): ("ViTLarge16", "vit_large_patch16_224"),
    ("huge", 14, False): ("ViTHuge14", "vit_huge_patch14_224"),
    ("small", 14, True): ("ViTSmall14_DINOv2", "vit_small_patch14_dinov2"),
    ("base", 14, True): ("ViTBase14_DINOv2", "vit_base_patch14_dinov2"),
}
_RESNETS = {18: ("ResNet18", "resnet18"), 50: ("ResNet50", "resnet50")}
_VIT_SIZE = 224
# Depths of the sizes; a network cut short is not timm's.
_DEPTHS = {"small": 12, "base": 12, "large": 24, "huge": 32}
_MEMBERS = {"sentinel2": "SENTINEL2_ALL", "sentinel1": "SENTINEL1_GRD"}


def torchgeo_model(contract: Mapping[str, Any]) -> tuple[str, str] | None:
    """(class of torchgeo, model of timm) that loads these weights; None where it has none."""
    trunk, architecture = contract["trunk"], contract["architecture"]
    if contract["layout"] == "torchvision_resnet":
        return _RESNETS.get(trunk["depth"])
    if contract["layout"] != "timm_vit" or trunk["registers"]:
        return None
    if contract["image_size"] != _VIT_SIZE or architecture["depth"] != _DEPTHS.get(trunk["size"]):
        return None
    return _VITS.get((trunk["size"], architecture["patch"], bool(trunk["layer_scale"])))


def member_of(contract: Mapping[str, Any]) -> str:
    """The name of the entry: "SENTINEL2_ALL_DINO"."""
    sensor, bands = contract["sensor"]["id"], contract["sensor"]["bands"]["name"]
    mission = sensor.partition("_")[0]
    known = _MEMBERS.get(mission, sensor.upper())
    if mission == "sentinel2" and len(bands) == 3:
        known = "SENTINEL2_RGB"
    return f"{known}_{contract['objective']['name'].upper()}"


def file_stem(contract: Mapping[str, Any]) -> str:
    """The name of the file without "-<start of its SHA-256>.pth"."""
    _, model = torchgeo_model(contract)
    return f"{model}_{member_of(contract).lower()}"


def weights_entry(contract: Mapping[str, Any], sha256: str) -> str:
    """The text of the entry.

    Args:
        sha256: of the .pth file in hexadecimal digits; "" where it is not written yet.
    """
    builder, model = torchgeo_model(contract)
    family = "resnet" if model.startswith("resnet") else "vit"
    hashed = sha256[:8] or "<first 8 digits of its sha256>"
    bands = [_torchgeo_name(name, contract) for name in contract["sensor"]["bands"]["name"]]
    method = contract["objective"]["name"]
    img_size = f"        'img_size': {contract['image_size']},\n" if "dinov2" in model else ""
    transforms, mean, no_data = (
        f"_{member_of(contract).lower()}_{what}" for what in ("transforms", "mean", "no_data")
    )
    nodata = contract["sensor"]["nodata"]
    return f"""# For torchgeo/models/{family}.py; upload {file_stem(contract)}-{hashed}.pth to the
# repository first, and fill in what is in angle brackets. The input is {contract["input"]}
# Features here are the {contract["pooling"]}.
{mean} = {python_list(contract["mean"], 0)}


def {no_data}(x: Tensor) -> Tensor:
    \"\"\"The mean where there is no data, which Normalize makes 0, as in training.\"\"\"
    if x.ndim < 3 or x.shape[-3] != {len(bands)}:  # not the image of a sample
        return x
    valid = x.isfinite(){"" if nodata is None else f" & (x != {nodata})"}
    return torch.where(valid, x, torch.tensor({mean}, device=x.device)[:, None, None])


{transforms} = nn.Sequential(
    T.CenterCrop({contract["image_size"]}),
    T.Lambda({no_data}, Tensor),
    T.Normalize(
        mean={mean},
        std={python_list(contract["std"], 8)},
    ),
)

# In class {builder}_Weights:
{member_of(contract)} = Weights(
    url='https://hf.co/<repository>/resolve/<commit, 40 digits>/{file_stem(contract)}-{hashed}.pth',
    transforms={transforms},
    meta={{
        'dataset': {contract["data"]["store"]!r},
        'in_chans': {len(bands)},
{img_size}        'model': {model!r},
        'publication': '<URL of the publication>',
        'repo': '<URL of the code>',
        'ssl_method': {method!r},
        'bands': {python_list(bands, 8)},
    }},
)

# In docs/api/weights/<group>.csv, with empty columns for benchmarks that were not run:
# {builder}_Weights.{member_of(contract)},{len(bands)},<link>,<citation>,<licence of the weights>
"""


def _torchgeo_name(name: str, contract: Mapping[str, Any]) -> str:
    """torchgeo has a lower-case a in Sentinel-2's narrow near infrared."""
    return "B8a" if name == "B8A" and contract["sensor"]["id"].startswith("sentinel2") else name
