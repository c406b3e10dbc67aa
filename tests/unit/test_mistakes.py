"""A hundred single mistakes in an exported file or its contract, drawn at random: whoever reads the
file refuses it, by the name of what is wrong.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from exported import IMAGE, PATCH, SENSOR, exported, tiny_encoder
from safetensors.numpy import save_file

from eo_jax import export
from eo_jax.exchange.importing import Source, import_encoder
from eo_jax.exchange.layouts import LAYOUTS
from eo_jax.exchange.sealing import sealed
from eo_jax.exchange.tensor import Tensor
from eo_jax.exchange.wrappers import WRAPPERS
from eo_jax.load import load

torch = pytest.importorskip("torch")
from torch_twin import VisionTransformer  # noqa: E402  torch may be absent

import eo_jax_torch  # noqa: E402

DRAWS = 4
UNREADABLE = "not (a )?safetensors"


class Content(NamedTuple):
    """What a file is made of; mistakes change it."""

    tensors: dict[str, np.ndarray]
    contract: dict


@functools.cache
def made(size: str) -> Content:
    tensors, contract = exported(tiny_encoder(size), IMAGE)
    return Content({key: tensor.make() for key, tensor in tensors.items()}, contract)


def base(size: str = "nano") -> Content:
    """A correct file, to be changed."""
    return copy.deepcopy(made(size))


def write(content: Content, path: Path) -> None:
    tensors = {key: np.ascontiguousarray(array) for key, array in content.tensors.items()}
    save_file(tensors, path, {"format": "pt", "eo_jax": json.dumps(content.contract)})


def readers(path: Path) -> list[Callable[[], object]]:
    """Everything that reads such a file."""
    network = VisionTransformer(12, 96, 1, 3, PATCH, IMAGE)
    return [
        lambda: load(path),
        lambda: eo_jax_torch.load_encoder(path, network),
        lambda: import_encoder(Source(path), tiny_encoder(), IMAGE),
    ]


# --- mistakes in tensors: each changes the content, and returns the name of what is wrong


def one_of(rng, names) -> str:
    return sorted(names)[rng.integers(len(names))]


def matrix(rng, content: Content) -> str:
    return one_of(rng, [key for key, x in content.tensors.items() if x.ndim == 2])


def missing_key(rng, content):
    key = one_of(rng, content.tensors)
    del content.tensors[key]
    return key


def extra_key(rng, content):
    key = one_of(rng, ["blocks.1.norm1.weight", "head.weight", "reg_token", "mask_token"])
    content.tensors[key] = np.ones((1, 96), np.float32)
    return key


def renamed_key(rng, content):
    key = one_of(rng, content.tensors)
    content.tensors[f"{key}_"] = content.tensors.pop(key)
    return key


def swapped_bands(rng, content):
    key = "patch_embed.proj.weight"
    i, j = rng.choice(12, 2, replace=False)
    content.tensors[key][:, [i, j]] = content.tensors[key][:, [j, i]]
    return key


def swapped_tensors(rng, content):
    field = one_of(rng, ["weight", "bias"])
    keys = [f"blocks.0.norm{n}.{field}" for n in (1, 2)]
    content.tensors.update(zip(keys, [content.tensors[key] for key in keys[::-1]], strict=True))
    return keys[0]


def permuted_qkv(rng, content):
    """q, k and v, or the heads inside of them, in another order."""
    key = one_of(rng, ["blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias"])
    parts = np.split(content.tensors[key], one_of(rng, [3, 9]))
    content.tensors[key] = np.concatenate([*parts[1:], parts[0]])
    return key


def permuted_rows(rng, content):
    key = matrix(rng, content)
    content.tensors[key] = rng.permutation(content.tensors[key])
    return key


def transposed(rng, content):
    key = one_of(rng, ["blocks.0.attn.proj.weight", "blocks.0.mlp.fc1.weight"])
    content.tensors[key] = content.tensors[key].T
    return key


def wrong_shape(rng, content):
    key = matrix(rng, content)
    content.tensors[key] = content.tensors[key][None]
    return key


def wrong_dtype(rng, content):
    key = one_of(rng, content.tensors)
    content.tensors[key] = content.tensors[key].astype(one_of(rng, ["f2", "f8", "i4"]))
    return key


def one_value(rng, content):
    key = one_of(rng, content.tensors)
    content.tensors[key].flat[rng.integers(content.tensors[key].size)] += 1e-3
    return key


def not_finite(rng, content):
    key = one_of(rng, content.tensors)
    content.tensors[key].flat[rng.integers(content.tensors[key].size)] = rng.choice(
        [np.nan, np.inf, -np.inf]
    )
    return key


def weights_of_another_step(rng, content):
    key = matrix(rng, content)
    content.tensors[key] = rng.normal(size=content.tensors[key].shape).astype(np.float32)
    return key


# --- mistakes in the contract


def other_sensor(rng, content):
    content.contract["sensor"]["id"] = one_of(rng, ["sentinel2_l1c", "enmap", "landsat8_oli_sr"])
    return "sensor.id"


def other_units(rng, content):
    field, value = [
        ("scale", 1e-3),
        ("offset", -0.1),
        ("nodata", None),
        ("dtype", "int16"),
        ("units", "radiance"),
    ][rng.integers(5)]
    content.contract["sensor"][field] = value
    return f"sensor.{field}"


def other_columns(rng, content):
    """Names or wavelengths of bands in another order, without the weights."""
    field = one_of(rng, ["name", "centre_nm"])
    column = content.contract["sensor"]["bands"][field]
    i, j = rng.choice(12, 2, replace=False)
    column[i], column[j] = column[j], column[i]
    return f"sensor.bands.{field}"


def other_statistics(rng, content):
    field = one_of(rng, ["mean", "std"])
    column = content.contract[field]
    i, j = rng.choice(12, 2, replace=False)
    column[i], column[j] = column[j], column[i]
    return field


def lying_architecture(rng, content):
    found = content.contract["architecture"]
    field = one_of(rng, [name for name, value in found.items() if type(value) in (int, float)])
    found[field] = found[field] * 2 + 1
    return f"architecture.{field}"


def lying_size(rng, content):
    content.contract["image_size"] = int(rng.choice([8, 32, 64, 224]))
    return "image_size"


def lying_layout(rng, content):
    content.contract["layout"] = one_of(rng, [name for name in LAYOUTS if name != "timm_vit"])
    return "layout"


def lying_pooling(rng, content):
    field = one_of(rng, ["pool", "pooling", "encoder", "step", "constructor"])
    content.contract[field] = "mean"
    return field


def missing_field(rng, content):
    field = one_of(rng, content.contract.keys() - {"seal", "version"})
    del content.contract[field]
    return field


def unknown_field(rng, content):
    content.contract["sensor"]["bands"]["gain"] = [1.0] * 12
    return "sensor.bands.gain"


def other_version(rng, content):
    content.contract["version"] = one_of(rng, ["1", "3", ""])
    return "version"


def lying_seal(rng, content):
    seal = content.contract["seal"]
    part = one_of(rng, seal)
    name = one_of(rng, seal[part])
    seal[part][name] = "00000000"
    return name


def contract_of_another_export(rng, content):
    """All of it is consistent, but not with the tensors."""
    content.contract.clear()
    content.contract.update(base("tiny").contract)
    return r"width|heads|blocks\.0"


IN_CONTENT = (
    missing_key,
    extra_key,
    renamed_key,
    swapped_bands,
    swapped_tensors,
    permuted_qkv,
    permuted_rows,
    transposed,
    wrong_shape,
    wrong_dtype,
    one_value,
    not_finite,
    weights_of_another_step,
    other_sensor,
    other_units,
    other_columns,
    other_statistics,
    lying_architecture,
    lying_size,
    lying_layout,
    lying_pooling,
    missing_field,
    unknown_field,
    other_version,
    lying_seal,
    contract_of_another_export,
)


# --- mistakes in the bytes: each returns other bytes and a pattern for what is wrong


def truncated(rng, data: bytes) -> tuple[bytes, str]:
    return data[: rng.integers(len(data))], UNREADABLE


def padded(rng, data: bytes) -> tuple[bytes, str]:
    return data + bytes(int(rng.integers(1, 100))), UNREADABLE


def flipped_bit(rng, data: bytes) -> tuple[bytes, str]:
    """In a value of the last tensor of the file."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    rows = {name: row["data_offsets"] for name, row in header.items() if name != "__metadata__"}
    name = max(rows, key=lambda name: rows[name][1])
    damaged = bytearray(data)
    damaged[-rng.integers(1, rows[name][1] - rows[name][0])] ^= 1 << rng.integers(8)
    return bytes(damaged), name


def unreadable_contract(rng, data: bytes) -> tuple[bytes, str]:
    return data.replace(b'\\"version\\"', b'\\"version\\\\'), f"JSON|{UNREADABLE}"


IN_BYTES = (truncated, padded, flipped_bit, unreadable_contract)


def refuse(path: Path, name: str) -> None:
    for read in readers(path):
        with pytest.raises(ValueError, match=name):
            read()


def test_a_correct_file_is_read_by_all(tmp_path):
    write(base(), tmp_path / "right.safetensors")
    for read in readers(tmp_path / "right.safetensors"):
        read()


@pytest.mark.parametrize("draw", range(DRAWS))
@pytest.mark.parametrize("mistake", IN_CONTENT)
def test_a_mistake_in_tensors_or_contract_is_refused_by_name(tmp_path, mistake, draw):
    content = base()
    name = mistake(np.random.default_rng(draw), content)
    write(content, tmp_path / "wrong.safetensors")
    refuse(tmp_path / "wrong.safetensors", name)


@pytest.mark.parametrize("draw", range(DRAWS))
@pytest.mark.parametrize("mistake", IN_BYTES)
def test_a_mistake_in_the_bytes_is_refused(tmp_path, mistake, draw):
    path = tmp_path / "wrong.safetensors"
    write(base(), path)
    data, name = mistake(np.random.default_rng(draw), path.read_bytes())
    assert data != path.read_bytes()
    path.write_bytes(data)
    refuse(path, name)


def test_these_are_a_hundred():
    assert DRAWS * len(IN_CONTENT + IN_BYTES) >= 100


# --- files without a mistake, for another encoder than the config's


def test_an_import_refuses_a_config_with_other_heads(tmp_path):
    write(base("tiny"), tmp_path / "tiny.safetensors")
    trunk = dataclasses.replace(tiny_encoder("tiny").trunk, size="small")
    other = dataclasses.replace(tiny_encoder("tiny"), trunk=trunk)
    with pytest.raises(ValueError, match="heads is 3, the config's encoder has 6"):
        import_encoder(Source(tmp_path / "tiny.safetensors"), other, IMAGE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "sentinel2_l1c"}, "the sensor's id is 'sentinel2_l2a', the config's has"),
        ({"offset": -0.1}, "the sensor's offset is 0.0, the config's has -0.1"),
        ({"nodata": None}, "the sensor's nodata is 0, the config's has None"),
        ({"bands": SENSOR.bands[::-1]}, "bands with name B1, .*the config's sensor"),
    ],
)
def test_an_import_refuses_a_config_with_another_sensor(tmp_path, change, message):
    path = tmp_path / "right.safetensors"
    write(base(), path)
    other = dataclasses.replace(tiny_encoder(), sensor=dataclasses.replace(SENSOR, **change))
    with pytest.raises(ValueError, match=f"(?s){message}.*--stem"):
        import_encoder(Source(path), other, IMAGE)
    assert import_encoder(Source(path, stem="by-wavelength"), other, IMAGE).remarks


def test_an_import_refuses_another_layout_than_the_files(tmp_path):
    path = tmp_path / "right.safetensors"
    write(base(), path)
    with pytest.raises(ValueError, match=r"--layout: 'hf_vit'; .* has the layout 'timm_vit'"):
        import_encoder(Source(path, layout="hf_vit"), tiny_encoder(), IMAGE)


def write_pth(path: Path, name: str) -> str:
    """An export with a wrapper; returns its prefix."""
    tensors, contract = exported(tiny_encoder(), IMAGE)
    wrapper = WRAPPERS[name]
    prefixed = {f"{wrapper.prefix}{key}": tensor for key, tensor in tensors.items()}
    export._write_pth(path, prefixed, wrapper, contract)
    return wrapper.prefix


@pytest.mark.parametrize("wrapper", ["none", "moco_v3", "lightning"])
def test_a_pth_file_is_compared_with_the_contract_beside_it(tmp_path, wrapper):
    path = tmp_path / "encoder.pth"
    prefix = write_pth(path, wrapper)
    source = Source(path, allow_pth=True)
    import_encoder(source, tiny_encoder(), IMAGE)
    weights = torch.load(path, weights_only=True)
    inside = weights.get("state_dict", weights)
    inside[f"{prefix}norm.weight"] += 1e-3
    torch.save(weights, path)
    with pytest.raises(ValueError, match=r"values of .*norm\.weight were changed"):
        import_encoder(source, tiny_encoder(), IMAGE)


def test_a_lightning_file_has_what_torchgeos_tasks_take_of_one(tmp_path):
    write_pth(tmp_path / "encoder.ckpt", "lightning")
    checkpoint = torch.load(tmp_path / "encoder.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["model"] == "vit"
    # torchgeo.trainers.utils.extract_backbone, where a model is named
    named = [key for key in checkpoint["state_dict"] if "model." in key]
    weights = {key.replace("model.", ""): checkpoint["state_dict"][key] for key in named}
    VisionTransformer(12, 96, 1, 3, PATCH, IMAGE).load_state_dict(weights, strict=True)


def test_an_export_replaces_an_export_and_no_other_file(tmp_path):
    weights, beside = tmp_path / "encoder.pth", tmp_path / "encoder.json"
    write_pth(weights, "none")
    write_pth(weights, "moco_v3")
    before = weights.read_bytes()
    beside.write_text('{"store": "of a run"}')
    with pytest.raises(ValueError, match=r"encoder\.pth: exists.*--output"):
        write_pth(weights, "none")
    assert weights.read_bytes() == before
    weights.unlink()
    with pytest.raises(ValueError, match=r"encoder\.json: exists.*--output"):
        write_pth(weights, "none")
    assert beside.read_text() == '{"store": "of a run"}' and not weights.exists()


def test_values_that_are_not_finite_are_not_exported():
    tensors = {"norm.weight": Tensor((2,), "float32", lambda: np.array([1, np.nan], np.float32))}
    with pytest.raises(ValueError, match=r"norm\.weight has values that are not finite"):
        sealed({}, tensors)
