"""Tests of DeCUR's layout with deformable attention: its attention against PyTorch's, and its files
of one encoder and of two.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exchanged import ENCODERS, S2, SIZE, encoder_of, to_ours, to_torch, weighted
from reference import random_weights, relative_error
from safetensors.numpy import save_file

from eo_jax.exchange.contract import make_contract, to_header
from eo_jax.exchange.importing import Source, import_encoder
from eo_jax.exchange.layouts import decur
from eo_jax.exchange.sealing import sealed
from eo_jax.exchange.tensor import Tensor
from eo_jax.models.functional import Network
from eo_jax.models.layers.attention_points import AsInDAT, Centred
from eo_jax.models.layers.deformable_attention import AttentionShape, DeformableAttention
from eo_jax.models.stems import conv
from eo_jax.models.trunks import resnet

torch = pytest.importorskip("torch")
import decur_twin  # noqa: E402  torch may be absent
import torch_twin  # noqa: E402

import eo_jax_torch  # noqa: E402

TABLE = 6
STRIDED = AttentionShape(8, 4, 2, 5, 2, AsInDAT(TABLE))
EVERY_CELL = AttentionShape(8, 4, 2, 3, 1, AsInDAT(TABLE))


# --- the attention


@functools.cache
def network(shape: AttentionShape, dtype: str = "float32") -> Network:
    return Network(lambda rngs: DeformableAttention(shape, jnp.dtype(dtype), rngs=rngs))


def weights_of(shape: AttentionShape) -> dict:
    """All random, with a table whose entries matter."""
    params = random_weights(jax.eval_shape(network(shape).init, jax.random.key(0))[0], 1)
    table = params["position_bias"]["table"]
    table[:] = np.random.default_rng(2).normal(size=table.shape)
    return params


@functools.partial(jax.jit, static_argnames=("shape", "dtype"))
def attend(shape: AttentionShape, params: dict, x, dtype: str = "float32") -> jax.Array:
    return network(shape, dtype).apply(params, {}, lambda module: module(x.astype(dtype)))[0]


def twin_of(shape: AttentionShape, params: dict) -> torch.nn.Module:
    rows = {row.ours.format(stage=3): row for row in decur.attention_rows()}
    flat = {
        "trunk/attention3/" + "/".join(key.key for key in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    weights = {
        rows[path].key.format(stage=3).removeprefix("da1_l3."): rows[path].order.to_torch(leaf)
        for path, leaf in flat.items()
    }
    twin = decur_twin.DeformableAttention(
        shape.channels, shape.heads, shape.groups, shape.kernel, shape.stride, TABLE
    )
    return torch_twin.load(twin, weights)


def images(*size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, *size, 8)).astype(np.float32)


SQUARE, WIDE, TALL = (TABLE, TABLE), (4, 7), (9, 3)  # the first is the size of the table


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        (STRIDED, SQUARE),
        (EVERY_CELL, WIDE),
        pytest.param(STRIDED, TALL, marks=pytest.mark.slow),
        pytest.param(EVERY_CELL, SQUARE, marks=pytest.mark.slow),
    ],
    ids=["strided", "wide", "tall", "every cell"],
)
def test_it_is_dats_attention_on_images_of_any_size(shape, size):
    params, x = weights_of(shape), images(*size)
    expected = torch_twin.features(twin_of(shape, params), x)
    assert relative_error(attend(shape, params, x), expected) < 1e-5


@pytest.mark.slow
def test_its_gradients_are_pytorchs():
    params, x = weights_of(EVERY_CELL), images(6, 5)
    found, of_x = jax.jit(
        jax.grad(lambda params, x: jnp.square(attend(EVERY_CELL, params, x)).sum(), (0, 1))
    )(params, x)
    twin, given = twin_of(EVERY_CELL, params), torch.from_numpy(x).requires_grad_()
    twin(given.movedim(-1, 1)).square().sum().backward()
    theirs = {name: value.grad.numpy() for name, value in twin.named_parameters()}
    assert relative_error(of_x, given.grad.numpy()) < 1e-4
    assert relative_error(found["position_bias"]["table"], theirs["rpe_table"]) < 1e-4
    move = theirs["conv_offset.3.weight"][..., 0, 0].T
    assert relative_error(found["offsets"]["move"]["kernel"], move) < 1e-4
    assert np.abs(move).max() > 1e-3  # through points and bias


def test_it_computes_in_its_type_and_places_its_points_in_float32():
    params, x = weights_of(EVERY_CELL), images(*WIDE)
    found = attend(EVERY_CELL, params, x, "bfloat16")
    assert found.dtype == jnp.bfloat16
    assert relative_error(found.astype(jnp.float32), attend(EVERY_CELL, params, x)) < 0.1
    move = jnp.full((1, 9, 9, 2), 0.001, jnp.bfloat16)
    points = AsInDAT(14).place(move, (256, 256))
    assert points.dtype == jnp.float32
    step = 1 / 8 + float(move[0, 0, 0, 0])  # from the upper left corner, of 2
    np.testing.assert_allclose(points[0, 0], step * 127.5, rtol=1e-5)


def test_points_start_beyond_the_centres_of_their_cells_and_stay_in_the_image():
    still, far = jnp.zeros((1, 4, 3, 2)), jnp.full((1, 4, 3, 2), -50.0)
    at_rest, moved = (
        np.asarray(AsInDAT(TABLE).place(moves, (7, 5))).reshape(4, 3, 2) for moves in (still, far)
    )
    np.testing.assert_allclose(at_rest[:, 0, 0], [1, 3, 5, 6], rtol=1e-6)  # the last is clipped
    np.testing.assert_allclose(at_rest[0, :, 1], [1, 3, 4], rtol=1e-6)
    assert not moved.any()


def test_the_forms_of_the_attention_give_other_features_with_the_same_weights():
    params, x = weights_of(STRIDED), images(*SQUARE)
    centred = dataclasses.replace(STRIDED, points=Centred())
    shared = {name: part for name, part in params.items() if name != "position_bias"}
    unbiased = params | {"position_bias": {"table": params["position_bias"]["table"] * 0}}
    found = [attend(STRIDED, params, x), attend(STRIDED, unbiased, x), attend(centred, shared, x)]
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert relative_error(found[first], found[second]) > 0.01


def test_an_image_with_one_point_along_a_side_is_refused():
    with pytest.raises(ValueError, match=r"'dat': an image of 2 x 4 cells has 1 x 2 points"):
        AsInDAT(14).place(jnp.zeros((1, 1, 2, 2)), (2, 4))


# --- the network


def of_its_scale(shapes: dict) -> dict:
    """Random weights through which 50 layers keep their scale, so that the logits of attention are
    small enough for a bias of 1 to matter.
    """
    rng = np.random.default_rng(4)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.7, 1.3, leaf.shape).astype(np.float32)
        spread = {"kernel": np.prod(leaf.shape[:-1]) ** -0.5, "table": 1.0}.get(name, 0.1)
        return (spread * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "size"), [(18, 96), (50, 224)], ids=str)
def test_a_network_loads_strictly_in_pytorch_gives_its_features_and_comes_back(depth, size):
    """224 is the size of the tables, whose entries matter."""
    encoder = encoder_of(conv.Config(), resnet.Config(depth=depth, attention="dat"), S2)
    shapes = jax.eval_shape(encoder.network.init, jax.random.key(0))
    params, statistics = map(of_its_scale, shapes)
    view = np.random.default_rng(5).normal(size=(2, size, size, 13)).astype(np.float32)
    tensors = to_torch(encoder, params, statistics, size, "decur_rda")
    twin = torch_twin.load(decur_twin.RdaResNet(depth, 13), tensors).eval()
    expected = torch_twin.features(twin, view)
    found = jax.jit(encoder.features)(params, statistics, view, np.ones((2, size, size, 1), bool))
    assert relative_error(found["dense"], expected) < 1e-4
    assert relative_error(found["pooled"], expected.mean((1, 2))) < 1e-4
    state = {key: value.numpy().copy() for key, value in twin.state_dict().items()}
    for stage in (3, 4):
        getattr(twin, f"da1_l{stage}").rpe_table.data.zero_()
    assert relative_error(torch_twin.features(twin, view), expected) > 1e-3
    back = to_ours(encoder, state, size, "decur_rda")
    jax.tree.map(np.testing.assert_array_equal, back, (params, statistics))


# --- files


def rows_of(prefix: str, tensors: dict) -> dict:
    return {f"{prefix}{key}": tensor for key, tensor in tensors.items()}


def branch(tensors: dict) -> dict:
    """A state dict's ResNet alone, under its own names."""
    return {
        key.removeprefix("backbone."): tensor
        for key, tensor in tensors.items()
        if key.startswith("backbone.") and not key.endswith("num_batches_tracked")
    }


def attentions(tensors: dict, name: str) -> dict:
    """Its attentions, as `name` has them: "da1" or "da2"."""
    return {f"{name}{key[3:]}": tensor for key, tensor in tensors.items() if key.startswith("da1_")}


def untrained(tensors: dict) -> dict:
    fresh = dict(tensors)
    for key in fresh:
        if ".1.norm." in key:
            fresh[key] = np.full_like(fresh[key], key.endswith("weight"))
    return fresh


@functools.cache
def exported() -> dict[str, np.ndarray]:
    return to_torch(*weighted("decur_rda"), SIZE, "decur_rda")


def imported(tmp_path, tensors: dict, **fields):
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    return import_encoder(Source(path, **fields), weighted("decur_rda")[0], SIZE)


def same(found, encoder_weights) -> None:
    _, params, statistics = encoder_weights
    jax.tree.map(
        np.testing.assert_array_equal, (found.params, found.statistics), (params, statistics)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["da1", "da2"])
def test_a_file_of_one_encoder_is_read(tmp_path, name):
    """A trained `da2_` is as good as a `da1_`."""
    own = rows_of("backbone.", branch(exported()))
    same(imported(tmp_path, own | attentions(exported(), name)), weighted("decur_rda"))
    with pytest.raises(ValueError, match="never trains da2_"):
        imported(tmp_path, own | attentions(untrained(exported()), "da2"))


def test_a_second_encoder_whose_attention_was_never_trained_is_refused():
    norm = {"weight": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}
    fresh = rows_of("da2_l3.conv_offset.1.norm.", norm)
    with pytest.raises(ValueError, match=r"da2_l3.*never trains.*--prefix=module\.backbone_2\."):
        decur.RDA.unified(encoder_of(*ENCODERS["decur_rda"]), fresh)


@pytest.mark.slow
def test_a_joint_file_has_two_encoders_with_the_attention_that_both_were_trained_with(tmp_path):
    first = {key: tensor + 1 for key, tensor in branch(exported()).items()}
    joint = rows_of("module.backbone_1.", first)
    joint |= rows_of("module.backbone_2.", branch(exported()))
    joint |= rows_of("module.", attentions(exported(), "da1"))
    joint |= rows_of("module.", attentions(untrained(exported()), "da2"))
    joint["module.projector1.0.weight"] = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"several encoders.*backbone_1\.', 'module\.backbone_2"):
        imported(tmp_path, joint)
    found = imported(tmp_path, joint, prefix="module.backbone_2.")
    same(found, weighted("decur_rda"))
    told = "\n".join(found.remarks)
    assert "module.da2_l3.* (14 tensors)" in told and "projector1" in told
    other = imported(tmp_path, joint, prefix="module.backbone_1.")
    kernel = found.params["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(other.params["stem"]["conv"]["kernel"], kernel + 1)
    jax.tree.map(
        np.testing.assert_array_equal,
        other.params["trunk"]["attention3"],
        found.params["trunk"]["attention3"],
    )


@pytest.mark.slow
def test_the_other_form_of_the_attention_is_refused_by_the_contract(tmp_path):
    encoder, path = weighted("decur_rda")[0], tmp_path / "encoder.safetensors"
    fingerprint = {
        "sensor": S2.row(),
        "normalisation": {"mean": [0.0] * 13, "std": [1.0] * 13, "source": "store"},
    } | dict.fromkeys(("store", "content_sha256", "split", "locations", "samples"), "x")
    contract = make_contract(
        "s2", encoder, "decur_rda", SIZE, fingerprint, {"objective": {"name": "decur"}}, 7
    )
    assert contract["architecture"]["attention"] == "dat"
    assert contract["architecture"]["layer_norm_epsilon"] == 1e-5
    tensors = {
        key: Tensor(array.shape, str(array.dtype), lambda array=array: array)
        for key, array in exported().items()
    }
    save_file(exported(), path, to_header(sealed(contract, tensors)))
    eo_jax_torch.load_encoder(path, decur_twin.RdaResNet(18, 13))
    ours = encoder_of(conv.Config(), resnet.Config(depth=18, attention="deformable"), S2)
    with pytest.raises(ValueError, match="attention is dat, the config's encoder has deformable"):
        import_encoder(Source(path), ours, SIZE)
    same(import_encoder(Source(path), encoder, SIZE), weighted("decur_rda"))
