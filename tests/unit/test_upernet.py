"""UPerNet against a network of the same weights in PyTorch, and what it takes."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from exported import IMAGE, SENSOR, weights_of
from flax import nnx

from eo_jax.evaluation.depths import Depths, blocks_of
from eo_jax.evaluation.floors import ImageStatistics
from eo_jax.evaluation.upernet import UperNetHead, adaptive_mean
from eo_jax.models.encoder import make_encoder
from eo_jax.models.stems import patch_embed
from eo_jax.models.trunks import vit
from eo_jax.trained_encoder import TrainedEncoder

WIDTH, CLASSES, SIDE = 6, 3, 5


class SmallHead(UperNetHead):
    channels = 8


@pytest.fixture(scope="module")
def head() -> SmallHead:
    """With random weights and running statistics, so that BatchNorm does something."""
    random = np.random.default_rng(0)

    def drawn(leaf) -> np.ndarray:
        return random.uniform(-0.5, 0.5, leaf.shape).astype(np.float32)

    made = nnx.eval_shape(lambda: SmallHead(WIDTH, CLASSES, 4, rngs=nnx.Rngs(0)))
    graph, params, statistics, rest = nnx.split(made, nnx.Param, nnx.BatchStat, ...)
    statistics = jax.tree.map(lambda leaf: 1 + drawn(leaf), statistics)
    return nnx.merge(graph, jax.tree.map(drawn, params), statistics, rest)


def test_blocks_are_those_of_the_published_configs():
    assert blocks_of(12) == (3, 5, 7, 11) and blocks_of(24) == (7, 11, 15, 23)
    assert blocks_of(1) == (0, 0, 0, 0)


def test_means_of_parts_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 7, 4, 3)).astype(np.float32)
    for cells in (1, 2, 3, 6):
        expected = torch.nn.functional.adaptive_avg_pool2d(
            torch.from_numpy(x.transpose(0, 3, 1, 2)), cells
        )
        found = np.moveaxis(np.asarray(adaptive_mean(x, cells)), -1, 1)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


def test_the_network_is_that_of_pytorch(head):
    """Written there from the description: pyramid, pooling, lateral and smoothing convolutions."""
    torch = pytest.importorskip("torch")
    nn = torch.nn.functional
    x = np.random.default_rng(1).normal(size=(2, SIDE, SIDE, 4, WIDTH)).astype(np.float32)

    def tensor(array) -> torch.Tensor:
        return torch.from_numpy(np.array(array))

    def norm(layer, y):
        parts = (layer.mean, layer.var, layer.scale, layer.bias)
        return nn.batch_norm(y, *(tensor(part[...]) for part in parts))

    def conv(layer, y):
        kernel = tensor(layer.conv.kernel[...]).permute(3, 2, 0, 1)
        y = nn.conv2d(y, kernel, tensor(layer.conv.bias[...]), padding=kernel.shape[-1] // 2)
        return norm(layer.norm, y).relu()

    def doubled(layer, y):
        # JAX takes the kernel the other way round.
        kernel = tensor(layer.kernel[...]).flip(0, 1).permute(2, 3, 0, 1)
        return nn.conv_transpose2d(y, kernel, tensor(layer.bias[...]), stride=2)

    def to_size(y, size):
        return nn.interpolate(y, size=size, mode="bilinear", align_corners=False)

    first, second, third, last = tensor(x).permute(3, 0, 4, 1, 2)
    pyramid = head.pyramid
    finest = doubled(pyramid.second, nn.gelu(norm(pyramid.norm, doubled(pyramid.first, first))))
    maps = [finest, doubled(pyramid.only, second), third]
    coarse = nn.max_pool2d(last, 2)
    pooled = [
        to_size(conv(pool, nn.adaptive_avg_pool2d(coarse, cells)), coarse.shape[2:])
        for pool, cells in zip(head.pools, (1, 2, 3, 6), strict=True)
    ]
    maps = [conv(lateral, y) for lateral, y in zip(head.laterals, maps, strict=True)]
    maps.append(conv(head.pooled, torch.cat([coarse, *pooled], 1)))
    for i in (2, 1, 0):
        maps[i] = maps[i] + to_size(maps[i + 1], maps[i].shape[2:])
    outputs = [conv(smooth, y) for smooth, y in zip(head.smooth, maps[:3], strict=True)]
    outputs = [to_size(y, maps[0].shape[2:]) for y in (*outputs, maps[3])]
    fused = conv(head.fused, torch.cat(outputs, 1)).permute(0, 2, 3, 1)
    expected = fused @ tensor(head.last.kernel[...]) + tensor(head.last.bias[...])

    found = jax.jit(lambda x: head(x, False))(x)
    assert found.shape == (2, 4 * SIDE, 4 * SIDE, CLASSES)
    np.testing.assert_allclose(np.asarray(found), expected.numpy(), atol=1e-4)


def test_one_cell_and_one_depth_are_enough(head):
    found = jax.eval_shape(lambda x: head(x, False), np.zeros((1, 1, 1, 1, WIDTH), np.float32))
    assert found.shape == (1, 4, 4, CLASSES)


def test_a_transformer_gives_four_blocks_and_a_floor_what_it_has():
    trunk = vit.Config(size="nano", depth=3)
    encoder = make_encoder(patch_embed.Config(patch=8), trunk, SENSOR, np.dtype("float32"))
    mean, std = (np.asarray(x, np.float32) for x in (SENSOR.mean, SENSOR.std))
    trained = TrainedEncoder("s2", encoder, *weights_of(encoder), mean, std, IMAGE)
    pixels = np.random.default_rng(0).uniform(500, 1500, (2, 12, IMAGE, IMAGE)).astype(np.float32)
    valid = np.ones(pixels.shape, bool)
    several = Depths(trained)
    found = several.dense(pixels, valid)
    assert found.shape == (2, 2, 2, 4, encoder.width)
    np.testing.assert_array_equal(found[..., 1, :], found[..., 2, :])  # blocks 0, 1, 1, 2 of 3
    assert np.abs(found[..., 0, :] - found[..., 1, :]).max() > 0.1
    last = found[..., 3, :]
    normalised = (last - last.mean(-1, keepdims=True)) / np.sqrt(last.var(-1, keepdims=True) + 1e-6)
    norm = trained.params["trunk"]["norm"]
    np.testing.assert_allclose(
        normalised * norm["scale"] + norm["bias"], trained.dense(pixels, valid), atol=1e-3
    )
    floor = ImageStatistics(mean, std, 8)
    np.testing.assert_array_equal(
        Depths(floor).dense(pixels, valid)[..., 0, :], floor.dense(pixels, valid)
    )
    assert several.facts != trained.facts
