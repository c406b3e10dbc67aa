"""The contracts of stems and trunks: all that `eo_jax.models.encoder` asks of them.

A file in models/stems or models/trunks defines a frozen dataclass `Config`, the section of a
config and builds the module. Stems give tokens or an image, trunks take the one or the other.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.functional import Mode
from eo_jax.sensors import Sensor

# ----------------------------------------------------------------------------------------- tokens


@runtime_checkable
class TokenStemModule(Protocol):
    """A stem that embeds patches of `patch` x `patch` pixels."""

    patch: int

    def __call__(
        self, pixels: Float[Array, "b n p c"], valid: Bool[Array, "b n p"], mode: Mode
    ) -> Float[Array, "b n d"]:
        """Embeddings, without positions.

        Args:
            pixels: values of each token; `p` runs over its patch x patch pixels, row by row. Values
                that are not valid are 0.
            valid: the pixels with at least one valid band.
        """


@runtime_checkable
class TokenStem(Protocol):
    """Config of a stem that embeds patches.

    Attributes:
        output_kind: "tokens".
        patch: side of a token in pixels.
    """

    output_kind: str
    patch: int

    def build(
        self, sensor: Sensor, width: int, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> TokenStemModule:
        """The stem of a sensor for a trunk of this width, computing in `dtype`. Raises ValueError
        for a sensor that it cannot read.
        """


@runtime_checkable
class TokenTrunkModule(Protocol):
    """A trunk of transformer blocks with a class token. `grid` is rows and columns of patch tokens
    in the view, of which `tokens` may be a part.
    """

    def __call__(
        self, tokens: Float[Array, "b n d"], grid: tuple[int, int], mode: Mode
    ) -> Float[Array, "b n1 d"]:
        """Normalised tokens, the class token first."""

    def class_token(
        self, tokens: Float[Array, "b n d"], grid: tuple[int, int], mode: Mode
    ) -> Float[Array, "b d"]:
        """The class token only."""

    def last_layers(
        self, tokens: Float[Array, "b n d"], grid: tuple[int, int], mode: Mode, count: int
    ) -> Float[Array, "l b n1 d"]:
        """Outputs of the last `count` blocks, in order, before the final norm."""


@runtime_checkable
class TokenTrunk(Protocol):
    """Config of a trunk of transformer blocks.

    Attributes:
        input_kind: "tokens".
        width: width d of the tokens.
        layers: number of blocks.
        positions: the key in `position_embedding.FIXED` of fixed positions, which the encoder adds
            to the tokens; any other value where the trunk has its own.
        pool: "cls" or "mean": what pooled features are.
    """

    input_kind: str
    width: int
    layers: int
    positions: str
    pool: str

    def build(self, dtype: jnp.dtype, rngs: nnx.Rngs) -> TokenTrunkModule:
        """The trunk, computing in `dtype`."""


# ----------------------------------------------------------------------------------------- images


@runtime_checkable
class ImageStemModule(Protocol):
    """A stem that makes an image of features."""

    def __call__(
        self, view: Float[Array, "b H W c"], valid: Bool[Array, "b H W"], mode: Mode
    ) -> tuple[Float[Array, "b h w d"], Bool[Array, "b h w"]]:
        """(image, its cells with data).

        Args:
            view: bands; values that are not valid are 0.
            valid: the pixels with at least one valid band; its axes may have length 1.
        """


@runtime_checkable
class ImageStem(Protocol):
    """Config of a stem that makes an image of features.

    Attributes:
        output_kind: "image".
        patch: its stride in pixels.
    """

    output_kind: str
    patch: int

    def channels(self, sensor: Sensor) -> int:
        """Channels of the image."""

    def build(self, sensor: Sensor, dtype: jnp.dtype, rngs: nnx.Rngs) -> ImageStemModule:
        """The stem of a sensor, computing in `dtype`. Raises ValueError for a sensor that it cannot
        read.
        """


@runtime_checkable
class ImageTrunkModule(Protocol):
    """A trunk that makes a smaller and deeper image."""

    def __call__(
        self, image: Float[Array, "b h w c"], valid: Bool[Array, "b h w"], mode: Mode
    ) -> Float[Array, "b h2 w2 d"]:
        """Dense features; the encoder pools them by their mean.

        Args:
            valid: the cells with data.
        """


@runtime_checkable
class ImageTrunk(Protocol):
    """Config of a trunk that makes a smaller and deeper image.

    Attributes:
        input_kind: "image".
        width: width d of its features.
        stride: side of a feature in cells of the image that it takes.
    """

    input_kind: str
    width: int
    stride: int

    def build(self, channels: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> ImageTrunkModule:
        """The trunk for images of `channels`, computing in `dtype`. Raises ValueError for a number
        of channels that it cannot take.
        """


Stem = TokenStem | ImageStem
Trunk = TokenTrunk | ImageTrunk
