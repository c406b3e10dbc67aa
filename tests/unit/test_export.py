"""Tests of `eo_jax.export`: exported weights load strictly into a PyTorch ViT, which then gives the
same tokens; encoders without a layout are refused.

The layouts of ResNet and MiT are tested with their models.
"""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exchanged import to_torch
from reference import random_weights, relative_error, sincos_2d

from eo_jax.exchange.contract import make_contract, to_header
from eo_jax.exchange.layouts import LAYOUTS, layout_name
from eo_jax.models.encoder import Encoder, make_encoder
from eo_jax.models.functional import EVALUATE
from eo_jax.models.stems import (
    conv,
    overlap_patch_embed,
    patch_embed,
    spectral_adapter,
    spectral_adapter_image,
)
from eo_jax.models.trunks import mit, resnet, vit
from eo_jax.sensors import ENMAP, get_sensor

torch = pytest.importorskip("torch")
from torch_twin import SIZES, SpecViT, VisionTransformer, load  # noqa: E402  torch may be absent

TILE, DEPTH = 32, 2
PARAMETERS = {
    "tiny": 5_985_344,
    "small": 22_531_328,
    "base": 87_473_792,
    "large": 305_516_416,
    "huge": 633_672_832,
    "giant": 1_138_043_264,
}


def weighted(patch: int) -> tuple[Encoder, dict, dict]:
    """A small encoder, weights and running statistics, none of them at its initial value."""
    encoder = make_encoder(
        spectral_adapter.Config(patch=patch),
        vit.Config(size="tiny", depth=DEPTH),
        ENMAP,
        jnp.dtype("float32"),
    )
    params, statistics = (
        random_weights(shapes, seed=patch)
        for shapes in jax.eval_shape(encoder.network.init, jax.random.key(0))
    )
    return encoder, params, statistics


def spec_vit(patch: int) -> SpecViT:
    width, _, heads = SIZES["tiny"]
    return SpecViT(width, DEPTH, heads, patch, TILE).eval()


@pytest.fixture(scope="module")
def enmap_pixels(sample_data) -> tuple[np.ndarray, np.ndarray]:
    """Two real tiles over Potsdam, normalised: view [2, 32, 32, 202] and validity [2, 32,
    32, 202].
    """
    rasterio = pytest.importorskip("rasterio")
    paths = sorted((sample_data / "enmap" / "potsdam_l2a_tiles" / "images").glob("*.tif"))[:2]
    if not paths:
        pytest.skip(f"no EnMAP tiles in {sample_data}")
    tiles = []
    for path in paths:
        with rasterio.open(path) as dataset:
            tiles.append(dataset.read(list(ENMAP.band_numbers)))
    pixels = np.stack(tiles).transpose(0, 2, 3, 1)
    return ((pixels - ENMAP.mean) / ENMAP.std).astype(np.float32), pixels != ENMAP.nodata


@pytest.mark.parametrize("patch", [4, 8])
def test_pytorch_gives_the_same_tokens_for_real_pixels(enmap_pixels, patch):
    view, valid = enmap_pixels
    assert valid.all() and view.std() > 0.1
    encoder, params, statistics = weighted(patch)
    apply = jax.jit(
        lambda p, s: encoder.network.apply(
            p, s, lambda m: m.tokens(jnp.asarray(view), jnp.asarray(valid), None, EVALUATE)
        )[0]
    )
    expected = np.asarray(apply(params, statistics))
    twin = load(spec_vit(patch), to_torch(encoder, params, statistics, TILE))
    with torch.no_grad():
        found = twin(torch.from_numpy(view).permute(0, 3, 1, 2)).numpy()
    assert found.shape == (2, 1 + (TILE // patch) ** 2, 192)
    assert relative_error(found, expected) < 1e-5
    assert np.abs(expected[0] - expected[1]).max() > 0.01  # the pixels matter


@pytest.mark.parametrize("patch", [4, 8])
def test_the_state_dict_is_that_of_specvit(patch):
    exported = to_torch(*weighted(patch), TILE)
    expected = {
        name: (tuple(tensor.shape), tensor.numpy().dtype)
        for name, tensor in spec_vit(patch).state_dict().items()
    }
    assert {name: (array.shape, array.dtype) for name, array in exported.items()} == expected
    assert len(exported) == 171 - 12 * (12 - DEPTH)  # SpecViT-S has 171 tensors and 12 blocks
    assert all(np.isfinite(array).all() for array in exported.values())


def test_every_weight_is_exported_and_none_twice():
    encoder, params, statistics = weighted(4)
    exported = to_torch(encoder, params, statistics, TILE)
    ours = [leaf.ravel() for leaf in jax.tree.leaves((params, statistics))]
    theirs = [
        array.ravel()
        for name, array in exported.items()
        if not name.endswith(("pos_embed", "num_batches_tracked"))
    ]
    np.testing.assert_array_equal(np.sort(np.concatenate(theirs)), np.sort(np.concatenate(ours)))


@pytest.mark.parametrize(("patch", "image_size"), [(4, 128), (4, 32), (8, 64)])
def test_positions_are_those_of_the_image_size(patch, image_size):
    positions = to_torch(*weighted(patch), image_size)["vit_core.pos_embed"]
    side = image_size // patch
    assert positions.shape == (1, 1 + side * side, 192)
    assert (positions[0, 0] == 0).all()
    np.testing.assert_allclose(positions[0, 1:], sincos_2d(192, side, side), atol=1e-6)


@pytest.mark.parametrize("break_it", ["missing", "foreign", "reshaped"])
def test_weights_that_do_not_fit_are_refused(break_it):
    encoder, params, statistics = weighted(4)
    trunk = dict(params["trunk"])
    if break_it == "missing":
        del trunk["cls_token"]
    elif break_it == "foreign":
        trunk["register_tokens"] = np.zeros((1, 4, 192), np.float32)
    else:
        trunk["cls_token"] = np.zeros((1, 1, 96), np.float32)
    with pytest.raises(
        ValueError, match="register_tokens" if break_it == "foreign" else "cls_token"
    ):
        to_torch(encoder, {**params, "trunk": trunk}, statistics, TILE)


@pytest.mark.parametrize("size", PARAMETERS)
def test_the_twin_has_the_published_number_of_parameters(size):
    with torch.device("meta"):
        twin = SpecViT(*SIZES[size])
    assert sum(parameter.numel() for parameter in twin.parameters()) == PARAMETERS[size]


@pytest.mark.parametrize("size", PARAMETERS)
def test_the_encoder_has_the_published_number_of_parameters(size):
    encoder = make_encoder(
        spectral_adapter.Config(patch=4), vit.Config(size=size), ENMAP, jnp.dtype("float32")
    )
    params, _ = jax.eval_shape(encoder.network.init, jax.random.key(0))
    positions = 1025 * SIZES[size][0]  # parameters in PyTorch, fixed numbers here
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[size] - positions


# --- other encoders


def made(stem, trunk, sensor=ENMAP) -> Encoder:
    return make_encoder(
        stem, trunk, get_sensor(sensor) if isinstance(sensor, str) else sensor, jnp.dtype("float32")
    )


@pytest.mark.parametrize(
    ("patch", "positions"),
    [(8, "sincos"), (16, "sincos"), (8, "sincos_moco_v3"), (8, "learned")],
)
def test_a_plain_vit_is_timms(patch, positions):
    grid = TILE // patch if positions == "learned" else 0
    encoder = made(
        patch_embed.Config(patch=patch),
        vit.Config(size="tiny", depth=DEPTH, positions=positions, grid=grid),
        "sentinel2_l1c",
    )
    params = random_weights(jax.eval_shape(encoder.network.init, jax.random.key(0))[0], seed=patch)
    view, valid = (
        np.random.default_rng(0).normal(size=(2, TILE, TILE, 13)).astype(np.float32),
        np.ones((2, TILE, TILE, 1), bool),
    )
    exported = to_torch(encoder, params, {}, TILE)
    assert len(exported) == 150 - 12 * (
        12 - DEPTH
    )  # vit_small_patch16_224 has 150 tensors and 12 blocks
    width, _, heads = SIZES["tiny"]
    twin = load(VisionTransformer(13, width, DEPTH, heads, patch, TILE).eval(), exported)
    with torch.no_grad():
        expected = twin(torch.from_numpy(view).permute(0, 3, 1, 2)).numpy()
    found = jax.jit(encoder.features)(params, {}, view, valid)
    assert relative_error(found["pooled"], expected[:, 0]) < 1e-5
    assert relative_error(np.asarray(found["dense"]).reshape(2, -1, width), expected[:, 1:]) < 1e-5


WITHOUT_LAYOUT = {
    "registers": (spectral_adapter.Config(), vit.Config(size="tiny", registers=4)),
    "layer_scale": (spectral_adapter.Config(), vit.Config(size="tiny", layer_scale=1e-4)),
    "relative": (
        spectral_adapter.Config(),
        vit.Config(size="tiny", positions="relative", grid=8),
    ),
    "spectral_adapter_image": (spectral_adapter_image.Config(), resnet.Config(first_block="plain")),
    "conv": (conv.Config(), resnet.Config(first_block="strided")),
}


@pytest.mark.parametrize("named", WITHOUT_LAYOUT)
def test_an_encoder_without_a_layout_is_refused_with_the_list_of_layouts(named):
    encoder = made(*WITHOUT_LAYOUT[named])
    with pytest.raises(ValueError, match=named) as refused:
        to_torch(encoder, {}, {}, TILE)
    assert all(
        name in str(refused.value) and layout.stem in str(refused.value)
        for name, layout in LAYOUTS.items()
    )


CONTRACTS = {
    "spec_vit": (spectral_adapter.Config(), vit.Config(size="tiny"), "token 0"),
    "timm_vit": (
        patch_embed.Config(),
        vit.Config(size="tiny", pool="mean"),
        "without token 0",
    ),
    "spec_resnet": (
        spectral_adapter_image.Config(),
        resnet.Config(first_block="strided"),
        "rows and columns",
    ),
    "torchvision_resnet": (conv.Config(), resnet.Config(depth=18), "rows and columns"),
    "segformer": (overlap_patch_embed.Config(width=32), mit.Config(), "rows and columns"),
}
FINGERPRINT = {
    "sensor": {"title": "EnMAP"},
    "normalisation": {"mean": [1.0], "std": [2.0], "source": "store"},
} | dict.fromkeys(("store", "content_sha256", "split", "locations", "samples"), "x")


@pytest.mark.parametrize("layout", CONTRACTS)
def test_the_contract_names_layout_encoder_and_pooling(layout):
    stem, trunk, pooling = CONTRACTS[layout]
    encoder = made(stem, trunk)
    assert layout_name(encoder) == layout
    contract = make_contract(
        "enmap.teacher", encoder, layout, 128, FINGERPRINT, {"objective": {"name": "dino"}}, 7
    )
    assert contract["layout"] == layout and pooling in contract["pooling"]
    assert contract["encoder"] == "enmap.teacher"
    assert contract["trunk"]["name"] == type(trunk).__module__.split(".")[-1]
    assert json.loads(to_header(contract)["eo_jax"]) == contract
