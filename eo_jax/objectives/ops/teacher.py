"""The base of objectives with a teacher, an exponential moving average of the student."""

from __future__ import annotations

from collections.abc import Mapping

import jax
from jaxtyping import Array, Float

from eo_jax.models.functional import Mode
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.base import EncoderWeights, HeadWeights
from eo_jax.objectives.ops.collapse_metrics import TEACHER_AGREEMENT
from eo_jax.objectives.ops.ema import ema
from eo_jax.objectives.ops.joint_embedding import JointEmbedding
from eo_jax.objectives.ops.single_encoder import heads_of
from eo_jax.schema import Carry, Params, Views


class WithTeacher(JointEmbedding):
    """Base of joint-embedding objectives with a teacher, which is updated after the optimizer.

    The teacher starts as a copy of the student's encoder and of some heads. Carry["teacher"] is
    {"params": ..., "statistics": ...}.

    Attributes:
        teacher_networks: the networks that the teacher has.
        statistics_of: whose running statistics its BatchNorm has: "teacher", those of its own
            forward passes; "student", a copy after each step; or "average", an average of the
            student's with the momentum of the weights (EMAN, Cai et al. 2021, arXiv 2101.08482).
    """

    metrics: Mapping[str, Metric] = {**JointEmbedding.metrics, **TEACHER_AGREEMENT}
    teacher_networks: tuple[str, ...] = ("encoder", "projector")
    statistics_of: str = "teacher"

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        params, statistics = super().init(key)
        teacher = {
            "params": self._teacher_part(params),
            "statistics": self._teacher_part(statistics),
        }
        return params, {**statistics, "teacher": teacher}

    def momentum(self, progress: jax.Array) -> float | jax.Array:
        """Fraction of the teacher that an update keeps, at this progress."""
        raise NotImplementedError

    def teacher_embed(
        self, carry: Carry, view: Array, valid: Array, mode: Mode
    ) -> tuple[Float[Array, "b k"], Carry]:
        """(the teacher's embedding of a view, without gradient, new carry)."""
        teacher = carry["teacher"]
        _, embedding, statistics = self.embed(
            teacher["params"], teacher["statistics"], view, valid, mode
        )
        return jax.lax.stop_gradient(embedding), with_statistics(carry, statistics)

    def predict_pair(
        self, params: Params, carry: Carry, views: Views, key: jax.Array
    ) -> tuple[Float[Array, "2 b d"], Float[Array, "2 b k"], Float[Array, "2 b k"], Carry]:
        """(pooled features of both views, the output of the head "predictor" for each, the
        teacher's embedding of each, without gradient, new carry).
        """
        features, embeddings, carry = self.embed_pair(params, carry, views, key)
        predicted, carry = self.head("predictor", params, carry, embeddings, Mode("batch"))
        teacher = carry["teacher"]
        encoded, statistics = self.encode_pair(
            teacher["params"], teacher["statistics"], views, Mode("batch")
        )
        targets, statistics = self.head(
            "projector", teacher["params"], statistics, encoded, Mode("batch")
        )
        carry = with_statistics(carry, statistics)
        return features, predicted, jax.lax.stop_gradient(targets), carry

    def ema_update(self, params: Params, carry: Carry, progress: jax.Array) -> Carry:
        teacher, momentum = carry["teacher"], self.momentum(progress)
        statistics = self._statistics(teacher["statistics"], self._teacher_part(carry), momentum)
        weights = ema(teacher["params"], self._teacher_part(params), momentum)
        return {**carry, "teacher": {"params": weights, "statistics": statistics}}

    def encoders(self, params: Params, carry: Carry) -> dict[str, EncoderWeights]:
        teacher = carry["teacher"]
        weights = {
            "source": self.source,
            "params": teacher["params"]["encoder"],
            "statistics": teacher["statistics"]["encoder"],
        }
        return super().encoders(params, carry) | {f"{self.source}.teacher": weights}

    def heads(self, params: Params, carry: Carry) -> dict[str, HeadWeights]:
        teacher = carry["teacher"]
        names = [name for name in self.teacher_networks if name != "encoder"]
        found = heads_of(names, teacher["params"], teacher["statistics"])
        return super().heads(params, carry) | {f"{self.source}.teacher": found}

    def _teacher_part(self, tree: dict) -> dict:
        """The student's part of Params or Carry that the teacher has too."""
        return {name: tree[name] for name in self.teacher_networks}

    def _statistics(self, teacher: Carry, student: Carry, momentum: float | jax.Array) -> Carry:
        if self.statistics_of == "teacher":
            return teacher
        return student if self.statistics_of == "student" else ema(teacher, student, momentum)


def with_statistics(carry: Carry, statistics: Carry) -> Carry:
    """The carry with new running statistics of the teacher."""
    return {**carry, "teacher": {**carry["teacher"], "statistics": statistics}}
