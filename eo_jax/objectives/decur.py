"""DeCUR: Barlow Twins within each of two sensors and between them, where some dimensions are common
to both and the others unique to each.

Source: Wang et al. 2024, arXiv 2309.05300. As in the paper, each sensor has a projector, and
correlations are over the whole batch. The released code shares one projector, divides by a batch of
four processes whatever their number, never trains the second sensor's deformable attention, and
weights the terms between sensors half as much as those within; none of that is repeated. (We know
the paper's sum from an implementation that was written after its equations, not from the paper
itself.) Deformable attention is an option of the `resnet` trunk; each sensor has its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.objectives.barlow_twins import distance, standardise
from eo_jax.objectives.ops.two_encoders import PairedSensors
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """DeCUR.

    Attributes:
        common: dimensions of the embedding that both sensors share; 7168 of 8192 for radar and
            optical, 6144 for RGB with elevation or depth.
        off_diagonal: weight lambda of the off-diagonal terms.
        projector: widths of the projectors' layers, the output last.
    """

    common: int = 7168
    off_diagonal: float = 0.0051
    projector: tuple[int, ...] = (8192, 8192, 8192)

    def __post_init__(self):
        if not 0 < self.common < self.projector[-1]:
            raise ValueError(
                f"config.objective.common: {self.common}; expected more than 0 and less than the "
                f"embedding's {self.projector[-1]} dimensions"
            )

    def build(self, encoders: Mapping[str, Encoder]) -> DeCUR:
        """The objective for {source: encoder} of two sources."""
        return DeCUR(self, encoders)


class DeCUR(PairedSensors):
    """The objective; see the module docstring. Each view of each sensor has BatchNorm statistics of
    its own.
    """

    crop_sets: Mapping[str, int] = {"global": 2}

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("decur", encoders, config.projector, "bias_free")
        self.config = config

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        embeddings, carry, metrics = self.embed_sources(params, carry, views, key)
        first_and_second = [z[i] for z in embeddings for i in (0, 1)]
        loss = decur_loss(*first_and_second, self.config.common, self.config.off_diagonal)
        return loss, (carry, metrics)


def decur_loss(
    z1a: Float[Array, "b d"],
    z1b: Float[Array, "b d"],
    z2a: Float[Array, "b d"],
    z2b: Float[Array, "b d"],
    common: int,
    off_diagonal: float,
) -> Float[Array, ""]:
    """L_common + L_unique + L_1 + L_2: between the first views of both sensors, and Barlow Twins of
    each sensor's two views.

    Between sensors, common dimensions should correlate and unique ones should not; correlations
    between the two blocks are free (section 3.2).
    """
    first_a, first_b, second_a, second_b = map(standardise, (z1a, z1b, z2a, z2b))
    shared = distance(first_a[:, :common], second_a[:, :common], 1.0, off_diagonal)
    unique = distance(first_a[:, common:], second_a[:, common:], 0.0, off_diagonal)
    within = distance(first_a, first_b, 1.0, off_diagonal) + distance(
        second_a, second_b, 1.0, off_diagonal
    )
    return shared + unique + within
