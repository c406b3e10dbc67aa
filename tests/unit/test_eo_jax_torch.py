"""Tests of `eo_jax_torch.py`: which networks and images it takes, and that it can be copied.

tests/unit/test_mistakes.py has mistakes in the file itself.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from exported import IMAGE, PATCH, SENSOR, exported, tiny_encoder, write_export

from eo_jax.exchange import writing
from eo_jax.exchange.contract import to_header
from eo_jax.exchange.sealing import sealed
from eo_jax.load import load

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402  torch may be absent
from torch_twin import SIZES, VisionTransformer  # noqa: E402

import eo_jax_torch  # noqa: E402

ROOT = Path(__file__).parents[2]
NAMES = [band.name for band in SENSOR.bands]
NM = [band.centre_nm for band in SENSOR.bands]


def network(width: int = 96, heads: int = 3, channels: int = 12, depth: int = 1):
    return VisionTransformer(channels, width, depth, heads, PATCH, IMAGE)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("exported") / "s2.safetensors", tiny_encoder())


@pytest.fixture(scope="module")
def prepare(path):
    contract, _ = eo_jax_torch.read(path)
    return eo_jax_torch.Input(contract)


@pytest.fixture
def pixels() -> np.ndarray:
    """Two images [2, 12, 16, 16] of digital numbers, one value of them no data."""
    found = np.random.default_rng(0).integers(1, 4000, (2, 12, IMAGE, IMAGE), np.uint16)
    found[0, 3, 5, 6] = SENSOR.nodata
    return found


@pytest.mark.parametrize(("file", "most"), [("eo_jax_torch.py", 119), ("eo_jax_pixels.py", 149)])
def test_the_file_can_be_copied_alone_and_is_short(file, most):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= most
    nodes = list(ast.walk(ast.parse(text)))
    imported = {
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in imported}
    assert roots <= {"torch", "safetensors", *sys.stdlib_module_names}


def test_a_network_gets_every_weight(path):
    made = network()
    contract = eo_jax_torch.load_encoder(path, made)
    for key, value in load(path).tensors.items():
        np.testing.assert_array_equal(made.state_dict()[key].numpy(), value)
    assert contract["pooling"] == "token 0 of the normalised tokens"


def test_shards_and_keys_with_a_prefix_are_loaded(path, tmp_path, monkeypatch):
    tensors, contract = exported(tiny_encoder(), IMAGE)
    tensors = {f"module.encoder_q.{key}": tensor for key, tensor in tensors.items()}
    monkeypatch.setattr(writing, "_SHARD_BYTES", 200_000)
    writing.write_model(tmp_path / "q.safetensors", tensors, to_header(sealed(contract, tensors)))
    index, made = tmp_path / "q.safetensors.index.json", network()
    eo_jax_torch.load_encoder(index, made)
    for key, value in load(path).tensors.items():
        np.testing.assert_array_equal(made.state_dict()[key].numpy(), value)
    index.write_text(json.dumps({"weight_map": {"w": "../q.safetensors"}}))
    with pytest.raises(ValueError, match=r"'\.\./q\.safetensors'"):
        eo_jax_torch.read(index)


def test_a_tiny_encoder_is_refused_by_a_network_with_six_heads(tmp_path):
    """A state dict does not say its heads: plain strict loading takes it without an error."""
    path = write_export(tmp_path / "tiny.safetensors", tiny_encoder("tiny"))
    width, _, heads = SIZES["tiny"]
    eo_jax_torch.load_encoder(path, network(width, heads))
    other = network(width, 6)
    other.load_state_dict(eo_jax_torch.read(path)[1], strict=True)
    with pytest.raises(ValueError, match=r"num_heads=3.*num_heads is \[6\], not \[3\]"):
        eo_jax_torch.load_encoder(path, other)


def without_heads():
    made = network()
    del made.blocks[0].attn.heads
    return made


def with_other_epsilon():
    made = network()
    made.blocks[0].norm2 = nn.LayerNorm(96)
    return made


def with_overlapping_patches():
    made = network()
    made.patch_embed.proj = nn.Conv2d(12, 96, PATCH, PATCH // 2)
    return made


def with_registers():
    made = network()
    made.reg_token = nn.Parameter(torch.zeros(1, 4, 96))
    return made


NETWORKS = {
    "another width": (lambda: network(192), r"blocks.0.attn.proj.bias: .*192\]\], expected .*96"),
    "more blocks": (lambda: network(depth=2), "blocks.1.* expected nothing"),
    "no blocks": (lambda: network(depth=0), "blocks.0.attn.proj.bias: missing"),
    "other bands": (lambda: network(channels=13), "patch_embed.proj.weight: .*13.*expected .*12"),
    "half precision": (lambda: network().half(), "float16.*expected .*float32"),
    "registers": (with_registers, "reg_token: .* expected nothing"),
    "unknown heads": (without_heads, r"num_heads is \[\], not \[3\]"),
    "other epsilon": (with_other_epsilon, r"epsilon of LayerNorm.*eps=1e-05.* is not \[1e-06\]"),
    "overlapping patches": (with_overlapping_patches, "patches of Conv2d.*overlap"),
}


@pytest.mark.parametrize("named", NETWORKS)
def test_another_network_is_refused_with_the_call_that_makes_the_right_one(path, named):
    make, message = NETWORKS[named]
    with pytest.raises(ValueError, match=message) as refused:
        eo_jax_torch.load_encoder(path, make())
    assert "embed_dim=96, depth=1, num_heads=3" in str(refused.value)


@pytest.mark.parametrize("scale", [None, 1e-4, [1e-4] * 12])
def test_input_is_that_of_load(path, prepare, pixels, scale):
    given = {"sensor": SENSOR.id, "bands": NAMES, "nm": NM, "scale": scale, "nodata": 0}
    found = prepare(torch.from_numpy(pixels), **given)
    assert found.dtype == torch.float32 and found[0, 3, 5, 6] == 0
    np.testing.assert_array_equal(found.numpy(), load(path).normalise(pixels, **given))


REFUSED = {
    "swapped bands": ({"bands": [NAMES[1], NAMES[0], *NAMES[2:]]}, "band 0: B2, expected B1"),
    "a band missing": ({"bands": NAMES[:-1]}, "band 11: missing, expected B12"),
    "a band more": ({"bands": [*NAMES, "B10"]}, "band 12: B10, expected nothing"),
    "other wavelengths": ({"nm": [*NM[:-1], 11000.0]}, "centre_nm of band B12 is 11000.0"),
    "fewer wavelengths": ({"nm": NM[:-1]}, "11 values of centre_nm"),
    "other sensor": ({"sensor": "sentinel2_l1c"}, "sensor sentinel2_l1c, expected sentinel2_l2a"),
    "other scale": ({"scale": 1e-3}, "scale of band B1 is 0.001, expected 0.0001"),
    "scale of a band": ({"scale": [1e-4] * 11 + [1]}, "scale of band B12 is 1"),
    "other offset": ({"offset": -0.1}, "offset of band B1 is -0.1, expected 0"),
    "other no-data": ({"nodata": 65535}, "nodata 65535, expected 0"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_input_that_does_not_fit_is_refused_by_name(prepare, pixels, mistake):
    change, message = REFUSED[mistake]
    with pytest.raises(ValueError, match=message):
        prepare(torch.from_numpy(pixels), **{"sensor": SENSOR.id, "bands": NAMES} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.float() * 1e-4, "type float32, expected uint16"),
        (lambda x: x.int(), "type int32"),
        (lambda x: x[0], "16 bands on axis 1, 12 are named"),
        (lambda x: x.permute(0, 2, 3, 1), "16 bands on axis 1"),
        (lambda x: x[..., :8], r"size \[16, 8\], expected for example \[16, 16\]"),
    ],
)
def test_pixels_that_do_not_fit_are_refused(prepare, pixels, change, message):
    with pytest.raises(ValueError, match=message):
        prepare(change(torch.from_numpy(pixels)), sensor=SENSOR.id, bands=NAMES)
