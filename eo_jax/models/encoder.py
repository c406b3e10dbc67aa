"""An encoder is a stem and a trunk: views in, features out."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from eo_jax.models.base import (
    ImageStemModule,
    ImageTrunkModule,
    Stem,
    TokenStemModule,
    TokenTrunkModule,
    Trunk,
)
from eo_jax.models.functional import EVALUATE, Mode, Network
from eo_jax.models.initialisation import INITS
from eo_jax.models.layers.position_embedding import FIXED
from eo_jax.sensors import Sensor


def patchify(image: Float[Array, "b H W c"] | Bool[Array, "b H W c"], patch: int) -> Array:
    """[b, n, patch * patch, c]: tokens row by row, and the pixels of each row by row."""
    b, height, width, c = image.shape
    grid = image.reshape(b, height // patch, patch, width // patch, patch, c)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, patch * patch, c)


def unpatchify(
    tokens: Float[Array, "b n p c"] | Bool[Array, "b n p c"], rows: int, columns: int, patch: int
) -> Array:
    """The inverse of `patchify`: [b, H, W, c]."""
    b, _, _, c = tokens.shape
    grid = tokens.reshape(b, rows, columns, patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(b, rows * patch, columns * patch, c)


def take_tokens(tokens: Array, ids: Int[Array, "b k"]) -> Array:
    """Rows `ids` of the token axis: [b, n, ...] -> [b, k, ...]."""
    return jnp.take_along_axis(tokens, ids.reshape(*ids.shape, *[1] * (tokens.ndim - 2)), axis=1)


class TokenModule(nnx.Module):
    """A stem that embeds patches, positions, and a trunk of transformer blocks.

    Args:
        positions, pool: see `base.TokenTrunk`.
    """

    def __init__(self, stem: TokenStemModule, trunk: TokenTrunkModule, positions: str, pool: str):
        self.stem, self.trunk, self.positions, self.pool = stem, trunk, positions, pool

    def __call__(
        self, view: Float[Array, "b H W c"], valid: Bool[Array, "b H W m"], mode: Mode
    ) -> dict[str, Array]:
        """{"pooled": [b, d], "dense": [b, h, w, d]} of a view; see `Encoder.forward`."""
        tokens = self.tokens(view, valid, None, mode)
        patches = tokens[:, 1:]
        pooled = tokens[:, 0] if self.pool == "cls" else patches.mean(1)
        return {"pooled": pooled, "dense": patches.reshape(len(view), *self.grid(view), -1)}

    def pooled(
        self, view: Float[Array, "b H W c"], valid: Bool[Array, "b H W m"], mode: Mode
    ) -> Float[Array, "b d"]:
        """Pooled features only; for a class token that is less work than `__call__`."""
        if self.pool != "cls":
            return self(view, valid, mode)["pooled"]
        return self.trunk.class_token(
            self.trunk_input(view, valid, None, mode), self.grid(view), mode
        )

    def grid(self, view: Float[Array, "b H W c"]) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return view.shape[1] // self.stem.patch, view.shape[2] // self.stem.patch

    def tokens(
        self,
        view: Float[Array, "b H W c"],
        valid: Bool[Array, "b H W m"],
        ids: Int[Array, "b k"] | None,
        mode: Mode,
    ) -> Float[Array, "b k1 d"]:
        """Normalised tokens of a view, the class token first.

        Args:
            view: normalised bands.
            valid: valid mask, per band or one for all bands; other values are read as 0, the
                training mean.
            ids: the visible patch tokens, numbered row by row; None for all. The rest of the view
                is not read.
        """
        return self.trunk(self.trunk_input(view, valid, ids, mode), self.grid(view), mode)

    def trunk_input(
        self,
        view: Float[Array, "b H W c"],
        valid: Bool[Array, "b H W m"],
        ids: Int[Array, "b k"] | None,
        mode: Mode,
    ) -> Float[Array, "b k d"]:
        """The trunk's input: patch embeddings with positions."""
        return self.with_positions(self.embed(view, valid, ids, mode), ids, self.grid(view))

    def embed(
        self,
        view: Float[Array, "b H W c"],
        valid: Bool[Array, "b H W m"],
        ids: Int[Array, "b k"] | None,
        mode: Mode,
    ) -> Float[Array, "b k d"]:
        """Patch embeddings, without positions."""
        patch = self.stem.patch
        pixels, cell_valid = patchify(view, patch), patchify(valid, patch)
        if ids is not None:
            pixels, cell_valid = take_tokens(pixels, ids), take_tokens(cell_valid, ids)
        return self.stem(jnp.where(cell_valid, pixels, 0.0), cell_valid.any(-1), mode)

    def with_positions(
        self, tokens: Float[Array, "b k d"], ids: Int[Array, "b k"] | None, grid: tuple[int, int]
    ) -> Float[Array, "b k d"]:
        """Patch embeddings with positions, unless the trunk has its own."""
        if self.positions not in FIXED:
            return tokens
        positions = jnp.asarray(FIXED[self.positions](tokens.shape[-1], *grid))
        return tokens.astype(jnp.float32) + (positions[None] if ids is None else positions[ids])


class ImageModule(nnx.Module):
    """A stem that makes an image of features, and a trunk that makes it smaller and deeper."""

    def __init__(self, stem: ImageStemModule, trunk: ImageTrunkModule):
        self.stem, self.trunk = stem, trunk

    def __call__(
        self, view: Float[Array, "b H W c"], valid: Bool[Array, "b H W m"], mode: Mode
    ) -> dict[str, Array]:
        """{"pooled": [b, d], "dense": [b, h, w, d]} of a view; see `Encoder.forward`."""
        image, cell_valid = self.stem(jnp.where(valid, view, 0.0), valid.any(-1), mode)
        dense = self.trunk(image, cell_valid, mode)
        return {"pooled": dense.mean((1, 2)), "dense": dense}

    def pooled(
        self, view: Float[Array, "b H W c"], valid: Bool[Array, "b H W m"], mode: Mode
    ) -> Float[Array, "b d"]:
        """Pooled features only."""
        return self(view, valid, mode)["pooled"]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The structure of an encoder, without weights; objectives are built from it.

    Attributes:
        network: its pure functions, of a `TokenModule` or an `ImageModule`.
        sensor: it reads the bands of this sensor, in this order.
        stem, trunk: their configs.
        dtype: compute type.
        weight_owner: the source whose weights it uses: its own, or the one whose stem it shares.
    """

    network: Network
    sensor: Sensor
    stem: Stem
    trunk: Trunk
    dtype: jnp.dtype
    weight_owner: str = ""

    @property
    def kind(self) -> str:
        """What passes from stem to trunk: "tokens" or "image"."""
        return self.stem.output_kind

    @property
    def width(self) -> int:
        """Width d of its features."""
        return self.trunk.width

    @property
    def layers(self) -> int:
        """Number of transformer blocks, if `kind` is "tokens"."""
        return self.trunk.layers

    @property
    def pool(self) -> str:
        """How tokens are pooled, "cls" or "mean", if `kind` is "tokens"."""
        return self.trunk.pool

    @property
    def patch(self) -> int:
        """Side in pixels of one dense feature."""
        return self.stem.patch * (1 if self.kind == "tokens" else self.trunk.stride)

    def forward(
        self,
        params,
        statistics,
        view: Float[Array, "b H W c"],
        valid: Bool[Array, "b H W m"],
        mode: Mode,
    ) -> tuple[dict[str, jax.Array], Any]:
        """({"pooled": [b, d], "dense": [b, h, w, d]}, new running statistics), in the compute
        type.
        """
        return self.network.apply(params, statistics, lambda module: module(view, valid, mode))

    def pooled(
        self,
        params,
        statistics,
        view: Float[Array, "b H W c"],
        valid: Bool[Array, "b H W m"],
        mode: Mode,
    ) -> tuple[Float[Array, "b d"], Any]:
        """(pooled features, new running statistics): 7 % less work than `forward` for the class
        token of ViT-S or ViT-B.
        """
        return self.network.apply(
            params, statistics, lambda module: module.pooled(view, valid, mode)
        )

    def features(
        self, params, statistics, view: Float[Array, "b H W c"], valid: Bool[Array, "b H W m"]
    ) -> dict[str, jax.Array]:
        """`forward` in evaluation mode, in float32."""
        features, _ = self.forward(params, statistics, view, valid, EVALUATE)
        return jax.tree.map(lambda x: x.astype(jnp.float32), features)


def make_encoder(
    stem_config: Stem,
    trunk_config: Trunk,
    sensor: Sensor,
    dtype: jnp.dtype,
    weight_owner: str = "",
    init: str = "default",
) -> Encoder:
    """The encoder of a sensor, computing in `dtype`.

    Args:
        init: the initial weights: "default", those of each layer; "beit" for transformers, see
            `initialisation.beit`.

    Raises ValueError if the trunk does not take what the stem gives, or has no such weights.
    """
    allowed = INITS if trunk_config.input_kind == "tokens" else ("default",)
    if init not in allowed:
        raise ValueError(
            f"config.model.init: {init!r} with trunk {_name(trunk_config)!r}; expected one of "
            f"{', '.join(allowed)}"
        )
    if stem_config.output_kind != trunk_config.input_kind:
        raise ValueError(
            f"config.model: a stem {_name(stem_config)!r} gives {stem_config.output_kind}, a trunk "
            f"{_name(trunk_config)!r} takes {trunk_config.input_kind}"
        )

    def make_tokens(rngs: nnx.Rngs) -> TokenModule:
        stem = stem_config.build(sensor, trunk_config.width, dtype, rngs)
        return TokenModule(
            stem, trunk_config.build(dtype, rngs), trunk_config.positions, trunk_config.pool
        )

    def make_image(rngs: nnx.Rngs) -> ImageModule:
        return ImageModule(
            stem_config.build(sensor, dtype, rngs),
            trunk_config.build(stem_config.channels(sensor), dtype, rngs),
        )

    make = make_tokens if stem_config.output_kind == "tokens" else make_image
    network = Network(make, INITS[init])
    return Encoder(network, sensor, stem_config, trunk_config, dtype, weight_owner)


def _name(config: Any) -> str:
    return type(config).__module__.rpartition(".")[2]
