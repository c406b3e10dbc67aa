"""DINO: a student predicts, from global and local crops, its teacher's output for the global ones
(Caron et al. 2021, arXiv 2104.14294).

The teacher's momentum rises over the whole run; in SpectralEarth's code it reaches 1 after ten of a
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
from eo_jax.objectives.ops.losses import cross_view_entropy, dot
from eo_jax.objectives.ops.teacher import WithTeacher, with_statistics
from eo_jax.schema import Carry, Metrics, Params, Views


@dataclasses.dataclass(frozen=True)
class Config:
    """DINO. The recipe decides number and size of the crops: "global" (two) and, optionally,
    "local".

    Attributes:
        prototypes: outputs k of the head.
        hidden, bottleneck: widths of the head.
        momentum: fraction of the teacher that each step keeps at the start; it rises to 1 along
            half a cosine.
        student_temperature: of the student's softmax.
        teacher_temperature: of the teacher's, from `teacher_temperature_warmup` on.
        warmup_teacher_temperature: of the teacher's at the first step; it changes linearly.
        teacher_temperature_warmup: fraction of the run.
        centre_momentum: fraction of the centre that each step keeps.
        koleo_weight: weight of the KoLeo regulariser, summed over the pooled features of the global
            crops as in DINOv2; 0 for none.
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
        require_positive(self, "prototypes", "hidden", "bottleneck", "student_temperature")
        require_positive(self, "teacher_temperature", "warmup_teacher_temperature")
        require_fractions(self, "teacher_temperature_warmup", "momentum", "centre_momentum")

    def build(self, encoders: Mapping[str, Encoder]) -> DINO:
        """The objective for {source: encoder}, all with the same weights."""
        return DINO(self, encoders)


class DINO(WithTeacher):
    """The objective; see the module docstring. Crops of one size make one forward pass and share
    BatchNorm statistics, in both branches.
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
        widths = self.encoder.width, config.hidden, config.bottleneck, config.prototypes
        self.networks["projector"] = Network(
            lambda rngs: DinoHead(*widths, self.encoder.dtype, rngs=rngs)
        )

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        params, carry = super().init(key)
        return params, {**carry, "centre": jnp.zeros(self.config.prototypes)}

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        config, centre = self.config, carry["centre"]
        targets, carry = self._targets(carry, views)
        features, carry = self.encode_crops(params, carry, views, key)
        student, carry = self.head("projector", params, carry, features, Mode("batch"))
        temperature = self._teacher_temperature(progress)
        loss = dino_loss(student, targets, centre, config.student_temperature, temperature)
        if config.koleo_weight:
            loss = loss + config.koleo_weight * jax.vmap(koleo)(features[: len(targets)]).sum()
        metrics = {
            "teacher_temperature": temperature,
            **prototype_agreement(student, targets - centre),
            **collapse_metrics(features[0], student[0]),
        }
        carry = {**carry, "centre": new_centre(centre, targets, config.centre_momentum)}
        return loss, (carry, metrics)

    def momentum(self, progress: jax.Array) -> jax.Array:
        return cosine_ramp(self.config.momentum, 1.0, progress)

    def encoders(self, params: Params, carry: Carry) -> dict[str, EncoderWeights]:
        """The teacher's first: it is the better one throughout (section 5)."""
        return dict(reversed(super().encoders(params, carry).items()))

    def _targets(self, carry: Carry, views: Views) -> tuple[Float[Array, "v b k"], Carry]:
        """(the teacher's head outputs for the global views, without gradient, new carry)."""
        teacher = carry["teacher"]
        features, statistics = self.encode_crop_set(
            teacher["params"], teacher["statistics"], views, "global", Mode("batch")
        )
        output, statistics = self.head(
            "projector", teacher["params"], statistics, features, Mode("batch")
        )
        return jax.lax.stop_gradient(output), with_statistics(carry, statistics)

    def _teacher_temperature(self, progress: jax.Array) -> jax.Array:
        start, end = self.config.warmup_teacher_temperature, self.config.teacher_temperature
        warmup = self.config.teacher_temperature_warmup
        risen = jnp.clip(progress / warmup, 0.0, 1.0) if warmup else 1.0
        return start + (end - start) * jnp.asarray(risen, jnp.float32)


def dino_loss(
    student: Float[Array, "vs b k"],
    teacher: Float[Array, "vt b k"],
    centre: Float[Array, " k"],
    student_temperature: float,
    teacher_temperature: float | jax.Array,
) -> Float[Array, ""]:
    """Cross-entropy of each student view against each teacher view except its own, mean over the
    pairs and the batch (equations 1 to 3).

    Args:
        student: head outputs for all crops; the first ones are the teacher's crops, in the same
            order.
    """
    centred = teacher.astype(jnp.float32) - centre.astype(jnp.float32)
    targets = jax.lax.stop_gradient(jax.nn.softmax(centred / teacher_temperature))
    predicted = jax.nn.log_softmax(student.astype(jnp.float32) / student_temperature)
    return cross_view_entropy(targets, predicted)


def new_centre(
    centre: Float[Array, " k"], teacher: Float[Array, "v b k"], momentum: float
) -> Float[Array, " k"]:
    """The centre after a batch: an exponential moving average of the mean output over views and the
    global batch (equation 4).
    """
    mean = teacher.astype(jnp.float32).mean((0, 1))
    return momentum * centre.astype(jnp.float32) + (1 - momentum) * mean


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


def prototype_agreement(
    student: Float[Array, "vs b k"], teacher: Float[Array, "vt b k"]
) -> Metrics:
    """Signs of collapse, without gradient.

    "teacher_agreement": fraction of rows where the student's second view has the prototype of the
    teacher's first; "prototypes_used": see `fraction_used`, over all teacher views.
    """
    chosen = jax.lax.stop_gradient(teacher).argmax(-1)
    same = jax.lax.stop_gradient(student[1]).argmax(-1) == chosen[0]
    return {
        "teacher_agreement": same.mean(dtype=jnp.float32),
        "prototypes_used": fraction_used(chosen.ravel(), teacher.shape[-1]),
    }
