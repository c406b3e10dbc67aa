"""A folder that is ready to be uploaded to the Hugging Face Hub: weights, config.json, model card,
STAC item, and where torchgeo has the network, a .pth file with the text of its entry there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eo_jax.data.store.files import sha256_file, write_atomically
from eo_jax.exchange.card import model_card
from eo_jax.exchange.contract import to_header
from eo_jax.exchange.figures import figures_of
from eo_jax.exchange.hf_config import model_class, model_config
from eo_jax.exchange.sealing import sealed
from eo_jax.exchange.stac import stac_item
from eo_jax.exchange.tensor import Tensor
from eo_jax.exchange.torch_file import has_torch, write_pth
from eo_jax.exchange.torchgeo_entry import file_stem, torchgeo_model, weights_entry
from eo_jax.exchange.writing import write_model
from eo_jax.models.encoder import Encoder

_WEIGHTS = "model.safetensors"


def publish(
    folder: Path,
    encoder: Encoder,
    tensors: Mapping[str, Tensor],
    contract: Mapping[str, Any],
    lines: Iterable[Mapping[str, Any]],
) -> list[Path]:
    """Writes the folder, and returns its files.

    Args:
        folder: new, or empty.
        contract: of `make_contract`, without checksums.
        lines: of metrics.jsonl.

    Raises ValueError for a folder with files, which might be another model's.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"--publish: {folder} is not empty; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    name, layout = model_name(contract), contract["layout"]
    made_by = model_class(layout, encoder)
    files = write_model(folder / _WEIGHTS, tensors, to_header(sealed(contract, tensors)))
    names = [file.name for file in files]
    loaded = _WEIGHTS if names == [_WEIGHTS] else f"{_WEIGHTS}.index.json"
    parameters = sum(math.prod(x.shape) for x in tensors.values() if x.dtype == "float32")
    size = sum(tensor.nbytes for tensor in tensors.values())
    config = model_config(layout, encoder, contract["image_size"]) if made_by else contract
    figures = figures_of(lines, contract["step"])
    texts = {
        "config.json": _json(config),
        "README.md": model_card(contract, name, made_by, loaded, figures),
        "stac_item.json": _json(stac_item(contract, name, names, parameters, size)),
    }
    if torchgeo_model(contract):
        texts["torchgeo_weights.py.txt"] = weights_entry(contract, _pth(folder, contract, tensors))
    for file, text in texts.items():
        write_atomically(folder / file, text.encode())
    return sorted(folder.iterdir())


def model_name(contract: Mapping[str, Any]) -> str:
    """ "vit_small_dino_sentinel2_l1c" """
    trunk = contract["trunk"]
    variant = trunk.get("size") or trunk.get("depth") or trunk.get("width")
    parts = (trunk["name"], variant, contract["objective"]["name"], contract["sensor"]["id"])
    return "_".join(map(str, parts))


def _pth(folder: Path, contract: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the .pth file, whose name ends with its start; "" where torch is not installed."""
    if not has_torch():
        return ""
    written = folder / f"{file_stem(contract)}.pth"
    write_pth(written, tensors)
    digest = sha256_file(written)
    written.rename(written.with_stem(f"{written.stem}-{digest[:8]}"))
    return digest


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"
