"""A network of dense layers on the spectrum of each pixel.

For scenes of a few thousand pixels, where `spectral_cnn` takes ten times as long; see
docs/few-label.md.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.models.encoder import patchify
from eo_jax.models.functional import Mode, gelu
from eo_jax.models.layers.batch_norm import BatchNorm
from eo_jax.models.layers.dense import Dense
from eo_jax.models.layers.windows import check_divides, check_window


@dataclasses.dataclass(frozen=True)
class Config:
    """A dense trunk for pixels, behind the stem "identity".

    Attributes:
        window: side in pixels of the window over which features are averaged, odd, 1 to 15; a
            larger view is cut into windows.
        width: length d of a feature.
        hidden: width of the hidden layers.
        layers: their number.
    """

    window: int = 1
    width: int = 64
    hidden: int = 256
    layers: int = 2

    input_kind: ClassVar[str] = "image"

    def __post_init__(self):
        check_window(self.window)
        for field in ("width", "hidden", "layers"):
            if getattr(self, field) < 1:
                raise ValueError(
                    f"config.model.trunk.{field}: {getattr(self, field)}; expected at least 1"
                )

    @property
    def stride(self) -> int:
        """Side of a feature in pixels."""
        return self.window

    def build(self, channels: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> SpectralMLP:
        """The trunk for images of `channels` bands."""
        return SpectralMLP(self, channels, dtype, rngs=rngs)


class SpectralMLP(nnx.Module):
    """[b, h, w, c] -> one feature per window, [b, h / window, w / window, d]. BatchNorm and GELU
    follow every hidden layer.
    """

    def __init__(self, config: Config, channels: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        widths = [channels] + [config.hidden] * config.layers
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            setattr(self, f"dense{i}", Dense(fan_in, fan_out, dtype, rngs=rngs))
            setattr(self, f"norm{i}", BatchNorm(fan_out))
        self.embed = Dense(config.hidden, config.width, dtype, rngs=rngs)
        self.config, self.dtype = config, dtype

    def __call__(
        self, image: Float[Array, "b h w c"], valid: Bool[Array, "b h w"], mode: Mode
    ) -> Float[Array, "b h2 w2 d"]:
        """Only `valid` pixels count in the statistics and in the mean of a window."""
        window = self.config.window
        check_divides(window, image.shape)
        pixels = patchify(image, window)
        inside = patchify(valid[..., None], window)[..., 0]
        features = self._features(pixels.reshape(-1, pixels.shape[-1]), inside.reshape(-1), mode)
        features = features.reshape(*inside.shape, -1)
        weight = inside[..., None].astype(features.dtype)
        mean = (features * weight).sum(2) / jnp.maximum(weight.sum(2), 1)
        return mean.reshape(len(image), image.shape[1] // window, image.shape[2] // window, -1)

    def _features(
        self, x: Float[Array, "r c"], valid: Bool[Array, " r"], mode: Mode
    ) -> Float[Array, "r d"]:
        x = x.astype(self.dtype)
        for i in range(self.config.layers):
            dense, norm = getattr(self, f"dense{i}"), getattr(self, f"norm{i}")
            x = gelu(norm(dense(x), valid, mode))
        return self.embed(x)
