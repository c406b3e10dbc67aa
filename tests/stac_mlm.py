"""The rules of STAC's Machine Learning Model extension 1.5.2 and of core 1.1.0 for its items, as a
list of mistakes: its schema is not part of this repository.

Written from https://github.com/stac-extensions/mlm (README.md, json-schema/schema.json).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

SCHEMA = "https://stac-extensions.github.io/mlm/v1.5.2/schema.json"
REQUIRED = ("mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output")
OPTIONAL = (
    "mlm:framework",
    "mlm:framework_version",
    "mlm:memory_size",
    "mlm:total_parameters",
    "mlm:batch_size_suggestion",
    "mlm:pretrained",
    "mlm:pretrained_source",
    "mlm:accelerator",
    "mlm:accelerator_constrained",
    "mlm:accelerator_summary",
    "mlm:accelerator_count",
    "mlm:hyperparameters",
)
OF_ASSETS = ("mlm:artifact_type", "mlm:compile_method", "mlm:entrypoint")
TASKS = {
    "regression",
    "classification",
    "scene-classification",
    "detection",
    "object-detection",
    "segmentation",
    "semantic-segmentation",
    "instance-segmentation",
    "panoptic-segmentation",
    "similarity-search",
    "generative",
    "image-captioning",
    "super-resolution",
    "downscaling",
}
ACCELERATORS = {
    "amd64",
    "cuda",
    "xla",
    "amd-rocm",
    "intel-ipex-cpu",
    "intel-ipex-gpu",
    "macos-arm",
    None,
}
SCALINGS = {
    "min-max": ("minimum", "maximum"),
    "z-score": ("mean", "stddev"),
    "clip": ("minimum", "maximum"),
    "clip-min": ("minimum",),
    "clip-max": ("maximum",),
    "offset": ("value",),
    "scale": ("value",),
    "processing": ("format", "expression"),
}


def mistakes(item: dict[str, Any]) -> list[str]:
    """What a validator would refuse; [] for a valid item."""
    checks = (_of_core, _of_properties, _of_inputs, _of_outputs, _of_assets)
    return [mistake for check in checks for mistake in check(item)]


def _of_core(item: dict) -> Iterator[str]:
    for name, expected in (("type", "Feature"), ("stac_version", "1.1.0")):
        if item.get(name) != expected:
            yield f"{name}: {item.get(name)!r}"
    for name in ("id", "geometry", "bbox", "properties", "links", "assets", "stac_extensions"):
        if name not in item:
            yield f"{name} is missing"
    if SCHEMA not in item["stac_extensions"]:
        yield "stac_extensions lacks the schema"
    ring = item["geometry"]["coordinates"][0]
    if ring[0] != ring[-1] or len(ring) < 4:
        yield "geometry is not closed"
    properties = item["properties"]
    span = ("start_datetime", "end_datetime")
    if properties.get("datetime", "") is None and not all(name in properties for name in span):
        yield "datetime is null without a span"
    if "datetime" not in properties:
        yield "datetime is missing"


def _of_properties(item: dict) -> Iterator[str]:
    properties = item["properties"]
    yield from (f"{name} is missing" for name in REQUIRED if name not in properties)
    for name in properties:
        if name.startswith("mlm:") and name not in (*REQUIRED, *OPTIONAL):
            yield f"{name} does not belong here"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.\- ]+[A-Za-z0-9]", properties.get("mlm:name", "")):
        yield f"mlm:name: {properties.get('mlm:name')!r}"
    yield from _of_tasks(properties.get("mlm:tasks", []))
    if not re.fullmatch(r"\d+\.\d+\.\d+.*", properties.get("mlm:framework_version", "0.0.0")):
        yield "mlm:framework_version is not three numbers"
    if properties.get("mlm:accelerator") not in ACCELERATORS:
        yield f"mlm:accelerator: {properties['mlm:accelerator']!r}"
    for name in ("mlm:memory_size", "mlm:total_parameters"):
        if not isinstance(properties.get(name, 0), int) or properties.get(name, 0) < 0:
            yield f"{name} is not a number of things"
    if not isinstance(properties.get("mlm:pretrained", True), bool):
        yield "mlm:pretrained is not true or false"
    values = properties.get("mlm:hyperparameters", {"some": 1})
    if not values or not all(re.fullmatch(r"[A-Za-z0-9_.\-]+", key) for key in values):
        yield "mlm:hyperparameters"


def _of_tasks(tasks: list) -> Iterator[str]:
    if not tasks or len(set(tasks)) != len(tasks):
        yield f"tasks: {tasks}"
    yield from (f"task {task!r}" for task in tasks if task not in TASKS)


def _of_structure(where: str, structure: dict) -> Iterator[str]:
    shape, order = structure.get("shape", []), structure.get("dim_order", [])
    if not shape or not all(type(x) is int and (x == -1 or x > 0) for x in shape):
        yield f"{where}: shape {shape}"
    if len(order) != len(shape) or len(set(order)) != len(order):
        yield f"{where}: dim_order {order}"
    if not all(re.fullmatch(r"[a-z_\-]+", name) for name in order):
        yield f"{where}: dim_order {order}"
    if "data_type" not in structure:
        yield f"{where}: data_type is missing"


def _of_inputs(item: dict) -> Iterator[str]:
    properties = item["properties"]
    declared = {band["name"] for band in properties.get("bands", [])}
    for given in properties.get("mlm:input", []):
        structure, bands = given.get("input", {}), given.get("bands", [])
        if "name" not in given:
            yield "an input without a name"
        yield from _of_structure("input", structure)
        order, shape = structure.get("dim_order", []), structure.get("shape", [])
        if bool(bands) != ("bands" in order):
            yield "dim_order and bands do not agree"
        elif bands and shape[order.index("bands")] != len(bands):
            yield "shape and bands do not agree"
        names = {band if isinstance(band, str) else band["name"] for band in bands}
        if not names <= declared:
            yield f"bands that are not declared: {names - declared}"
        yield from _of_scaling(given.get("value_scaling"), len(bands))


def _of_scaling(scaling: list | None, bands: int) -> Iterator[str]:
    if scaling is None:
        return
    if len(scaling) not in (1, bands):
        yield f"value_scaling: {len(scaling)} entries for {bands} bands"
    for entry in scaling:
        fields = SCALINGS.get(entry.get("type"), ("unknown",))
        numbers = [entry.get(field) for field in fields if entry.get("type") != "processing"]
        scalars = all(type(number) in (int, float) for number in numbers)
        if set(entry) != {"type", *fields} or not scalars:
            yield f"value_scaling: {entry}"


def _of_outputs(item: dict) -> Iterator[str]:
    for given in item["properties"].get("mlm:output", []):
        if "name" not in given:
            yield "an output without a name"
        yield from _of_tasks(given.get("tasks", []))
        yield from _of_structure("output", given.get("result", {}))


def _of_assets(item: dict) -> Iterator[str]:
    models = [x for x in item["assets"].values() if "mlm:model" in x.get("roles", [])]
    if not [x for x in models if x.get("mlm:artifact_type")]:
        yield "no asset with the role mlm:model and mlm:artifact_type"
    for name, asset in item["assets"].items():
        if "href" not in asset:
            yield f"asset {name} without href"
        for field in asset:
            if field.startswith("mlm:") and field not in OF_ASSETS:
                yield f"asset {name}: {field}"
    bands = item["properties"].get("bands")
    if bands and not any(asset.get("bands") == bands for asset in models):
        yield "bands of the properties are on no model asset"
