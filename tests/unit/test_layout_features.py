"""Tests of the layouts against published networks: exported weights load strictly and give the same
features, and weights from PyTorch give them here.

SpecViT, SpecResNet, DeCUR's, the pixel encoders, and BatchNorm in training are tested elsewhere,
with their models.
"""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exchanged import (
    ENCODERS,
    LEARNED,
    PLAIN,
    S2,
    SIZE,
    TINY,
    encoder_of,
    to_ours,
    to_torch,
    weighted,
)
from reference import random_weights, relative_error

from eo_jax.exchange.layouts import LAYOUTS
from eo_jax.models.encoder import Encoder
from eo_jax.models.trunks import vit

torch = pytest.importorskip("torch")
import published_twins as twins  # noqa: E402  torch may be absent
import torch_twin  # noqa: E402

BANDS = len(S2.bands)
VIT = (BANDS, 192, 2, 3, 16, 4)  # channels, width, depth, heads, patch, side
TWINS = {
    "timm_vit": lambda: twins.TimmRegisters(*VIT),
    "torchvision_resnet": lambda: torch_twin.ResNet(18, BANDS),
    "segformer": lambda: torch_twin.MixTransformer("b0", BANDS),
    "beit": lambda: twins.Beit(*VIT),
    "timm_beit": lambda: twins.BeitPerBlock(*VIT),
    "hf_vit": lambda: twins.HuggingFaceViT(*VIT),
    "hf_dinov2": lambda: twins.HuggingFaceDinov2Registers(*VIT),
    "hf_data2vec": lambda: twins.HuggingFaceData2Vec(*VIT),
    "hf_segformer": lambda: twins.HuggingFaceSegformer("b0", BANDS, epsilon=1e-6),
}
SLOW = ("torchvision_resnet", "segformer")  # their exports are tested with their models, too
HERE = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in TWINS]
REGISTERS = ("timm_vit", "hf_dinov2")
# Without registers, and so with a position of the class token.
DINOV2 = vit.Config(**TINY, **LEARNED, layer_scale=1e-5, pool="mean")
WITHOUT_REGISTERS = {
    "timm_vit": lambda: twins.TimmScaled(*VIT),
    "hf_dinov2": lambda: twins.HuggingFaceDinov2(*VIT),
}


@pytest.fixture(scope="module")
def view(request) -> np.ndarray:
    """Two real chips of Sentinel-2 [2, 64, 64, 13], normalised; noise where there are none."""
    try:
        folder = request.getfixturevalue("sample_data")
        rasterio = pytest.importorskip("rasterio")
    except pytest.skip.Exception:
        return np.random.default_rng(0).normal(size=(2, SIZE, SIZE, BANDS)).astype(np.float32)
    chips = []
    for path in sorted((folder / "sentinel" / "EuroSAT_MS").rglob("*.tif"))[:2]:
        with rasterio.open(path) as dataset:
            chips.append(dataset.read().transpose(1, 2, 0).astype(np.float32))
    assert len(chips) == 2
    return (np.stack(chips) - np.mean(chips, (0, 1, 2))) / (np.std(chips, (0, 1, 2)) + 1)


@functools.partial(jax.jit, static_argnames="encoder")
def features(encoder: Encoder, params, statistics, view):
    return encoder.features(params, statistics, view, jnp.ones((*view.shape[:3], 1), bool))


def torchs(twin: torch.nn.Module, encoder: Encoder, view: np.ndarray) -> dict[str, np.ndarray]:
    """Features of a PyTorch network, pooled as the encoder's are."""
    with torch.no_grad():
        out = twin.eval()(torch.from_numpy(view).movedim(-1, 1))
    if encoder.kind == "image":
        return {"pooled": out.mean((2, 3)).numpy(), "dense": out.movedim(1, -1).numpy()}
    patches = out[:, 1 + encoder.trunk.registers :]
    pooled = out[:, 0] if encoder.pool == "cls" else patches.mean(1)
    dense = patches.unflatten(1, (SIZE // encoder.patch, -1))
    return {"pooled": pooled.numpy(), "dense": dense.numpy()}


def agree(found: dict, expected: dict) -> None:
    for name, array in expected.items():
        assert relative_error(found[name], array) < 1e-4, name
        assert np.abs(array[0] - array[1]).max() > 0.01 * np.abs(array).max()  # the pixels matter


def fitting(layout: str, exported: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without what the twin lacks, because no feature needs it."""
    return {key: value for key, value in exported.items() if not key.endswith("mask_token")}


def perturbed(twin: torch.nn.Module) -> torch.nn.Module:
    """A PyTorch network with none of its weights at its initial value."""
    draw = torch.Generator().manual_seed(5)
    for name, value in twin.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.7, 1.3, generator=draw)
        elif value.is_floating_point():
            value.add_(0.05 * torch.randn(value.shape, generator=draw))
    return twin


def state(twin: torch.nn.Module) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in twin.state_dict().items()}


def test_every_layout_has_a_twin():
    pixels = {"spectral_cnn", "spectral_mlp", "spectral_transformer"}
    elsewhere = {"spec_vit", "spec_resnet", "decur_rda", *pixels}
    assert TWINS.keys() | elsewhere == LAYOUTS.keys() == ENCODERS.keys()


@pytest.mark.parametrize("layout", HERE)
def test_exported_weights_load_strictly_and_give_the_same_features(layout, view):
    encoder, params, statistics = weighted(layout)
    if layout in REGISTERS:
        params["trunk"]["position_embedding"]["table"][:, 0] = 0.5
    exported = to_torch(encoder, params, statistics, SIZE, layout)
    twin = torch_twin.load(TWINS[layout](), fitting(layout, exported))
    agree(features(encoder, params, statistics, view), torchs(twin, encoder, view))


@pytest.mark.parametrize("layout", HERE)
def test_weights_from_pytorch_give_its_features(layout, view):
    encoder, _, _ = weighted(layout)
    twin = perturbed(TWINS[layout]())
    if layout == "timm_beit":
        for block in twin.blocks:  # ours shares it
            block.attn.relative_position_bias_table = twin.blocks[
                0
            ].attn.relative_position_bias_table
    if layout == "hf_vit":  # its positions are MoCo-v3's there, which are fixed
        exported = to_torch(*weighted(layout), SIZE, layout)
        key = "embeddings.position_embeddings"
        twin.embeddings.position_embeddings.data = torch.from_numpy(exported[key])
    params, statistics = to_ours(encoder, state(twin), SIZE, layout)
    agree(features(encoder, params, statistics, view), torchs(twin, encoder, view))


@pytest.mark.parametrize("layout", WITHOUT_REGISTERS)
def test_dinov2_without_registers_goes_both_ways(layout, view):
    encoder = encoder_of(PLAIN, DINOV2, S2)
    params = random_weights(jax.eval_shape(encoder.network.init, jax.random.key(0))[0], seed=1)
    exported = to_torch(encoder, params, {}, SIZE, layout)
    twin = torch_twin.load(WITHOUT_REGISTERS[layout](), exported)
    agree(features(encoder, params, {}, view), torchs(twin, encoder, view))
    back, _ = to_ours(encoder, state(twin), SIZE, layout)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize("layout", ["timm_vit", "beit", "hf_vit", "hf_dinov2", "hf_data2vec"])
def test_weights_under_other_heads_load_and_are_wrong(layout, view):
    """Why the contract names heads: nothing in a state dict does."""
    encoder, params, statistics = weighted(layout)
    exported = to_torch(encoder, params, statistics, SIZE, layout)
    channels, width, depth, _, patch, side = VIT
    if "relative_position" in "".join(exported):
        with pytest.raises(RuntimeError):  # the table has heads
            load_with_heads(layout, exported, 6)
        return
    twin = type(TWINS[layout]())(channels, width, depth, 6, patch, side)
    torch_twin.load(twin, fitting(layout, exported))
    found, expected = torchs(twin, encoder, view), features(encoder, params, statistics, view)
    assert relative_error(found["dense"], expected["dense"]) > 0.01


def load_with_heads(layout: str, exported: dict[str, np.ndarray], heads: int) -> None:
    channels, width, depth, _, patch, side = VIT
    twin = type(TWINS[layout]())(channels, width, depth, heads, patch, side)
    torch_twin.load(twin, exported)


@pytest.mark.slow
def test_hugging_faces_segformer_has_another_epsilon(view):
    """Where tokens vary little its features differ, unless epsilon is set as the contract says."""
    encoder, params, statistics = weighted("hf_segformer")
    params["stem"]["embed"]["norm"]["scale"] *= 0.01
    params["stem"]["embed"]["norm"]["bias"] *= 0.01
    exported = to_torch(encoder, params, statistics, SIZE, "hf_segformer")
    expected = features(encoder, params, statistics, view)["dense"]

    def error(epsilon: float) -> float:
        twin = twins.HuggingFaceSegformer("b0", BANDS, epsilon)
        return relative_error(
            torchs(torch_twin.load(twin, exported), encoder, view)["dense"], expected
        )

    assert error(1e-6) < 1e-4 < error(1e-5)
    assert "layer.eps = 1e-6" in LAYOUTS["hf_segformer"].constructor(encoder, SIZE)


CONSTRUCTED = [name for name in LAYOUTS if name.startswith(("timm", "torchvision", "beit", "hf"))]


@pytest.mark.parametrize("layout", CONSTRUCTED)
@torch.no_grad()
def test_the_constructor_of_the_contract_makes_the_published_class(layout, view):
    """Where it is installed. The layout's call, run as a user would."""
    library = "transformers" if layout.startswith("hf") else "timm"
    names = {"torch": torch, "re": re, library: pytest.importorskip(library)}
    encoder, params, statistics = weighted(layout)
    exported = to_torch(encoder, params, statistics, SIZE, layout)
    weights = {key: torch.from_numpy(value.copy()) for key, value in exported.items()}
    call = LAYOUTS[layout].constructor(encoder, SIZE)
    if library == "timm":
        model = eval(call, names)
        model.load_state_dict(weights, strict=True)
        out = model.eval().forward_features(torch.from_numpy(view).movedim(-1, 1))
    else:
        call = call if call.startswith("model = ") else f"model = {call}"
        exec(call, names | {"weights": weights}, names)
        model = names["model"]
        assert not [key for key in model.state_dict() if "pooler" in key]
        out = model.eval()(torch.from_numpy(view).movedim(-1, 1)).last_hidden_state
    agree(features(encoder, params, statistics, view), torchs(Given(out), encoder, view))


@torch.no_grad()
def test_timms_call_pools_as_the_encoder_does(view):
    """The mean of normalised tokens, for which timm must not put fc_norm in place of norm."""
    timm = pytest.importorskip("timm")
    encoder = encoder_of(PLAIN, DINOV2, S2)
    params = random_weights(jax.eval_shape(encoder.network.init, jax.random.key(0))[0], seed=1)
    model = eval(LAYOUTS["timm_vit"].constructor(encoder, SIZE), {"timm": timm})
    torch_twin.load(model, to_torch(encoder, params, {}, SIZE, "timm_vit"))
    found = model.eval()(torch.from_numpy(view).movedim(-1, 1)).numpy()
    assert relative_error(found, features(encoder, params, {}, view)["pooled"]) < 1e-4


class Given(torch.nn.Module):
    """Gives what another network gave."""

    def __init__(self, out: torch.Tensor):
        super().__init__()
        self.out = out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out
