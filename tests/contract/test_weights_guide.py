"""The Python listings of docs/weights.md, run one after the other beside exported files."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from exported import tiny_encoder, write_export

from eo_jax.models.encoder import make_encoder
from eo_jax.models.stems import identity
from eo_jax.models.trunks import spectral_transformer
from eo_jax.sensors import get_sensor

torch = pytest.importorskip("torch")
import torch_twin  # noqa: E402  torch may be absent

TEXT = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
PAVIA = dataclasses.replace(
    get_sensor("rosis_pavia_university"), mean=(2500.0,) * 103, std=(900.0,) * 103
)


class TimmTransformer(torch_twin.VisionTransformer):
    """timm's class by the arguments that the constructor in a contract gives."""

    def __init__(self, img_size, patch_size, in_chans, num_classes, embed_dim, depth, num_heads):
        assert num_classes == 0
        super().__init__(in_chans, embed_dim, depth, num_heads, patch_size, img_size)

    forward_features = torch_twin.VisionTransformer.forward


def listings(title: str) -> str:
    """The Python of a section, as one program."""
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    found = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert found
    return "\n".join(found)


@pytest.fixture
def beside_the_files(tmp_path, monkeypatch):
    """In a folder with the files of the guide; a twin where timm is not installed."""
    write_export(tmp_path / "encoder.safetensors", tiny_encoder())
    trunk = spectral_transformer.Config(depth=1)
    pixels = make_encoder(identity.Config(), trunk, PAVIA, np.dtype("float32"))
    write_export(tmp_path / "pixels.safetensors", pixels, 6)
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("timm.models.vision_transformer")
    module.VisionTransformer = TimmTransformer
    for name in ("timm", "timm.models", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)


def test_weights_are_used_in_pytorch(beside_the_files, capsys):
    found: dict = {}
    exec(listings("Use these weights in PyTorch"), found)
    assert found["pooled"].shape == (2, 96) and found["dense"].shape == (2, 4, 96)
    printed = capsys.readouterr().out
    assert "VisionTransformer(img_size=16, patch_size=8, in_chans=12" in printed
    assert "pixels: band 0: B2, expected B1" in printed


def test_weights_are_used_without_pytorch(beside_the_files):
    found: dict = {}
    with pytest.warns(UserWarning, match="taken by name"):
        exec(listings("Use these weights without PyTorch"), found)
    assert found["view"].shape == (2, 12, 16, 16) and found["kernel"].shape == (96, 12, 8, 8)


def test_pixel_encoders_are_used(beside_the_files):
    found: dict = {}
    exec(listings("Pixel encoders"), found)
    assert found["features"].shape == (1, 96, 6, 6)


def test_every_field_of_the_contract_is_in_the_table(beside_the_files):
    from eo_jax.load import load

    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", TEXT, re.MULTILINE)
    named = {name.strip("`") for row in rows for name in row.split(", ")}
    assert load("encoder.safetensors").contract.keys() <= named
