"""A transformer over the spectrum of single pixels and small windows: one token per group of
neighbouring bands.

After SpectralFormer (Hong et al. 2022, arXiv 2107.02988), which embeds each band of a pixel or a
window with its neighbours. Here groups do not overlap, which divides the number of tokens by the
size of a group; the cross-layer fusion is left out, and positions are fixed.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.encoder import patchify
from eo_jax.models.functional import Mode
from eo_jax.models.layers.dense import Dense
from eo_jax.models.layers.position_embedding import sincos_2d
from eo_jax.models.layers.windows import check_divides, check_window
from eo_jax.models.trunks import vit


@dataclasses.dataclass(frozen=True)
class Config:
    """A transformer trunk for pixels, behind the stem "identity".

    Attributes:
        window: side in pixels of the window that makes one feature, odd, 1 to 15; a larger view is
            cut into windows.
        bands_per_token: neighbouring bands per token; the last group may have fewer.
        size: see `vit.Config`.
        depth: number of blocks; 0 for that of the size.
    """

    window: int = 1
    bands_per_token: int = 8
    size: str = "nano"
    depth: int = 0

    input_kind: ClassVar[str] = "image"

    def __post_init__(self):
        check_window(self.window)
        if self.bands_per_token < 1:
            raise ValueError(
                f"config.model.trunk.bands_per_token: {self.bands_per_token}; expected at least 1 "
                "band"
            )
        _ = self.blocks

    @property
    def blocks(self) -> vit.Config:
        """The transformer inside; ValueError for a size or depth that vit does not have."""
        return vit.Config(size=self.size, depth=self.depth)

    @property
    def width(self) -> int:
        """Length d of a feature."""
        return self.blocks.width

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return self.blocks.layers

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.blocks.heads

    @property
    def stride(self) -> int:
        """Side of a feature in pixels."""
        return self.window

    def build(self, channels: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> SpectrumTransformer:
        """The trunk, for any number of bands."""
        return SpectrumTransformer(self, dtype, rngs=rngs)


class SpectrumTransformer(nnx.Module):
    """[b, h, w, c] -> one feature per window, [b, h / window, w / window, d]: the mean of its
    normalised tokens.
    """

    def __init__(self, config: Config, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.embed = Dense(
            config.bands_per_token * config.window**2, config.width, dtype, rngs=rngs
        )
        self.trunk = config.blocks.build(dtype, rngs)
        self.config = config

    def __call__(
        self, image: Float[Array, "b h w c"], valid: Bool[Array, "b h w"], mode: Mode
    ) -> Float[Array, "b h2 w2 d"]:
        """`valid` is not used: other pixels are 0, the training mean."""
        window = self.config.window
        check_divides(window, image.shape)
        spectra = patchify(image, window)
        tokens = self.embed(self._group_bands(spectra.reshape(-1, *spectra.shape[2:])))
        grid = (1, tokens.shape[1])
        tokens = tokens + jnp.asarray(sincos_2d(self.config.width, *grid), tokens.dtype)
        features = self.trunk(tokens, grid, mode)[:, 1:].mean(1)
        return features.reshape(len(image), image.shape[1] // window, image.shape[2] // window, -1)

    def _group_bands(self, pixels: Float[Array, "r p c"]) -> Float[Array, "r n g"]:
        """One token per group of bands, with its values in all pixels of the window; the last group
        is zero-padded.
        """
        rows, inside, bands = pixels.shape
        padded = jnp.pad(pixels, ((0, 0), (0, 0), (0, -bands % self.config.bands_per_token)))
        return (
            padded.reshape(rows, inside, -1, self.config.bands_per_token)
            .swapaxes(1, 2)
            .reshape(rows, -1, inside * self.config.bands_per_token)
        )
