"""Weights of a SpecViT encoder in SpectralEarth's PyTorch key layout (recipes of SpecViT, arXiv 2408.08447; timm's VisionTransformer inside).

One table: for each tensor of ours, its PyTorch key and how its axes are turned. A weight without a row, or a row without a weight, is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import jax
import numpy as np

from eo_jax import rules
from eo_jax.models.encoder import Encoder
from eo_jax.models.positions import sincos_2d
from eo_jax.schema import Carry, Params


def _as_is(x: np.ndarray) -> np.ndarray:
    return x


def _transpose(x: np.ndarray) -> np.ndarray:
    return x.T  # [in, out] -> [out, in]


def _conv3d(x: np.ndarray) -> np.ndarray:
    return x.transpose(2, 1, 0)[..., None, None]  # [tap, in, out] -> [out, in, tap, 1, 1]


def _fuse_qkv(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).T  # [d, 3, heads, head_dim] -> [3 d, d], q then k then v, as timm


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1)


def _conv2d(patch: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: x.reshape(patch, patch, -1, x.shape[-1]).transpose(3, 2, 0, 1)  # [py px c, d] -> [d, c, py, px]


# Our path -> (PyTorch key, how the axes turn). The adapter is a torch Sequential in which convolution i is module 3 i and its norm 3 i + 1.
def _table(patch: int) -> list[tuple[str, str | Callable[[re.Match], str], Callable[[np.ndarray], np.ndarray]]]:
    sequential = lambda offset, name: lambda match: f"spectral_adapter.{3 * int(match[1]) + offset}.{name}"  # noqa: E731
    block = r"trunk/blocks/layers/(\d+)"
    return [
        (r"stem/adapter/conv(\d)/kernel", sequential(0, "weight"), _conv3d),
        (r"stem/adapter/conv(\d)/bias", sequential(0, "bias"), _as_is),
        (r"stem/adapter/norm(\d)/scale", sequential(1, "weight"), _as_is),
        (r"stem/adapter/norm(\d)/bias", sequential(1, "bias"), _as_is),
        (r"stem/adapter/norm(\d)/mean", sequential(1, "running_mean"), _as_is),
        (r"stem/adapter/norm(\d)/var", sequential(1, "running_var"), _as_is),
        (r"stem/embed/kernel", "vit_core.patch_embed.proj.weight", _conv2d(patch)),
        (r"stem/embed/bias", "vit_core.patch_embed.proj.bias", _as_is),
        (r"trunk/cls_token", "vit_core.cls_token", _as_is),
        (rf"{block}/norm([12])/scale", r"vit_core.blocks.\1.norm\2.weight", _as_is),
        (rf"{block}/norm([12])/bias", r"vit_core.blocks.\1.norm\2.bias", _as_is),
        (rf"{block}/attention/qkv", r"vit_core.blocks.\1.attn.qkv.weight", _fuse_qkv),
        (rf"{block}/attention/qkv_bias", r"vit_core.blocks.\1.attn.qkv.bias", _flat),
        (rf"{block}/attention/out/kernel", r"vit_core.blocks.\1.attn.proj.weight", _transpose),
        (rf"{block}/attention/out/bias", r"vit_core.blocks.\1.attn.proj.bias", _as_is),
        (rf"{block}/mlp/fc([12])/kernel", r"vit_core.blocks.\1.mlp.fc\2.weight", _transpose),
        (rf"{block}/mlp/fc([12])/bias", r"vit_core.blocks.\1.mlp.fc\2.bias", _as_is),
        (r"trunk/norm/scale", "vit_core.norm.weight", _as_is),
        (r"trunk/norm/bias", "vit_core.norm.bias", _as_is),
    ]


def to_torch(encoder: Encoder, params: Params, statistics: Carry, image_size: int) -> dict[str, np.ndarray]:
    """{PyTorch key: array} of an encoder, float32 but for the batch counters.

    Args:
        params, statistics: of the encoder, as its objective's `encoders` gives them; any array type.
        image_size: side in pixels of the images that the position embedding is written for.

    Raises:
        ValueError: a weight that the layout has no place for, or one that it needs and is missing or of the wrong shape.
    """
    _check_shapes(encoder, params, statistics)
    exported = {}
    table = [(re.compile(pattern), key, turn) for pattern, key, turn in _table(encoder.patch)]
    for path, array in [*_unstacked(params), *_unstacked(statistics)]:
        key, turned = _translate(path, array, table)
        exported[key] = np.ascontiguousarray(turned, np.float32)
    grid = image_size // encoder.patch
    positions = sincos_2d(encoder.width, grid, grid)
    exported["vit_core.pos_embed"] = np.concatenate([np.zeros((1, encoder.width), np.float32), positions])[None]
    for module in (1, 4, 7):
        # PyTorch only uses the counter when momentum is None, which it is not here; strict loading asks for it all the same.
        exported[f"spectral_adapter.{module}.num_batches_tracked"] = np.zeros((), np.int64)
    return dict(sorted(exported.items()))


def _translate(path: str, array: np.ndarray, table: list) -> tuple[str, np.ndarray]:
    for pattern, key, turn in table:
        if match := pattern.fullmatch(path):
            return (key(match) if callable(key) else match.expand(key)), turn(array)
    raise ValueError(f"export: {path} {array.shape} has no place in the SpectralEarth layout; only the spectral adapter with a ViT can be exported")


def _unstacked(tree: Params) -> list[tuple[str, np.ndarray]]:
    """(path, array) with stacked blocks taken apart: "trunk/blocks/layers/3/norm1/scale"."""
    flat = []
    for path, leaf in rules.paths(tree):
        array = np.asarray(leaf)
        stacked, _, rest = path.partition("/layers/")
        flat += [(f"{stacked}/layers/{i}/{rest}", array[i]) for i in range(len(array))] if rest else [(path, array)]
    return flat


def _check_shapes(encoder: Encoder, params: Params, statistics: Carry) -> None:
    expected_params, expected_statistics = jax.eval_shape(encoder.network.init, jax.random.key(0))
    for name, found, expected in (("weights", params, expected_params), ("running statistics", statistics, expected_statistics)):
        shapes = {path: tuple(leaf.shape) for path, leaf in rules.paths(found)}
        needed = {path: tuple(leaf.shape) for path, leaf in rules.paths(expected)}
        for path in sorted(shapes | needed):
            if shapes.get(path) != needed.get(path):
                raise ValueError(f"export: {name}: {path} has shape {shapes.get(path, 'absent')}, the config needs {needed.get(path, 'absent')}")
