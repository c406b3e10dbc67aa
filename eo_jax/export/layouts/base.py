"""A layout: the table from our weights to PyTorch keys, and the orders of axes in such tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from eo_jax.models.encoder import Encoder

Reorder = Callable[[np.ndarray], np.ndarray]
# (regex of our path, PyTorch key as a template of the match, our order of axes -> PyTorch's)
Row = tuple[str, str, Reorder]


@dataclasses.dataclass(frozen=True)
class Layout:
    """One PyTorch layout.

    Attributes:
        name: of the network with these keys.
        stem, trunk: modules of `eo_jax.models` that the encoder must have.
        rows: encoder -> its table.
        trunk_fields: values that the trunk's config must have; a list where it may have several.
        positions: key of the position embedding, which the layout adds to tokens; "" where it has
            none.
    """

    name: str
    stem: str
    trunk: str
    rows: Callable[[Encoder], list[Row]]
    trunk_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    positions: str = ""

    def fits(self, encoder: Encoder) -> bool:
        """Whether an encoder can be exported in this layout."""
        names = (module_name(encoder.stem), module_name(encoder.trunk))
        return names == (self.stem, self.trunk) and all(
            _has(getattr(encoder.trunk, field), value) for field, value in self.trunk_fields.items()
        )

    @property
    def requirements(self) -> str:
        """The stem and trunk that an encoder must have, in words."""
        fields = "".join(f", {field}={_words(value)}" for field, value in self.trunk_fields.items())
        return f"stem {self.stem} with trunk {self.trunk}{fields}"


def _has(found: Any, expected: Any) -> bool:
    return found in expected if isinstance(expected, list) else found == expected


def _words(expected: Any) -> str:
    return " or ".join(map(repr, expected)) if isinstance(expected, list) else repr(expected)


def module_name(config: Any) -> str:
    """The name of a stem or trunk in a config file."""
    return type(config).__module__.rpartition(".")[2]


def section(config: Any) -> dict[str, Any]:
    """The Config of a stem or trunk as in a config file, in plain JSON types."""
    fields = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
    }
    return {"name": module_name(config), **fields}


def as_is(x: np.ndarray) -> np.ndarray:
    """Vectors and tokens: unchanged."""
    return x


def transpose(x: np.ndarray) -> np.ndarray:
    """Linear: [in, out] -> [out, in]."""
    return x.T


def flat(x: np.ndarray) -> np.ndarray:
    """Biases of heads: [3, heads, head_dim] -> [3 d]."""
    return x.reshape(-1)


def fuse_heads(x: np.ndarray) -> np.ndarray:
    """Projections to heads: [d, 3, heads, head_dim] -> [3 d, d], in timm's order q, k, v; or one or
    two of the three.
    """
    return x.reshape(len(x), -1).T


def conv2d(x: np.ndarray) -> np.ndarray:
    """[row, column, in, out] -> [out, in, row, column]."""
    return x.transpose(3, 2, 0, 1)


def depthwise_conv2d(x: np.ndarray) -> np.ndarray:
    """[row, column, channel] -> [channel, 1, row, column]."""
    return x.transpose(2, 0, 1)[:, None]


def spectral_conv3d(x: np.ndarray) -> np.ndarray:
    """Convolution along the bands: [tap, in, out] -> [out, in, tap, 1, 1]."""
    return x.transpose(2, 1, 0)[..., None, None]


def patch_conv2d(patch: int) -> Reorder:
    """Patch embedding: [row column in, out] -> [out, in, row, column]."""
    return lambda x: conv2d(x.reshape(patch, patch, -1, x.shape[-1]))


def affine_rows(pattern: str, key: str) -> list[Row]:
    """LayerNorm, or the weights of BatchNorm."""
    return [(f"{pattern}/scale", f"{key}.weight", as_is), (f"{pattern}/bias", f"{key}.bias", as_is)]


def batch_norm_rows(pattern: str, key: str) -> list[Row]:
    """BatchNorm with its running statistics."""
    return [
        *affine_rows(pattern, key),
        (f"{pattern}/mean", f"{key}.running_mean", as_is),
        (f"{pattern}/var", f"{key}.running_var", as_is),
    ]


def linear_rows(pattern: str, key: str) -> list[Row]:
    """A linear layer."""
    return [
        (f"{pattern}/kernel", f"{key}.weight", transpose),
        (f"{pattern}/bias", f"{key}.bias", as_is),
    ]


def biased_conv_rows(pattern: str, key: str) -> list[Row]:
    """A convolution with bias."""
    return [
        (f"{pattern}/kernel", f"{key}.weight", conv2d),
        (f"{pattern}/bias", f"{key}.bias", as_is),
    ]
