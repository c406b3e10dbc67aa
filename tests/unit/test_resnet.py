"""Tests of ResNet and SpecResNet against PyTorch: features, running statistics, sizes,
multiply-adds; and of no-data and recomputation.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counting import multiply_adds
from exchanged import to_torch
from reference import relative_error

from eo_jax import rules
from eo_jax.models.encoder import Encoder, make_encoder
from eo_jax.models.functional import EVALUATE, TRAIN, Mode, Network
from eo_jax.models.layers.conv import valid_cells
from eo_jax.models.stems import conv, spectral_adapter_image
from eo_jax.models.trunks import resnet
from eo_jax.models.trunks.resnet import BlockShape, Convolution, ResNet
from eo_jax.sensors import ENMAP, get_sensor

torch = pytest.importorskip("torch")
import torch_twin  # noqa: E402  torch may be absent

S2 = get_sensor("sentinel2_l1c")
RGB = get_sensor("sunrgbd_rgb")
PLAIN, STRIDED = resnet.Config(depth=50), resnet.Config(depth=50, first_block="strided")


def encoder_of(trunk: resnet.Config, sensor=S2) -> Encoder:
    stem = spectral_adapter_image.Config() if trunk.first_block == "strided" else conv.Config()
    return make_encoder(stem, trunk, sensor, jnp.dtype("float32"))


def drawn(network: Network, seed: int) -> tuple[dict, dict]:
    """(weights, running statistics), none at its initial value, and so that 50 layers keep their
    scale.
    """
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.7, 1.3, leaf.shape).astype(np.float32)
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if name == "kernel" else 0.1
        return spread * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(network.init, jax.random.key(0)))


@functools.cache
def weighted(trunk: resnet.Config, sensor=S2) -> tuple[Encoder, dict, dict]:
    encoder = encoder_of(trunk, sensor)
    return encoder, *drawn(encoder.network, trunk.depth)


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def everywhere(view: np.ndarray) -> np.ndarray:
    return np.ones((*view.shape[:3], 1), bool)


@functools.partial(jax.jit, static_argnames=("encoder", "mode"))
def forward(encoder: Encoder, params, statistics, view, valid, mode: Mode):
    found, statistics = encoder.forward(params, statistics, view, valid, mode)
    return found["dense"], statistics


@functools.cache
def exported(trunk: resnet.Config) -> dict[str, np.ndarray]:
    return to_torch(*weighted(trunk, ENMAP if trunk == STRIDED else S2), 64)


def twin_of(trunk: resnet.Config, sensor=S2):
    """Its weights have shapes alone until `torch_twin.load`."""
    with torch.device("meta"):
        return (
            torch_twin.SpecResNet()
            if trunk.first_block == "strided"
            else torch_twin.ResNet(trunk.depth, len(sensor.bands))
        )


slow = functools.partial(pytest.param, marks=pytest.mark.slow)
CASES = {
    "resnet18 64": slow(resnet.Config(depth=18), (2, 64, 64, 13)),
    "resnet18 96 x 120": slow(resnet.Config(depth=18), (2, 96, 120, 13)),
    "resnet18 odd": (resnet.Config(depth=18), (2, 45, 39, 13)),
    "resnet50": (PLAIN, (2, 64, 64, 13)),
    "spec_resnet50": slow(STRIDED, (2, 36, 32, 202)),
}


@pytest.mark.parametrize(("trunk", "shape"), CASES.values(), ids=CASES)
def test_running_statistics_give_torchs_features(trunk, shape):
    encoder, params, statistics = weighted(trunk, ENMAP if trunk == STRIDED else S2)
    view = images(*shape)
    twin = torch_twin.load(twin_of(trunk), exported(trunk)).eval()
    found, after = forward(encoder, params, statistics, view, everywhere(view), EVALUATE)
    expected = torch_twin.features(twin, view)
    assert relative_error(found, expected) < 1e-4
    assert (
        np.abs(expected[0] - expected[1]).max() > 0.01 * np.abs(expected).max()
    )  # the pixels matter
    jax.tree.map(np.testing.assert_array_equal, after, statistics)


@pytest.mark.parametrize(
    "trunk", [resnet.Config(depth=18), slow(STRIDED)], ids=["resnet18", "spec_resnet50"]
)
def test_running_statistics_move_as_torchs_by_a_batch(trunk):
    """Statistics of the last blocks depend on all earlier blocks, and means average rounding out,
    which in features grows over 50 fresh layers, in PyTorch too.
    """
    encoder, params, statistics = weighted(trunk, ENMAP if trunk == STRIDED else S2)
    view = images(4, 64, 64, 13) if trunk != STRIDED else images(4, 32, 32, 202)
    twin = torch_twin.load(twin_of(trunk), exported(trunk)).train()
    _, after = forward(encoder, params, statistics, view, everywhere(view), TRAIN)
    torch_twin.features(twin, view)
    ours = to_torch(encoder, params, after, 64)
    moved = {
        name: tensor.numpy() for name, tensor in twin.state_dict().items() if "running" in name
    }
    assert len(moved) == 2 * len([name for name in ours if name.endswith("num_batches_tracked")])
    for name, expected in moved.items():
        assert relative_error(ours[name], expected) < 1e-4, name


@pytest.mark.parametrize(
    ("trunk", "tensors"),
    [(resnet.Config(depth=18), 120), (PLAIN, 318), (STRIDED, 333)],
    ids=["18", "50", "spec50"],
)
def test_the_state_dict_is_the_published_one(trunk, tensors):
    expected = {
        name: (tuple(tensor.shape), tensor.dtype)
        for name, tensor in twin_of(trunk).state_dict().items()
    }
    assert {
        name: (array.shape, torch.from_numpy(np.array(array)).dtype)
        for name, array in exported(trunk).items()
    } == expected
    assert len(expected) == tensors


# torchvision's counts less fc; SpectralEarth's.
PARAMETERS = {18: 11_176_512, 34: 21_284_672, 50: 23_508_032, 101: 42_500_160}


@pytest.mark.parametrize("depth", [slow(18), slow(34), 50, slow(101)])
def test_a_resnet_has_the_published_number_of_parameters(depth):
    params, _ = jax.eval_shape(
        encoder_of(resnet.Config(depth=depth), RGB).network.init, jax.random.key(0)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[depth]


def test_spec_resnet_has_the_published_number_of_parameters_and_stride():
    encoder = encoder_of(STRIDED, ENMAP)
    params, _ = jax.eval_shape(encoder.network.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 24_202_624
    assert (encoder.width, encoder.patch) == (2048, 16)


def test_multiply_adds_of_resnet50_are_the_published_number():
    with_classifier = multiply_adds(encoder_of(PLAIN, RGB), 224) + 2048 * 1000
    assert round(with_classifier / 1e9, 2) == 4.09


@pytest.mark.parametrize(
    ("trunk", "size"),
    [slow(resnet.Config(depth=18), 224), (PLAIN, 120), slow(STRIDED, 128), (STRIDED, 72)],
)
def test_multiply_adds_are_what_pytorch_counts(trunk, size):
    sensor = ENMAP if trunk == STRIDED else S2
    twin = twin_of(trunk, sensor).eval()
    assert multiply_adds(encoder_of(trunk, sensor), size) == torch_twin.multiply_adds(
        twin, len(sensor.bands), size, size
    )


# --- no data


@pytest.mark.parametrize(
    ("stride", "height", "width"), [(1, 3, 4), (2, 6, 4), (2, 5, 7), (4, 9, 3)]
)
def test_a_cell_is_valid_if_any_of_its_pixels_is(stride, height, width):
    valid = np.random.default_rng(0).random((2, height, width)) < 0.2
    found = np.asarray(valid_cells(jnp.asarray(valid), stride))
    rows, columns = -(-height // stride), -(-width // stride)
    assert found.shape == (2, rows, columns)
    for b, i, j in np.ndindex(found.shape):
        assert (
            found[b, i, j]
            == valid[b, i * stride : (i + 1) * stride, j * stride : (j + 1) * stride].any()
        )


TINY = [
    [
        BlockShape(13, (Convolution(1, 1, 4), Convolution(3, 1, 4), Convolution(1, 1, 8))),
        BlockShape(8, (Convolution(3, 1, 8), Convolution(3, 1, 8))),
    ],
    [BlockShape(8, (Convolution(3, 2, 12), Convolution(3, 1, 12)))],
]


def tiny(remat: str = "none", dtype: str = "float32") -> Network:
    return Network(lambda rngs: ResNet(TINY, remat, jnp.dtype(dtype), rngs=rngs))


def run(network: Network, view: np.ndarray, valid: np.ndarray, mode: Mode):
    """(output, running statistics after it)"""
    apply = jax.jit(
        lambda params, statistics, x, marks: network.apply(
            params, statistics, lambda module: module(x, marks, mode)
        )
    )
    return apply(*drawn(network, 0), view, valid)


def test_images_without_data_do_not_count_in_running_statistics():
    view, valid = images(4, 9, 8, 13), np.ones((4, 9, 8), bool)
    valid[2:] = False
    _, among_others = run(tiny(), view, valid, TRAIN)
    _, alone = run(tiny(), view[:2], valid[:2], TRAIN)
    _, all_valid = run(tiny(), view, np.ones_like(valid), TRAIN)
    assert max(jax.tree.leaves(jax.tree.map(relative_error, among_others, alone))) < 1e-5
    assert min(jax.tree.leaves(jax.tree.map(relative_error, all_valid, alone))) > 1e-3


def test_the_stem_returns_the_valid_mask_of_its_cells():
    stem = Network(lambda rngs: conv.Config().build(S2, jnp.dtype("float32"), rngs))
    valid = np.zeros((1, 10, 12), bool)
    valid[0, 9, 5] = True
    (image, cells), _ = run(stem, images(1, 10, 12, 13), valid, EVALUATE)
    assert image.shape == (1, 3, 3, 64)
    assert np.argwhere(np.asarray(cells)).tolist() == [[0, 2, 1]]


# --- options


@pytest.mark.parametrize(
    ("trunk", "width", "side"),
    [
        (resnet.Config(depth=18, blocks=(1,)), 64, 9),
        (resnet.Config(depth=18, blocks=(2, 1)), 128, 5),
        (resnet.Config(depth=50, blocks=(1, 1, 1)), 1024, 3),
        (resnet.Config(depth=50, blocks=(1, 1), first_block="strided"), 512, 9),
    ],
)
def test_stages_that_are_left_out_leave_features_larger_and_narrower(trunk, width, side):
    encoder = encoder_of(trunk, ENMAP if trunk.first_block == "strided" else S2)
    shapes = jax.eval_shape(encoder.network.init, jax.random.key(0))
    view = jax.ShapeDtypeStruct((2, 36, 36, len(encoder.sensor.bands)), jnp.float32)
    found, _ = jax.eval_shape(
        lambda *given: encoder.forward(*given, EVALUATE),
        *shapes,
        view,
        jax.ShapeDtypeStruct(view.shape, bool),
    )
    assert found["dense"].shape == (2, side, side, width) and encoder.width == width
    assert side == -(-36 // encoder.patch)
    assert sum("conv1" in path for path, _ in rules.paths(shapes[0]["trunk"])) == sum(trunk.blocks)


def test_the_blocks_of_a_depth_may_be_written_out():
    written = resnet.Config(depth=50, blocks=(3, 4, 6, 3))
    assert written.stages(64) == PLAIN.stages(64)


def test_a_resnet_of_other_blocks_has_no_layout_of_pytorch():
    encoder = encoder_of(resnet.Config(depth=18, blocks=(1, 1)))
    with pytest.raises(ValueError, match=r"blocks=\(\)"):
        to_torch(encoder, *drawn(encoder.network, 0), 64)


def test_recomputation_changes_neither_features_nor_gradients_nor_statistics():
    view, valid = (
        jnp.asarray(images(3, 8, 8, 13)),
        jnp.asarray(np.random.default_rng(1).random((3, 8, 8)) < 0.8),
    )
    params, statistics = jax.tree.map(jnp.asarray, drawn(tiny(), 0))

    def trace(network: Network):
        def loss(params):
            found, moved = network.apply(
                params, statistics, lambda module: module(view, valid, TRAIN)
            )
            return jnp.square(found).mean(), (found, moved)

        return jax.jit(jax.grad(loss, has_aux=True)).trace(params)

    plain, recomputed = trace(tiny("none")), trace(tiny("block"))
    assert (
        "remat" not in str(plain.jaxpr) and str(recomputed.jaxpr).count("remat") >= 3
    )  # one a block
    expected, found = (traced.lower().compile()(params) for traced in (plain, recomputed))
    assert max(jax.tree.leaves(jax.tree.map(relative_error, found, expected))) < 1e-5


def test_it_computes_in_its_type_and_holds_float32():
    view, valid = images(2, 8, 8, 13), np.ones((2, 8, 8), bool)
    found, moved = run(tiny(dtype="bfloat16"), view, valid, TRAIN)
    exact, _ = run(tiny(), view, valid, TRAIN)
    assert found.dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(moved)} == {"float32"}
    assert relative_error(found.astype(jnp.float32), exact) < 0.05


def test_fresh_convolutions_are_kaiming_normal_by_fan_out():
    shape = BlockShape(64, (Convolution(1, 1, 64), Convolution(3, 2, 128)))
    network = Network(lambda rngs: resnet.ResidualBlock(shape, jnp.dtype("float32"), rngs=rngs))
    params, statistics = jax.jit(network.init)(jax.random.key(0))
    kernel = np.asarray(params["conv2"]["kernel"])
    assert abs(kernel.std() / np.sqrt(2 / (9 * 128)) - 1) < 0.02
    assert abs(kernel.mean()) < 0.001
    assert (np.asarray(params["norm2"]["scale"]) == 1).all() and (
        np.asarray(statistics["norm2"]["var"]) == 1
    ).all()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"depth": 20}, "depth"),
        ({"first_block": "stride"}, "first_block"),
        ({"depth": 18, "first_block": "strided"}, "first_block"),
        ({"remat": "all"}, "remat"),
        ({"blocks": (1, 0)}, "blocks"),
        ({"blocks": (1, 1, 1, 1, 1)}, "blocks"),
        ({"blocks": (3, 4, 6), "attention": "deformable"}, "blocks"),
    ],
)
def test_a_wrong_option_is_refused_by_name(fields, named):
    with pytest.raises(ValueError, match=rf"config\.model\.trunk\.{named}"):
        resnet.Config(**fields)


def test_a_sensor_with_too_few_bands_for_the_adapter_is_refused():
    sensor = dataclasses.replace(
        ENMAP, id="narrow", title="A narrow sensor", bands=ENMAP.bands[:74]
    )
    with pytest.raises(ValueError, match=r"(?s)(?=.*\b74\b)(?=.*\b75\b)(?=.*narrow)"):
        make_encoder(spectral_adapter_image.Config(), STRIDED, sensor, jnp.dtype("float32"))
