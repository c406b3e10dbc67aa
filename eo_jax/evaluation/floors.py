"""Features without pretraining. A trained encoder below the statistics of its input is likely fed
with wrong numbers.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eo_jax.augment.radiometry import normalise

IMAGE_STATISTICS = "imagestats"  # its title in tables, as torchgeo-bench has it
RANDOM, UNTRAINED, FROM_SCRATCH = "random convolutions", "untrained encoder", "from scratch"
FLOORS = (IMAGE_STATISTICS, RANDOM, UNTRAINED, FROM_SCRATCH)
_FILTERS, _SIDE = 256, 3


@dataclasses.dataclass(frozen=True, eq=False)
class Floor:
    """What floors share.

    Attributes:
        mean, std: float32 [c], of the input.
        patch: side in pixels of a dense feature.
    """

    mean: np.ndarray
    std: np.ndarray
    patch: int

    @property
    def facts(self) -> dict[str, Any]:
        """What decides its features."""
        numbers = {"mean": self.mean.tolist(), "std": self.std.tolist()}
        return {"floor": type(self).__name__, "patch": self.patch, **numbers}


class ImageStatistics(Floor):
    """Mean and standard deviation of each normalised band over the valid pixels of a window or
    token.
    """

    def pooled(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """float32 [b, 2 c]."""
        return _moments(self._normalised(pixels), valid, (2, 3)).astype(np.float32)

    def dense(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """float32 [b, h, w, 2 c]."""
        b, c, height, width = pixels.shape
        cut = (b, c, height // self.patch, self.patch, width // self.patch, self.patch)
        view = self._normalised(pixels)
        found = _moments(view.reshape(cut), valid.reshape(cut), (3, 5))
        return np.moveaxis(found, 1, -1).astype(np.float32)

    def _normalised(self, pixels: np.ndarray) -> np.ndarray:
        return (pixels - self.mean[:, None, None]) / self.std[:, None, None]


def _moments(pixels: np.ndarray, valid: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Mean and standard deviation side by side on axis 1; 0 where nothing is valid."""
    count = np.maximum(valid.sum(axes), 1)
    values = np.where(valid, pixels.astype(np.float64), 0)
    mean = values.sum(axes) / count
    centred = np.where(valid, values - np.expand_dims(mean, axes), 0)
    return np.concatenate([mean, np.sqrt(np.square(centred).sum(axes) / count)], axis=1)


class RandomConvolutions(Floor):
    """Random convolutional features (Rolf et al. 2021, arXiv 2010.08168): 256 Gaussian filters of
    3 x 3, ReLU of the answers and of their negatives, the mean over a window or a token.
    """

    def pooled(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """float32 [b, 512]."""
        return np.asarray(self._answers(pixels, valid).mean((1, 2)))

    def dense(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """float32 [b, h, w, 512]."""
        answers = self._answers(pixels, valid)
        b, height, width, d = answers.shape
        cut = (b, height // self.patch, self.patch, width // self.patch, self.patch, d)
        return np.asarray(answers.reshape(cut).mean((2, 4)))

    @functools.cached_property
    def _answers(self) -> Any:
        filters = jax.random.normal(jax.random.key(0), (_SIDE, _SIDE, len(self.mean), _FILTERS))
        filters /= _SIDE * np.sqrt(len(self.mean))

        @jax.jit
        def answers(pixels: jax.Array, valid: jax.Array) -> jax.Array:
            view = jnp.moveaxis(normalise(pixels, valid, self.mean, self.std), 1, -1)
            found = jax.lax.conv_general_dilated(
                jnp.where(jnp.moveaxis(valid, 1, -1), view, 0.0),
                filters,
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            return jnp.concatenate([jax.nn.relu(found), jax.nn.relu(-found)], axis=-1)

        return answers
