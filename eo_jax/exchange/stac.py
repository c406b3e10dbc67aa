"""The STAC item of exported weights, by the Machine Learning Model extension 1.5.2 and core 1.1.0
(https://github.com/stac-extensions/mlm).

The item is about the model, not about scenes, so it spans the globe and all times. The extension
has no task for features; similarity search is what encoders do there. It wants bands in the
properties, the core wants them on an asset; both have them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

SCHEMA = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
_TASKS = ["similarity-search"]
_SAFETENSORS = "application/octet-stream; application=safetensors"


def stac_item(
    contract: Mapping[str, Any], name: str, files: Sequence[str], parameters: int, size: int
) -> dict[str, Any]:
    """The item, in plain JSON types.

    Args:
        contract: of the weights.
        name: of the model: "vit_small_dino_sentinel2_l1c".
        files: names of the files of weights, beside the item.
        parameters, size: number of values, and bytes.
    """
    bands = _bands(contract["sensor"])
    world = [[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]
    properties = {
        "title": f"{contract['network']} for {contract['sensor']['title']}",
        "datetime": None,
        "start_datetime": "1900-01-01T00:00:00Z",
        "end_datetime": "9999-12-31T23:59:59Z",
        "bands": bands,
        "mlm:name": _model_name(name),
        "mlm:architecture": contract["network"],
        "mlm:tasks": _TASKS,
        "mlm:framework": "PyTorch",
        "mlm:memory_size": size,
        "mlm:total_parameters": parameters,
        "mlm:pretrained": True,
        "mlm:pretrained_source": f"{contract['data']['store']}, {contract['data']['split']}",
        "mlm:hyperparameters": _hyperparameters(contract),
        "mlm:input": [_input(contract)],
        "mlm:output": _outputs(contract),
    }
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [SCHEMA],
        "id": name,
        "bbox": [-180, -90, 180, 90],
        "geometry": {"type": "Polygon", "coordinates": [world]},
        "properties": properties,
        "links": [],
        "assets": _assets(files, bands),
    }


def _bands(sensor: Mapping[str, Any]) -> list[dict[str, str]]:
    names = sensor["bands"]["name"]
    centres = sensor["bands"].get("centre_nm") or [None] * len(names)
    return [
        {"name": name} | ({} if nm is None else {"description": f"centre wavelength {nm:g} nm"})
        for name, nm in zip(names, centres, strict=True)
    ]


def _model_name(name: str) -> str:
    """Letters, digits, "_", ".", "-" and blanks; a letter first, and a letter or digit last."""
    cleaned = re.sub(r"[^A-Za-z0-9_.\- ]", "-", name).strip("_.- ")
    return cleaned if re.match("[A-Za-z]..", cleaned) else f"model {cleaned or 'encoder'}"


def _hyperparameters(contract: Mapping[str, Any]) -> dict[str, Any]:
    objective = {f"objective.{key}": value for key, value in contract["objective"].items()}
    return {"steps": contract["step"], **objective}


def _input(contract: Mapping[str, Any]) -> dict[str, Any]:
    names, size = contract["sensor"]["bands"]["name"], contract["image_size"]
    pairs = zip(contract["mean"], contract["std"], strict=True)
    return {
        "name": "image",
        "bands": names,
        "input": {
            "shape": [-1, len(names), size, size],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": [{"type": "z-score", "mean": mean, "stddev": std} for mean, std in pairs],
    }


def _outputs(contract: Mapping[str, Any]) -> list[dict[str, Any]]:
    architecture = contract["architecture"]
    width, side = architecture["width"], -(-contract["image_size"] // architecture["patch"])
    maps = ["batch", "channel", "height", "width"]
    return [
        _output("pooled features", [-1, width], maps[:2]),
        _output("dense features", [-1, width, side, side], maps),
    ]


def _output(name: str, shape: list[int], order: list[str]) -> dict[str, Any]:
    result = {"shape": shape, "dim_order": order, "data_type": "float32"}
    return {"name": name, "tasks": _TASKS, "result": result}


def _assets(files: Sequence[str], bands: list[dict[str, str]]) -> dict[str, Any]:
    weights = {
        ("weights" if len(files) == 1 else f"weights-{number}"): {
            "href": file,
            "type": _SAFETENSORS,
            "roles": ["mlm:model", "mlm:weights"],
            "mlm:artifact_type": "safetensors",
            "bands": bands,
        }
        for number, file in enumerate(files, 1)
    }
    card = {"href": "README.md", "type": "text/markdown", "roles": ["metadata"]}
    return {**weights, "card": card}
