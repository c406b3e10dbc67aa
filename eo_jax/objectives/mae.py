"""Masked autoencoder: hide most patch tokens, encode the rest, reconstruct the hidden pixels (He et
al. 2022, arXiv 2111.06377).

The spectral adapter comes before the patch embedding and sees visible tokens only. SpectralEarth's
own code runs it on all pixels; except for BatchNorm statistics, the result is the same. Values
without data take no part: not in the loss, not in the moments of norm_pix, not in BatchNorm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from eo_jax.augment import masking
from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import EVALUATE, REMAT, Mode, Network
from eo_jax.models.layers.attention_kernel import ATTENTIONS
from eo_jax.models.layers.transformer_block import RESIDUALS
from eo_jax.models.mae_decoder import PixelDecoder
from eo_jax.objectives.ops.checks import require_mask_ratio, require_tokens
from eo_jax.objectives.ops.collapse_metrics import feature_metrics
from eo_jax.objectives.ops.masked_tokens import count_valid, moments, put_pixels, take_pixels, total
from eo_jax.objectives.ops.single_encoder import SingleEncoder
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """MAE.

    Attributes:
        mask_ratio: fraction of patch tokens that are hidden.
        norm_pix_loss: reconstruct each token normalised by its own mean and (unbiased) variance
            over pixels and bands.
        decoder_width, decoder_depth, decoder_heads: the decoder.
        decoder_remat: what the backward pass through the decoder recomputes: "none", "cheap" or
            "block", as `config.model.trunk.remat`.
        decoder_residual, decoder_attention: as `config.model.trunk.residual` and `.attention`.
    """

    mask_ratio: float = 0.75
    norm_pix_loss: bool = True
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    decoder_remat: str = "cheap"
    decoder_residual: str = "float32"
    decoder_attention: str = "auto"

    def __post_init__(self):
        require_mask_ratio(self)
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise ValueError(
                f"config.objective.decoder_width: {self.decoder_width}; expected a multiple of 4 "
                f"and of decoder_heads {self.decoder_heads}"
            )
        for field, allowed in (
            ("decoder_remat", REMAT),
            ("decoder_residual", RESIDUALS),
            ("decoder_attention", ATTENTIONS),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"config.objective.{field}: {getattr(self, field)!r}; expected one of "
                    f"{', '.join(allowed)}"
                )

    def build(self, encoders: Mapping[str, Encoder]) -> MAE:
        """The objective for {source: encoder}, all with the same weights."""
        return MAE(self, encoders)


class Split(NamedTuple):
    """Ids of the patch tokens that the encoder sees, and of those that are masked."""

    visible: Int[Array, "b k"]
    masked: Int[Array, "b h"]


class MAE(SingleEncoder):
    """The objective; see the module docstring. Carry has the encoder's running statistics."""

    per_sensor = (*SingleEncoder.per_sensor, "decoder/predict")

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("mae", encoders)
        require_tokens("mae", self.encoder)
        self.config = config
        self.networks["decoder"] = Network(
            lambda rngs: PixelDecoder(
                self.encoder.width,
                config.decoder_width,
                config.decoder_depth,
                config.decoder_heads,
                config.decoder_remat,
                config.decoder_residual,
                config.decoder_attention,
                self.encoder.patch**2 * len(self.encoder.sensor.bands),
                self.encoder.dtype,
                rngs=rngs,
            )
        )

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        params, statistics = super().init(key)
        return params, {"encoder": statistics["encoder"]}

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        view, valid = self.only_view(views)
        mode = Mode("batch", key=jax.random.fold_in(key, 1))
        predicted, split, tokens, statistics = self._reconstruct(
            params, carry, view, valid, key, mode
        )
        pixels, target_valid = self._targets(view, valid, split)
        if self.config.norm_pix_loss:
            mean, std = moments(pixels, target_valid)
            pixels = (pixels - mean) / std
        loss = masked_error(predicted, pixels, target_valid)
        return loss, ({"encoder": statistics}, feature_metrics(tokens[:, 1:].mean(1)))

    def preview(
        self, params: Params, carry: Carry, views: Views, key: jax.Array
    ) -> dict[str, jax.Array]:
        """{"view", "valid", "reconstruction": [b, H, W, c], "masked": [b, H, W]} in normalised
        units; visible tokens are those of the view.

        With norm_pix_loss, "rescaled" takes the place of "reconstruction": it has the moments of
        the hidden pixels themselves, so it is a picture, not a result.
        """
        view, valid = self.only_view(views)
        predicted, split, _, _ = self._reconstruct(params, carry, view, valid, key, EVALUATE)
        title = "reconstruction"
        if self.config.norm_pix_loss:
            mean, std = moments(*self._targets(view, valid, split))
            title, predicted = "rescaled", predicted * std + mean
        patch, hidden = self.encoder.patch, jnp.ones((*predicted.shape[:-1], 1), bool)
        masked = put_pixels(jnp.zeros((*view.shape[:-1], 1), bool), split.masked, hidden, patch)
        image = put_pixels(view.astype(jnp.float32), split.masked, predicted, patch)
        return {"view": view, "valid": valid, title: image, "masked": masked[..., 0]}

    def _targets(
        self, view: Array, valid: Array, split: Split
    ) -> tuple[Float[Array, "b h r s c"], Bool[Array, "b h r s m"]]:
        """float32 pixels of the masked tokens and their valid mask, per band (m = c) or for all
        bands (m = 1).
        """
        patch = self.encoder.patch
        pixels = take_pixels(view.astype(jnp.float32), split.masked, patch)
        return pixels, take_pixels(valid, split.masked, patch)

    def _reconstruct(
        self, params: Params, carry: Carry, view: Array, valid: Array, key: jax.Array, mode: Mode
    ) -> tuple[Float[Array, "b h r s c"], Split, Float[Array, "b k1 d"], Carry]:
        """(pixels of the masked tokens, the split, the encoder's class and visible tokens, running
        statistics).
        """
        patch = self.encoder.patch
        rows, columns = view.shape[1] // patch, view.shape[2] // patch
        has_data = masking.valid_values(valid, patch) > 0
        visible = masking.visible_count(rows * columns, self.config.mask_ratio)
        split = Split(*masking.random_split(key, has_data, visible))
        tokens, statistics = self.encoder.network.apply(
            params["encoder"],
            carry["encoder"],
            lambda module: module.tokens(view, valid, split.visible, mode),
        )
        predicted, _ = self.networks["decoder"].apply(
            params["decoder"], {}, lambda module: module(tokens, *split, rows, columns)
        )
        pixels = predicted.reshape(*split.masked.shape, patch, patch, -1)
        return pixels, split, tokens, statistics


def masked_error(
    predicted: Float[Array, "b h r s c"],
    target: Float[Array, "b h r s c"],
    target_valid: Bool[Array, "b h r s m"],
) -> Float[Array, ""]:
    """Mean squared error over the valid values of each masked token, mean over the tokens that have
    any (section 3).
    """
    values = count_valid(target_valid, target.shape[-1])
    # Masked before the square, whose gradient at a NaN is NaN, also times 0.
    error = total(jnp.square(jnp.where(target_valid, predicted - target, 0.0)))
    error = error / jnp.maximum(values, 1)
    return jnp.where(values > 0, error, 0.0).sum() / jnp.maximum((values > 0).sum(), 1)
