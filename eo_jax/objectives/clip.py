"""Contrast between two sensors: the embeddings of one location are closer to each other than to
those of other locations.

Source: Radford et al. 2021, arXiv 2103.00020. The temperature is a setting, as in DeCUR's baseline;
CLIP learns it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.models.heads import normalise
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.ops.checks import require_positive
from eo_jax.objectives.ops.collapse_metrics import BATCH_ACCURACY, batch_accuracy
from eo_jax.objectives.ops.losses import cross_entropy_and_top1, dot
from eo_jax.objectives.ops.two_encoders import PairedSensors
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """Contrast between sensors, the baseline of DeCUR.

    Attributes:
        temperature: of the softmax. DeCUR's baseline has 1, with which embeddings of unit length
            hardly differ; CLIP starts at 0.07.
        projector: widths of the projectors' layers, the output last.
    """

    temperature: float = 0.07
    projector: tuple[int, ...] = (512, 128)

    def __post_init__(self):
        require_positive(self, "temperature")

    def build(self, encoders: Mapping[str, Encoder]) -> CLIP:
        """The objective for {source: encoder} of two sources."""
        return CLIP(self, encoders)


class CLIP(PairedSensors):
    """The objective; see the module docstring. Negatives come from the global batch."""

    crop_sets: Mapping[str, int] = {"global": 1}
    metrics: Mapping[str, Metric] = {**PairedSensors.metrics, **BATCH_ACCURACY}

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("clip", encoders, config.projector, "linear")
        self.config = config

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        embeddings, carry, metrics = self.embed_sources(params, carry, views, key)
        za, zb = (z[0] for z in embeddings)
        metrics |= batch_accuracy(za, zb)
        return clip_loss(za, zb, self.config.temperature), (carry, metrics)


def clip_loss(
    za: Float[Array, "b d"], zb: Float[Array, "b d"], temperature: float
) -> Float[Array, ""]:
    """Mean of the cross-entropies of both directions (figure 3)."""
    za, zb = normalise(za.astype(jnp.float32)), normalise(zb.astype(jnp.float32))
    logits, right = dot(za, zb.T) / temperature, jnp.arange(len(za))
    forward, backward = (cross_entropy_and_top1(x, right)[0] for x in (logits, logits.T))
    return (forward + backward) / 2
