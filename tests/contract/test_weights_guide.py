"""The listings of docs/weights.md, Python and commands, run beside exported files."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
import shlex
import sys
import types
from pathlib import Path

import exported_heads
import numpy as np
import published_archives
import pytest
from exported import tiny_encoder, write_export

import data_prep.__main__
from eo_jax import export, import_torch, train
from eo_jax.models.encoder import make_encoder
from eo_jax.models.stems import identity
from eo_jax.models.trunks import spectral_transformer
from eo_jax.sensors import get_sensor

torch = pytest.importorskip("torch")
import torch_twin  # noqa: E402  torch may be absent
from head_twins import MaskedAutoencoder  # noqa: E402

import eo_jax_torch  # noqa: E402

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
PAVIA = dataclasses.replace(
    get_sensor("rosis_pavia_university"), mean=(2500.0,) * 103, std=(900.0,) * 103
)


class TimmTransformer(torch_twin.VisionTransformer):
    """timm's class by the arguments that the constructor in a contract gives."""

    def __init__(self, img_size, patch_size, in_chans, num_classes, embed_dim, depth, num_heads):
        assert num_classes == 0
        super().__init__(in_chans, embed_dim, depth, num_heads, patch_size, img_size)

    forward_features = torch_twin.VisionTransformer.forward


class MaskedAutoencoderViT(MaskedAutoencoder):
    """MAE's class by the arguments of its constructor."""

    def __init__(
        self,
        img_size,
        patch_size,
        in_chans,
        embed_dim,
        depth,
        num_heads,
        decoder_embed_dim,
        decoder_depth,
        decoder_num_heads,
        mlp_ratio,
        norm_layer,
        norm_pix_loss=False,
    ):
        assert mlp_ratio == 4 and norm_layer(8).eps == 1e-6
        decoder = (decoder_embed_dim, decoder_depth, decoder_num_heads)
        super().__init__(in_chans, embed_dim, depth, num_heads, patch_size, img_size, decoder)


def section(title: str) -> str:
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    return found


def listings(title: str) -> str:
    """The Python of a section, as one program."""
    found = re.findall(r"^```python\n(.*?)^```", section(title), re.DOTALL | re.MULTILINE)
    assert found
    return "\n".join(found)


def commands(text: str) -> list[list[str]]:
    """The commands in a text, as the shell would take them apart."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"^    python -m (.*)$", joined, re.MULTILINE)
    assert found
    return [shlex.split(command) for command in found]


@pytest.fixture
def beside_the_files(tmp_path, monkeypatch):
    """In a folder with the files of the guide; twins of what is not installed."""
    write_export(tmp_path / "encoder.safetensors", tiny_encoder())
    trunk = spectral_transformer.Config(depth=1)
    pixels = make_encoder(identity.Config(), trunk, PAVIA, np.dtype("float32"))
    write_export(tmp_path / "pixels.safetensors", pixels, 6)
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("models_mae")  # a file of a repository, of no package
    module.MaskedAutoencoderViT = MaskedAutoencoderViT
    monkeypatch.setitem(sys.modules, module.__name__, module)
    if importlib.util.find_spec("timm"):
        return
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


def run(monkeypatch, main, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [main.__module__, *arguments])
    assert main() == 0


def test_an_encoder_is_used_with_its_head(beside_the_files, tmp_path, monkeypatch):
    """The command of the section, then its Python, then the call in the contract."""
    encoder = exported_heads.run_of("mae", tmp_path)
    monkeypatch.setattr(export, "encoder_of_run", lambda *_: encoder)
    ((module, *arguments),) = commands(section("With the head"))
    assert module == "eo_jax.export"
    run(monkeypatch, export.main, *arguments)
    found: dict = {}
    exec(listings("With the head"), found)
    call = found["contract"]["head"]["constructor"]
    names = {"models_mae": sys.modules["models_mae"], "functools": functools, "torch": torch}
    eo_jax_torch.load_encoder("mae.safetensors", eval(call, names))


def test_every_field_of_the_contract_is_in_the_table(beside_the_files, tmp_path):
    from eo_jax.load import load

    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", TEXT, re.MULTILINE)
    named = {name.strip("`") for row in rows for name in row.split(", ")}
    encoder = exported_heads.run_of("mae", tmp_path)
    found = export.with_head(export.exported_encoder(encoder), encoder)
    exported_heads.write(tmp_path / "mae.safetensors", found)
    assert load("mae.safetensors").contract.keys() <= named


FEW = (
    "--config.data.batch_size=4",
    "--config.data.threads=1",
    '--config.augment.crops["global"].size=32',
    "--config.run.steps=1",
    "--config.optim.warmup_steps=0",
    "--config.optim.lr=1e-6",
)


@pytest.mark.slow
def test_published_weights_are_continued(tmp_path, monkeypatch, request):
    """The commands of the guide, with one step on a tiny archive, from a file with the keys and
    shapes of torchgeo's; then the export of the guide's first line.
    """
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    published_archives.write("eurosat", tmp_path / "archive", request)
    store = ["--input=archive", "--output=stores/eurosat", "--splits=random"]
    assert data_prep.__main__.main(["convert", "eurosat", *store]) == 0
    importing, training = commands(section("Continue from published weights"))
    assert [importing[0], training[0]] == ["eo_jax.import_torch", "eo_jax.train"]
    (file,) = (word.partition("=")[2] for word in importing if word.startswith("--input="))
    published = torch_twin.ResNet(50, 13).state_dict()
    torch.save(published, file)

    run(monkeypatch, import_torch.main, *importing[1:], *FEW)
    at_start = export.encoder_of(Path("runs/eurosat")).tensors
    assert at_start.keys() == published.keys()
    for key, tensor in published.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(at_start[key].make(), tensor.numpy())
    run(monkeypatch, train.main, *training[1:], *FEW, "--evals=knn")
    exporting = re.search(r"^`python -m eo_jax.export (.*?)`", TEXT, re.MULTILINE)[1]
    run(monkeypatch, export.main, *exporting.replace("NAME", "eurosat").split())
    contract, tensors = eo_jax_torch.read("encoder.safetensors")
    assert contract["step"] == 1 and tensors.keys() == published.keys()


def test_torchgeo_has_the_network_of_the_published_file():
    torchgeo = pytest.importorskip("torchgeo.models", reason="needs torchgeo, for its ResNet-50")
    network = torchgeo.resnet50(in_chans=13, num_classes=0)
    network.load_state_dict(torch_twin.ResNet(50, 13).state_dict(), strict=True)
