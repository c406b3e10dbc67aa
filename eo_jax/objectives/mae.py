"""Masked autoencoder: hide most patch tokens, encode the rest, reconstruct the hidden pixels (He et
al. 2022, arXiv 2111.06377).

The spectral adapter sits in front of the patch embedding and sees visible tokens only;
SpectralEarth's own code runs it on all pixels, with the same result up to BatchNorm statistics.
Values without data take no part: not in the loss, not in the moments of norm_pix, not in BatchNorm.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from eo_jax.augment import masking
from eo_jax.models.encoder import Encoder, patchify, take_tokens, unpatchify
from eo_jax.models.functional import EVALUATE, REMAT, Mode, Network
from eo_jax.models.mae_decoder import PixelDecoder
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.base import EncoderWeights
from eo_jax.objectives.ops.checks import only_encoder, present_source
from eo_jax.objectives.ops.collapse_metrics import FEATURE_METRICS, feature_metrics
from eo_jax.schema import Carry, Metrics, Params, Views

_NORM_PIX_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Config:
    """MAE.

    Attributes:
        mask_ratio: share of patch tokens that are hidden.
        norm_pix_loss: reconstruct each token normalised by its own mean and (unbiased) variance
            over pixels and bands.
        decoder_width, decoder_depth, decoder_heads: the decoder.
        decoder_remat: what the backward pass through the decoder makes again: "none", "cheap" or
            "block", as `config.model.trunk.remat` has it.
    """

    mask_ratio: float = 0.75
    norm_pix_loss: bool = True
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    decoder_remat: str = "cheap"

    def __post_init__(self):
        if not 0 < self.mask_ratio < 1:
            raise ValueError(
                f"config.objective.mask_ratio: {self.mask_ratio}; expected a share between 0 and 1"
            )
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise ValueError(
                f"config.objective.decoder_width: {self.decoder_width}; expected a multiple of 4 "
                f"and of decoder_heads {self.decoder_heads}"
            )
        if self.decoder_remat not in REMAT:
            raise ValueError(
                f"config.objective.decoder_remat: {self.decoder_remat!r}; expected one of "
                f"{', '.join(REMAT)}"
            )

    def build(self, encoders: Mapping[str, Encoder]) -> MAE:
        """The objective for {source: encoder}, all of the same weights."""
        source, encoder = only_encoder("mae", encoders)
        if encoder.kind != "tokens":
            raise ValueError(
                "config.model.trunk: MAE hides tokens, so it needs a trunk of tokens, such as vit"
            )
        return MAE(self, tuple(encoders), source, encoder)


class Split(NamedTuple):
    """Which patch tokens of each sample the encoder sees, and which are masked: all of them, each
    once.
    """

    visible: Int[Array, "b k"]
    masked: Int[Array, "b h"]


class MAE:
    """The objective; see the module docstring. Carry holds the running statistics of the spectral
    adapter.
    """

    crop_sets: Mapping[str, int] = {"global": 1}
    couples_batch = (
        False  # BatchNorm in the adapter aside, which accumulation changes as it does everywhere
    )

    labelled: Mapping[str, int] = {}
    metrics: Mapping[str, Metric] = {**FEATURE_METRICS, "valid_fraction": Metric("")}

    def __init__(self, config: Config, sources: Sequence[str], source: str, encoder: Encoder):
        self.config, self.sources, self.source, self.encoder = config, sources, source, encoder
        pixels, blocks = (
            encoder.patch**2 * len(encoder.sensor.bands),
            (config.decoder_width, config.decoder_depth, config.decoder_heads),
        )
        make = functools.partial(
            PixelDecoder, encoder.width, *blocks, config.decoder_remat, pixels, encoder.dtype
        )
        self.decoder = Network(lambda rngs: make(rngs=rngs))

    def check_batch(self, rows: int) -> None:
        """Any batch will do."""

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        encoder_key, decoder_key = jax.random.split(key)
        encoder, statistics = self.encoder.network.init(encoder_key)
        return {"encoder": encoder, "decoder": self.decoder.init(decoder_key)[0]}, {
            "encoder": statistics
        }

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        view, valid = self._view(views)
        mode = Mode("batch", key=jax.random.fold_in(key, 1))
        predicted, split, tokens, statistics = self._reconstruct(
            params, carry, view, valid, key, mode
        )
        pixels, target_valid = self._masked(view, valid, split)
        loss = masked_error(
            predicted,
            _normalised(pixels, target_valid) if self.config.norm_pix_loss else pixels,
            target_valid,
        )
        metrics = {
            "valid_fraction": masking.valid_values(valid, self.encoder.patch).sum() / valid.size,
            **feature_metrics(tokens[:, 1:].mean(1)),
        }
        return loss, ({"encoder": statistics}, metrics)

    def ema_update(self, params: Params, carry: Carry, progress: jax.Array) -> Carry:
        return carry

    def encoders(self, params: Params, carry: Carry) -> dict[str, EncoderWeights]:
        return {
            self.source: {
                "source": self.source,
                "params": params["encoder"],
                "statistics": carry["encoder"],
            }
        }

    def features(
        self, weights: EncoderWeights, view: jax.Array, valid: jax.Array
    ) -> dict[str, jax.Array]:
        return self.encoder.features(weights["params"], weights["statistics"], view, valid)

    def preview(
        self, params: Params, carry: Carry, views: Views, key: jax.Array
    ) -> dict[str, jax.Array]:
        """{"view", "valid", "reconstruction": [b, H, W, c], "masked": [b, H, W]} in normalised
        units; visible tokens are as the view has them.

        With norm_pix_loss it is "rescaled" in place of "reconstruction", by the moments of the
            hidden pixels themselves: a picture, not a result.
        """
        view, valid = self._view(views)
        predicted, split, _, _ = self._reconstruct(params, carry, view, valid, key, EVALUATE)
        if self.config.norm_pix_loss:
            mean, std = _moments(*self._masked(view, valid, split))
            predicted = predicted * std + mean
        rows, columns, patch = self._grid(view)
        tokens, predicted = (
            patchify(view.astype(jnp.float32), patch),
            predicted.reshape(*split.masked.shape, patch**2, -1),
        )
        fill = jax.vmap(lambda tokens, at, values: tokens.at[at].set(values, unique_indices=True))
        reconstruction = unpatchify(fill(tokens, split.masked, predicted), rows, columns, patch)
        masked = fill(
            jnp.zeros((*tokens.shape[:-1], 1), bool),
            split.masked,
            jnp.ones((*split.masked.shape, 1, 1), bool),
        )
        title = "rescaled" if self.config.norm_pix_loss else "reconstruction"
        return {
            "view": view,
            "valid": valid,
            title: reconstruction,
            "masked": unpatchify(masked, rows, columns, patch)[..., 0],
        }

    def _view(self, views: Views) -> tuple[Array, Array]:
        name = f"{present_source(self.sources, views, 'global')}/global"
        return views[name][:, 0], views[f"{name}/valid"][:, 0]

    def _grid(self, view: Array) -> tuple[int, int, int]:
        return (
            view.shape[1] // self.encoder.patch,
            view.shape[2] // self.encoder.patch,
            self.encoder.patch,
        )

    def _masked(
        self, view: Array, valid: Array, split: Split
    ) -> tuple[Float[Array, "b h r s c"], Bool[Array, "b h r s m"]]:
        """float32 pixels of the masked tokens, and which of their values count: of each band (m =
        c), or of all bands alike (m = 1).
        """
        patch = self.encoder.patch

        def take(image):
            return take_tokens(patchify(image, patch), split.masked).reshape(
                *split.masked.shape, patch, patch, -1
            )

        return take(view.astype(jnp.float32)), take(valid)

    def _reconstruct(
        self, params: Params, carry: Carry, view: Array, valid: Array, key: jax.Array, mode: Mode
    ) -> tuple[Float[Array, "b h r s c"], Split, Float[Array, "b k1 d"], Carry]:
        """(pixels of the masked tokens, which these are, the encoder's class token and visible
        tokens, running statistics).
        """
        rows, columns, patch = self._grid(view)
        has_data = masking.valid_values(valid, patch) > 0
        split = Split(
            *masking.random_split(
                key, has_data, masking.visible_count(rows * columns, self.config.mask_ratio)
            )
        )

        def encode(module):
            return module.tokens(view, valid, split.visible, mode)

        tokens, new_statistics = self.encoder.network.apply(
            params["encoder"], carry["encoder"], encode
        )
        predicted, _ = self.decoder.apply(
            params["decoder"], {}, lambda module: module(tokens, *split, rows, columns)
        )
        return (
            predicted.reshape(*split.masked.shape, patch, patch, -1),
            split,
            tokens,
            new_statistics,
        )


def masked_error(
    predicted: Float[Array, "b h r s c"],
    target: Float[Array, "b h r s c"],
    target_valid: Bool[Array, "b h r s m"],
) -> Float[Array, ""]:
    """Mean squared error over the valid values of each masked token, averaged over those that have
    any (MAE, section 3).
    """
    values = _count(target_valid, target.shape[-1])
    error = _total(jnp.where(target_valid, jnp.square(predicted - target), 0.0)) / jnp.maximum(
        values, 1
    )
    return jnp.where(values > 0, error, 0.0).sum() / jnp.maximum((values > 0).sum(), 1)


def _normalised(
    pixels: Float[Array, "b h r s c"], target_valid: Bool[Array, "b h r s m"]
) -> Float[Array, "b h r s c"]:
    mean, std = _moments(pixels, target_valid)
    return (pixels - mean) / std


def _moments(
    pixels: Float[Array, "b h r s c"], target_valid: Bool[Array, "b h r s m"]
) -> tuple[Float[Array, "b h 1 1 1"], Float[Array, "b h 1 1 1"]]:
    """Mean and sqrt(unbiased variance + 1e-6) of each token over its valid values."""
    values = _count(target_valid, pixels.shape[-1])
    mean = _total(jnp.where(target_valid, pixels, 0.0)) / jnp.maximum(values, 1)
    squares = _total(jnp.where(target_valid, jnp.square(pixels - mean), 0.0))
    return mean, jnp.sqrt(squares / jnp.maximum(values - 1, 1) + _NORM_PIX_EPSILON)


def _count(target_valid: Bool[Array, "b h r s m"], bands: int) -> Float[Array, "b h 1 1 1"]:
    """How many values of each token count. Rows first: see `masking.valid_values`."""
    return _total(target_valid.sum(2, dtype=jnp.int32, keepdims=True).astype(jnp.float32)) * (
        bands // target_valid.shape[-1]
    )


def _total(x: Float[Array, "b h r s c"]) -> Float[Array, "b h 1 1 1"]:
    return x.sum((2, 3, 4), keepdims=True)
