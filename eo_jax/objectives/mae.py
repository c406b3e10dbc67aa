"""Masked autoencoder: hide most patch tokens, encode the rest, reconstruct the hidden pixels (He et al. 2022, arXiv 2111.06377).

The spectral adapter sits in front of the patch embedding and sees visible tokens only; SpectralEarth's own code runs it on all pixels, with
the same result up to BatchNorm statistics. Values without data take no part: not in the loss, not in the moments of norm_pix, not in
BatchNorm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from eo_jax.augment import masking
from eo_jax.models.encoder import Encoder, patchify, unpatchify
from eo_jax.models.functional import EVALUATE, TRAIN, Mode, Network, Stack
from eo_jax.models.positions import sincos_2d
from eo_jax.models.vit import Block, Dense, LayerNorm, block_multiply_adds
from eo_jax.objectives.base import EncoderWeights
from eo_jax.objectives.joint import only_encoder, present_source
from eo_jax.schema import Carry, Metrics, Params, Views

_NORM_PIX_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Config:
    """MAE.

    Attributes:
        mask_ratio: share of patch tokens that are hidden.
        norm_pix_loss: reconstruct each token normalised by its own mean and (unbiased) variance over pixels and bands.
        decoder_width, decoder_depth, decoder_heads: the decoder.
    """

    mask_ratio: float = 0.75
    norm_pix_loss: bool = True
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    def __post_init__(self):
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"config.objective.mask_ratio: {self.mask_ratio}; expected a share between 0 and 1")
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise ValueError(
                f"config.objective.decoder_width: {self.decoder_width}; expected a multiple of 4 and of decoder_heads {self.decoder_heads}"
            )

    def build(self, encoders: Mapping[str, Encoder]) -> MAE:
        """The objective for {source: encoder}, all of the same weights."""
        source, encoder = only_encoder("mae", encoders)
        if encoder.kind != "tokens":
            raise ValueError("config.model.trunk: MAE hides tokens, so it needs a trunk of tokens, such as vit")
        return MAE(self, tuple(encoders), source, encoder)


class Decoder(nnx.Module):
    """Visible tokens and mask tokens with positions -> pixels of every token."""

    def __init__(self, config: Config, encoder: Encoder, *, rngs: nnx.Rngs):
        width, dtype = config.decoder_width, encoder.dtype
        self.embed = Dense(encoder.width, width, dtype, rngs=rngs)
        self.mask_token = nnx.Param(0.02 * jax.random.normal(rngs.params(), (1, 1, width)))
        make_block = lambda block_rngs: Block(width, config.decoder_heads, dtype, rngs=block_rngs)  # noqa: E731
        self.blocks = Stack(make_block, config.decoder_depth, "none", rngs=rngs)
        self.norm = LayerNorm(width, dtype)
        self.predict = Dense(width, encoder.patch**2 * len(encoder.sensor.bands), dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "b k1 d"], ids: Int[Array, "b k"], rows: int, columns: int) -> Float[Array, "b n p"]:
        """float32 [b, n, patch * patch * c]: row, column, band within each token; `tokens` has the class token first, `ids` names the rest."""
        tokens = self.embed(tokens).astype(jnp.float32)
        hidden = jnp.broadcast_to(self.mask_token[...][0], (rows * columns, tokens.shape[-1]))
        # By vmap, and with the promise that no id comes twice: else XLA gathers the batch of all devices, and differentiates by a second scatter.
        patches = jax.vmap(lambda at, token: hidden.at[at].set(token, unique_indices=True))(ids, tokens[:, 1:])
        patches = patches + jnp.asarray(sincos_2d(tokens.shape[-1], rows, columns))
        decoded = self.norm(self.blocks(jnp.concatenate([tokens[:, :1], patches], axis=1)))
        return self.predict(decoded[:, 1:]).astype(jnp.float32)


class MAE:
    """The objective; see the module docstring. Carry holds the running statistics of the spectral adapter."""

    crop_sets: Mapping[str, int] = {"global": 1}
    couples_batch = False  # BatchNorm in the adapter aside, which accumulation changes as it does everywhere

    labelled: Mapping[str, int] = {}

    def __init__(self, config: Config, sources: Sequence[str], source: str, encoder: Encoder):
        self.config, self.sources, self.source, self.encoder = config, sources, source, encoder
        self.decoder = Network(lambda rngs: Decoder(config, encoder, rngs=rngs))

    def check_batch(self, rows: int) -> None:
        """Any batch will do."""

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        encoder_key, decoder_key = jax.random.split(key)
        encoder, statistics = self.encoder.network.init(encoder_key)
        return {"encoder": encoder, "decoder": self.decoder.init(decoder_key)[0]}, {"encoder": statistics}

    def loss(self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        view, valid = self._view(views)
        predicted, masked, statistics = self._reconstruct(params, carry, view, valid, key, TRAIN)
        target, counted = self._target(view, valid)
        loss = masked_error(predicted, target, counted, masked)
        return loss, ({"encoder": statistics}, {"valid_share": _counts(counted).sum() / counted.size})

    def ema_update(self, params: Params, carry: Carry, progress: jax.Array) -> Carry:
        return carry

    def encoders(self, params: Params, carry: Carry) -> dict[str, EncoderWeights]:
        return {self.source: {"source": self.source, "params": params["encoder"], "statistics": carry["encoder"]}}

    def features(self, weights: EncoderWeights, view: jax.Array, valid: jax.Array) -> dict[str, jax.Array]:
        return self.encoder.features(weights["params"], weights["statistics"], view, valid)

    def preview(self, params: Params, carry: Carry, views: Views, key: jax.Array) -> dict[str, jax.Array]:
        """{"view", "valid", "reconstruction": [b, H, W, c], "masked": [b, H, W]} in normalised units.

        With norm_pix_loss the reconstruction is scaled back by the moments of the hidden pixels themselves: a picture, not a result.
        """
        view, valid = self._view(views)
        predicted, masked, _ = self._reconstruct(params, carry, view, valid, key, EVALUATE)
        if self.config.norm_pix_loss:
            mean, std = _moments(*self._patches(view, valid))
            predicted = predicted * std + mean
        rows, columns, patch = self._grid(view)
        image = lambda tokens: unpatchify(tokens.reshape(len(view), rows * columns, patch**2, -1), rows, columns, patch)  # noqa: E731
        hidden = jnp.broadcast_to(masked[:, :, None], (*masked.shape, patch**2))
        return {"view": view, "valid": valid, "reconstruction": image(predicted), "masked": image(hidden)[..., 0]}

    def multiply_adds(self, views: Mapping[str, tuple[int, int]]) -> int:
        _, size = views[f"{present_source(self.sources, views, 'global')}/global"]
        tokens = (size // self.encoder.patch) ** 2
        visible = masking.visible_count(tokens, self.config.mask_ratio)
        width, pixels = self.config.decoder_width, self.encoder.patch**2
        decoder = self.config.decoder_depth * block_multiply_adds(1 + tokens, width)
        ends = (1 + visible) * self.encoder.width * width + tokens * width * pixels * len(self.encoder.sensor.bands)
        return self.encoder.token_multiply_adds(visible) + decoder + ends

    def _view(self, views: Views) -> tuple[Array, Array]:
        name = f"{present_source(self.sources, views, 'global')}/global"
        return views[name][:, 0], views[f"{name}/valid"][:, 0]

    def _grid(self, view: Array) -> tuple[int, int, int]:
        return view.shape[1] // self.encoder.patch, view.shape[2] // self.encoder.patch, self.encoder.patch

    def _patches(self, view: Array, valid: Array) -> tuple[Float[Array, "b n p"], Bool[Array, "b n p"]]:
        """Tokens as flat vectors of float32 pixels, and which of their values count."""
        patch = self.encoder.patch
        pixels = patchify(view.astype(jnp.float32), patch)
        counted = jnp.broadcast_to(patchify(valid, patch), pixels.shape)
        return pixels.reshape(*pixels.shape[:2], -1), counted.reshape(*pixels.shape[:2], -1)

    def _target(self, view: Array, valid: Array) -> tuple[Array, Array]:
        pixels, counted = self._patches(view, valid)
        if not self.config.norm_pix_loss:
            return pixels, counted
        mean, std = _moments(pixels, counted)
        return (pixels - mean) / std, counted

    def _reconstruct(
        self, params: Params, carry: Carry, view: Array, valid: Array, key: jax.Array, mode: Mode
    ) -> tuple[Float[Array, "b n p"], Bool[Array, "b n"], Carry]:
        rows, columns, patch = self._grid(view)
        has_data = patchify(valid, patch).any((-1, -2))
        ids, masked = masking.random_visible(key, has_data, masking.visible_count(rows * columns, self.config.mask_ratio))
        encode = lambda module: module.tokens(view, valid, ids, mode)  # noqa: E731
        tokens, new_statistics = self.encoder.network.apply(params["encoder"], carry["encoder"], encode)
        predicted, _ = self.decoder.apply(params["decoder"], {}, lambda module: module(tokens, ids, rows, columns))
        return predicted, masked, new_statistics


def masked_error(
    predicted: Float[Array, "b n p"], target: Float[Array, "b n p"], counted: Bool[Array, "b n p"], masked: Bool[Array, "b n"]
) -> Float[Array, ""]:
    """Mean squared error over the valid values of each masked token, averaged over the masked tokens that have any (MAE, section 3)."""
    values = _counts(counted)[..., 0]
    error = jnp.where(counted, jnp.square(predicted - target), 0.0).sum(-1) / jnp.maximum(values, 1)
    scored = masked & (values > 0)
    return jnp.where(scored, error, 0.0).sum() / jnp.maximum(scored.sum(), 1)


def _moments(pixels: Float[Array, "b n p"], counted: Bool[Array, "b n p"]) -> tuple[Float[Array, "b n 1"], Float[Array, "b n 1"]]:
    """Mean and sqrt(unbiased variance + 1e-6) of each token over its valid values."""
    values = _counts(counted)
    mean = jnp.where(counted, pixels, 0.0).sum(-1, keepdims=True) / jnp.maximum(values, 1)
    squares = jnp.where(counted, jnp.square(pixels - mean), 0.0).sum(-1, keepdims=True)
    return mean, jnp.sqrt(squares / jnp.maximum(values - 1, 1) + _NORM_PIX_EPSILON)


def _counts(counted: Bool[Array, "b n p"]) -> Float[Array, "b n 1"]:
    """How many values of each token count. As float32, exact up to 16 million: XLA adds integers one by one on CPU."""
    return counted.astype(jnp.float32).sum(-1, keepdims=True)
