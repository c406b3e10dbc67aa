"""A layout: the table between the weights of an encoder and the keys of a PyTorch network, read in
both directions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from eo_jax.exchange.orders import AS_IS, CONV2D, TRANSPOSED, Order
from eo_jax.models.encoder import Encoder
from eo_jax.models.layers.position_embedding import FIXED
from eo_jax.schema import Params

Tensors = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Row:
    """One row: one of our arrays, or a part of it, and one PyTorch tensor.

    Attributes:
        ours: path of our array, "trunk/blocks/layers/{i}/norm1/scale"; {i} stands for any number.
        key: of the PyTorch tensor, "blocks.{i}.norm1.weight"; "" for a part that makes no
            difference and that the network does not have.
        order: of the axes.
        part: of our array, (slice(None), 0) for the q of [d, 3, heads, head_dim]; () for all.
        copies: number of PyTorch tensors, {copy} in `key`, that are all the same; 0 for one.
    """

    ours: str
    key: str
    order: Order = AS_IS
    part: tuple[Any, ...] = ()
    copies: int = 0


class Table(NamedTuple):
    """The rows of one network, whose sizes are known.

    Attributes:
        title: of the network, for messages.
        needs: what it is a table of, in words.
        rows: what is in both.
        computed: {key: tensor} that the network keeps as weights and ours computes.
        computed_as: what those are, in words.
        unused: {key: shape} that the class has and features do not need.
        remedy: the way out where a file has other keys.
        remedy_computed: the way out where a file has other values of those that are computed.
    """

    title: str
    needs: str
    rows: list[Row]
    computed: Mapping[str, np.ndarray]
    computed_as: str
    unused: Mapping[str, tuple[int, ...]]
    remedy: str
    remedy_computed: str


class Condition(NamedTuple):
    """A condition on a value of a trunk's config.

    Attributes:
        holds: whether a value satisfies it.
        words: the same, for messages.
    """

    holds: Callable[[Any], bool]
    words: str


@dataclasses.dataclass(frozen=True)
class Layout:
    """One PyTorch layout.

    Attributes:
        network: the class with these keys, in words.
        stem, trunk: modules of `eo_jax.models` that the encoder must have.
        rows: encoder -> its table.
        trunk_fields: values that the trunk's config must have; a list where it may have several, or
            a Condition.
        positions: key of the position embedding, which ours may compute; "" where there is none.
        bands: key of the weight whose axis 1 is that of bands; "" where there is none.
        ignored: regexes on keys that an import leaves out, and lists: heads, counters, buffers.
        constructor: (encoder, image size) -> the call that makes the network in PyTorch.
        folded: (encoder, params) -> weights of the same features, in which what has no key is 0.
        unified: (encoder, {key: tensor}) -> the same network in the one form that the table reads,
            where files have several.
        class_position: encoder -> whether the positions have a row for the class token.
        unused: encoder -> {key: shape} that the class has and features do not need: 0 in an export,
            left out of an import.
        separated: {key: tensor} of a whole file -> the same with what several of its encoders share
            under the prefix of each.
    """

    network: str
    stem: str
    trunk: str
    rows: Callable[[Encoder], list[Row]]
    trunk_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    positions: str = ""
    bands: str = ""
    ignored: tuple[str, ...] = ()
    constructor: Callable[[Encoder, int], str] = lambda encoder, image_size: ""
    folded: Callable[[Encoder, Params], Params] = lambda encoder, params: params
    unified: Callable[[Encoder, Tensors], Tensors] = lambda encoder, tensors: tensors
    class_position: Callable[[Encoder], bool] = lambda encoder: True
    unused: Callable[[Encoder], dict[str, tuple[int, ...]]] = lambda encoder: {}
    separated: Callable[[Tensors], Tensors] = lambda tensors: tensors

    def fits(self, encoder: Encoder) -> bool:
        """Whether an encoder has this layout."""
        names = (module_name(encoder.stem), module_name(encoder.trunk))
        return names == (self.stem, self.trunk) and all(
            _has(getattr(encoder.trunk, field), value) for field, value in self.trunk_fields.items()
        )

    def table(self, encoder: Encoder, image_size: int) -> Table:
        """The table of an encoder, with the positions of images of this side in pixels."""
        return Table(
            title=self.network,
            needs=self.requirements,
            rows=self.rows(encoder),
            computed=self._positions(encoder, image_size),
            computed_as="the positions that config.model.trunk.positions names",
            unused=self.unused(encoder),
            remedy="give the config of the network that it is from",
            remedy_computed="give positions='learned' and trunk.grid, or the other fixed ones",
        )

    def _positions(self, encoder: Encoder, image_size: int) -> dict[str, np.ndarray]:
        """Fixed positions, which the network keeps as a weight and ours computes."""
        if not self.positions or encoder.trunk.positions not in FIXED:
            return {}
        side, before = image_size // encoder.patch, int(self.class_position(encoder))
        return {
            self.positions: fixed_positions(encoder.trunk.positions, encoder.width, side, before)
        }

    @property
    def requirements(self) -> str:
        """The stem and trunk that an encoder must have, in words."""
        fields = "".join(f", {field}={_words(value)}" for field, value in self.trunk_fields.items())
        return f"stem {self.stem} with trunk {self.trunk}{fields}"


def fixed_positions(name: str, width: int, side: int, before: int) -> np.ndarray:
    """float32 [1, before + side^2, width]: those of a square of tokens, after zeros for the tokens
    before them.
    """
    zeros = np.zeros((before, width), np.float32)
    return np.concatenate([zeros, FIXED[name](width, side, side)])[None]


def _has(found: Any, expected: Any) -> bool:
    if isinstance(expected, Condition):
        return expected.holds(found)
    return found in expected if isinstance(expected, list) else found == expected


def _words(expected: Any) -> str:
    if isinstance(expected, Condition):
        return expected.words
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


def affine_rows(ours: str, key: str) -> list[Row]:
    """LayerNorm, or the weights of BatchNorm."""
    return [Row(f"{ours}/scale", f"{key}.weight"), Row(f"{ours}/bias", f"{key}.bias")]


def batch_norm_rows(ours: str, key: str) -> list[Row]:
    """BatchNorm with its running statistics."""
    return [
        *affine_rows(ours, key),
        Row(f"{ours}/mean", f"{key}.running_mean"),
        Row(f"{ours}/var", f"{key}.running_var"),
    ]


def linear_rows(ours: str, key: str) -> list[Row]:
    """A linear layer."""
    return [Row(f"{ours}/kernel", f"{key}.weight", TRANSPOSED), Row(f"{ours}/bias", f"{key}.bias")]


def biased_conv_rows(ours: str, key: str) -> list[Row]:
    """A convolution with bias."""
    return [Row(f"{ours}/kernel", f"{key}.weight", CONV2D), Row(f"{ours}/bias", f"{key}.bias")]
