"""Contrast between two sensors: the embeddings of one location are nearer to each other than to
those of other locations.

Source: Radford et al. 2021, arXiv 2103.00020. The temperature is a setting, as in DeCUR's baseline,
where CLIP learns it.
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
from eo_jax.objectives.ops.collapse_metrics import collapse_metrics
from eo_jax.objectives.ops.losses import BATCH_ACCURACY, cross_entropy_and_top1, dot
from eo_jax.objectives.ops.two_encoders import PairedSensors
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """Cross-sensor contrast, the baseline of DeCUR.

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
    """The objective; see the module docstring. Negatives are those of the global batch."""

    crop_sets: Mapping[str, int] = {"global": 1}
    metrics: Mapping[str, Metric] = {**PairedSensors.metrics, **BATCH_ACCURACY}

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("clip", encoders, config.projector, "linear")
        self.config = config

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        embeddings, metrics = [], {}
        for source, drop_key in zip(self.sources, jax.random.split(key), strict=True):
            features, z, carry = self.embed(params, carry, views, source, drop_key)
            embeddings.append(z[0])
            metrics |= {
                f"{name}/{source}": value
                for name, value in collapse_metrics(features[0], z[0]).items()
            }
        _, accuracy = cross_entropy_and_top1(
            normalise(embeddings[0]) @ normalise(embeddings[1]).T, jnp.arange(len(embeddings[0]))
        )
        return clip_loss(*embeddings, self.config.temperature), (
            carry,
            {"batch_accuracy": accuracy, **metrics},
        )


def clip_loss(
    za: Float[Array, "b d"], zb: Float[Array, "b d"], temperature: float
) -> Float[Array, ""]:
    """Mean of the cross-entropies of both directions (figure 3)."""
    logits = (
        dot(normalise(za.astype(jnp.float32)), normalise(zb.astype(jnp.float32)).T) / temperature
    )
    right = jnp.arange(len(logits))
    return (
        cross_entropy_and_top1(logits, right)[0] + cross_entropy_and_top1(logits.T, right)[0]
    ) / 2
