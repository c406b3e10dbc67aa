"""DINO: a student that sees global and local crops predicts what its teacher makes of the global
ones (Caron et al. 2021, arXiv 2104.14294).

The teacher's momentum rises over the whole run; SpectralEarth's code lets it reach 1 after ten of a
hundred epochs, which freezes the teacher.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import Mode, Network
from eo_jax.models.heads import DinoHead, normalise
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.base import EncoderWeights
from eo_jax.objectives.ops.checks import require_fractions, require_positive
from eo_jax.objectives.ops.collapse_metrics import PROTOTYPES_USED, collapse_metrics, fraction_used
from eo_jax.objectives.ops.ema import cosine_ramp
from eo_jax.objectives.ops.losses import dot
from eo_jax.objectives.ops.teacher import WithTeacher
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """DINO. How many crops there are, and their sizes, is what the recipe gives: "global" (two or
    more) and, if present, "local".

    Attributes:
        prototypes: outputs k of the head.
        hidden, bottleneck: widths of the head.
        momentum: share of the teacher that stays at each step, at the beginning; it rises to 1
            along half a cosine.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's, from `teacher_temperature_warmup` on.
        warmup_teacher_temperature: of the teacher's at the first step; it changes linearly.
        teacher_temperature_warmup: share of the run.
        centre_momentum: share of the centre that stays at each step.
        koleo_weight: weight of the KoLeo regulariser on the pooled features of each global crop, as
            DINOv2 adds them up; 0 for none.
    """

    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    momentum: float = 0.996
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    warmup_teacher_temperature: float = 0.04
    teacher_temperature_warmup: float = 0.0
    centre_momentum: float = 0.9
    koleo_weight: float = 0.0

    def __post_init__(self):
        require_positive(
            self,
            "prototypes",
            "hidden",
            "bottleneck",
            "student_temperature",
            "teacher_temperature",
            "warmup_teacher_temperature",
        )
        require_fractions(self, "teacher_temperature_warmup", "momentum", "centre_momentum")

    def build(self, encoders: Mapping[str, Encoder]) -> DINO:
        """The objective for {source: encoder}, all of the same weights."""
        return DINO(self, encoders)


class DINO(WithTeacher):
    """The objective; see the module docstring. Crops of one size make one forward pass and share
    BatchNorm statistics, in either branch.
    """

    crop_sets: Mapping[str, int] = {"global": 2, "local": 0}
    metrics: Mapping[str, Metric] = {
        **WithTeacher.metrics,
        **PROTOTYPES_USED,
        "teacher_temperature": Metric(""),
    }

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("dino", encoders)
        self.config = config

        def head(rngs):
            return DinoHead(
                self.encoder.width,
                config.hidden,
                config.bottleneck,
                config.prototypes,
                self.encoder.dtype,
                rngs=rngs,
            )

        self.networks["projector"] = Network(head)

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        params, carry = super().init(key)
        return params, {**carry, "centre": jnp.zeros(self.config.prototypes)}

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        targets, carry = self._targets(carry, views)
        features, carry = self.pooled_crops(params, carry, views, key)
        student, carry = self.head("projector", params, carry, features, Mode("batch"))
        temperature = self._teacher_temperature(progress)
        loss = dino_loss(
            student, targets, carry["centre"], self.config.student_temperature, temperature
        )
        if self.config.koleo_weight:
            loss = loss + self.config.koleo_weight * jax.vmap(koleo)(features[: len(targets)]).sum()
        metrics = {
            "teacher_temperature": temperature,
            **agreement(student, targets - carry["centre"]),
            **collapse_metrics(features[0], student[0]),
        }
        return loss, (
            {**carry, "centre": new_centre(carry["centre"], targets, self.config.centre_momentum)},
            metrics,
        )

    def momentum(self, progress: jax.Array) -> jax.Array:
        return cosine_ramp(self.config.momentum, 1.0, progress)

    def encoders(self, params: Params, carry: Carry) -> dict[str, EncoderWeights]:
        """The teacher's first: it is the better one throughout (section 5)."""
        return dict(reversed(super().encoders(params, carry).items()))

    def _targets(self, carry: Carry, views: Views) -> tuple[Float[Array, "v b k"], Carry]:
        teacher = carry["teacher"]
        features, statistics = self.pooled_set(
            teacher["params"], teacher["statistics"], views, "global", Mode("batch")
        )
        output, statistics = self.head(
            "projector", teacher["params"], statistics, features, Mode("batch")
        )
        return jax.lax.stop_gradient(output), {
            **carry,
            "teacher": {**teacher, "statistics": statistics},
        }

    def _teacher_temperature(self, progress: jax.Array) -> jax.Array:
        config = self.config
        risen = (
            jnp.clip(progress / config.teacher_temperature_warmup, 0.0, 1.0)
            if config.teacher_temperature_warmup
            else 1.0
        )
        return config.warmup_teacher_temperature + (
            config.teacher_temperature - config.warmup_teacher_temperature
        ) * jnp.asarray(risen, jnp.float32)


def dino_loss(
    student: Float[Array, "vs b k"],
    teacher: Float[Array, "vt b k"],
    centre: Float[Array, " k"],
    student_temperature: float,
    teacher_temperature: float | jax.Array,
) -> Float[Array, ""]:
    """Cross-entropy of each student view against each teacher view but its own, mean over the pairs
    and the batch (equations 1 to 3).

    Args:
        student: head outputs of all crops; the first ones are the crops that the teacher saw, in
            the same order.
    """
    targets = jax.lax.stop_gradient(
        jax.nn.softmax(
            (teacher.astype(jnp.float32) - centre.astype(jnp.float32)) / teacher_temperature
        )
    )
    predicted = jax.nn.log_softmax(student.astype(jnp.float32) / student_temperature)
    pairs = (
        -jnp.einsum("ibk,jbk->ij", targets, predicted, precision=jax.lax.Precision.HIGHEST)
        / student.shape[1]
    )
    different = ~jnp.eye(*pairs.shape, dtype=bool)
    return jnp.where(different, pairs, 0.0).sum() / different.sum()


def new_centre(
    centre: Float[Array, " k"], teacher: Float[Array, "v b k"], momentum: float
) -> Float[Array, " k"]:
    """The centre after a batch: an exponential moving average of the mean output over views and the
    global batch (equation 4).
    """
    return momentum * centre.astype(jnp.float32) + (1 - momentum) * teacher.astype(
        jnp.float32
    ).mean((0, 1))


def koleo(x: Float[Array, "b d"]) -> Float[Array, ""]:
    """-mean log distance to the nearest other row, on the unit sphere: spreads features
    (Sablayrolles et al. 2019, as in DINOv2).
    """
    x = normalise(x.astype(jnp.float32))
    similarity = jnp.where(jnp.eye(len(x), dtype=bool), -jnp.inf, dot(x, x.T))
    nearest = x[jax.lax.stop_gradient(similarity).argmax(1)]
    squared = jnp.square(x - nearest).sum(1)
    apart = squared > 0  # the square root has no gradient at 0
    return -jnp.log(jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0) + 1e-8).mean()


def agreement(student: Float[Array, "vs b k"], teacher: Float[Array, "vt b k"]) -> Metrics:
    """Signs of collapse, without gradient.

    "teacher_agreement": share of rows where the student's second view has the prototype of the
    teacher's first; "prototypes_used": how many any teacher view has, as a share of how many could
    be.
    """
    chosen = jax.lax.stop_gradient(teacher).argmax(-1)
    same = jax.lax.stop_gradient(student[1]).argmax(-1) == chosen[0]
    return {
        "teacher_agreement": same.mean(dtype=jnp.float32),
        "prototypes_used": fraction_used(chosen.ravel(), teacher.shape[-1]),
    }
