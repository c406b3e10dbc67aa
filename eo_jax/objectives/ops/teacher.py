"""A teacher that follows the student as an exponential moving average."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from jaxtyping import Array, Float

from eo_jax.models.functional import Mode
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.base import EncoderWeights
from eo_jax.objectives.ops.collapse_metrics import TEACHER_AGREEMENT
from eo_jax.objectives.ops.ema import ema
from eo_jax.objectives.ops.joint_embedding import JointEmbedding
from eo_jax.schema import Carry, Params, Views


class WithTeacher(JointEmbedding):
    """The same with a teacher: a copy of encoder and some heads that follows them as an exponential
    moving average, after the optimizer.

    Carry["teacher"] is {"params": ..., "statistics": ...}. The teacher starts as a copy, not as a
    network of its own.

    Attributes:
        copied: the networks that it has.
        statistics_of: whose running statistics its BatchNorm has: "teacher", moved by its own
            forward passes; "student", a copy after each step; or "average", which follow the
            student's as the weights follow its weights (EMAN, Cai et al. 2021, arXiv 2101.08482).
    """

    metrics: Mapping[str, Metric] = {**JointEmbedding.metrics, **TEACHER_AGREEMENT}
    copied: tuple[str, ...] = ("encoder", "projector")
    statistics_of: str = "teacher"

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        params, statistics = self.init_networks(key)

        def only(tree):
            return {name: tree[name] for name in self.copied}

        return params, {
            **statistics,
            "teacher": {"params": only(params), "statistics": only(statistics)},
        }

    def momentum(self, progress: jax.Array) -> float | jax.Array:
        """Share of the teacher that stays, at this progress."""
        raise NotImplementedError

    def teacher_embed(
        self, carry: Carry, view: Array, valid: Array, mode: Mode
    ) -> tuple[Float[Array, "b k"], Carry]:
        """(what the teacher's projector makes of a view, without gradient, the carry after it)."""
        teacher = carry["teacher"]
        _, projected, statistics = self.embed(
            teacher["params"], teacher["statistics"], view, valid, mode
        )
        return jax.lax.stop_gradient(projected), {
            **carry,
            "teacher": {**teacher, "statistics": statistics},
        }

    def predict_pair(
        self, params: Params, carry: Carry, views: Views, key: jax.Array
    ) -> tuple[Array, Array, Array, Carry]:
        """(pooled features of the two views, the head "predictor" on each, what the teacher's
        projector makes of each, carry).
        """
        features, embeddings, carry = self.embed_pair(params, carry, views, key)
        predicted, carry = self.head("predictor", params, carry, embeddings, Mode("batch"))
        teacher = carry["teacher"]
        seen, statistics = self.pooled_pair(
            teacher["params"], teacher["statistics"], views, Mode("batch")
        )
        targets, statistics = self.head(
            "projector", teacher["params"], statistics, seen, Mode("batch")
        )
        return (
            features,
            predicted,
            jax.lax.stop_gradient(targets),
            {**carry, "teacher": {**teacher, "statistics": statistics}},
        )

    def ema_update(self, params: Params, carry: Carry, progress: jax.Array) -> Carry:
        teacher, momentum = carry["teacher"], self.momentum(progress)

        def of_student(tree):
            return {name: tree[name] for name in self.copied}

        statistics = self._statistics(teacher["statistics"], of_student(carry), momentum)
        return {
            **carry,
            "teacher": {
                "params": ema(teacher["params"], of_student(params), momentum),
                "statistics": statistics,
            },
        }

    def _statistics(self, teacher: Carry, student: Carry, momentum: float | jax.Array) -> Carry:
        if self.statistics_of == "teacher":
            return teacher
        return student if self.statistics_of == "student" else ema(teacher, student, momentum)

    def encoders(self, params: Params, carry: Carry) -> dict[str, EncoderWeights]:
        teacher = carry["teacher"]
        weights = {
            "source": self.source,
            "params": teacher["params"]["encoder"],
            "statistics": teacher["statistics"]["encoder"],
        }
        return super().encoders(params, carry) | {f"{self.source}.teacher": weights}
