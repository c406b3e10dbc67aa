"""Metrics that show whether embeddings have collapsed, all without gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eo_jax.models.heads import normalise
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.ops.losses import cross_entropy_and_top1, dot
from eo_jax.schema import Metrics

COLLAPSE_METRICS = {
    "feature_std": Metric("Spread of features; 0 is collapse", "std"),
    "embedding_std": Metric("Spread of what the loss compares", "embedding std"),
    "feature_rank": Metric("Directions that features use", "rank"),
}
FEATURE_METRICS = {name: COLLAPSE_METRICS[name] for name in ("feature_std", "feature_rank")}
TEACHER_AGREEMENT = {"teacher_agreement": Metric("Agreement of teacher and student", "agree")}
PROTOTYPES_USED = {"prototypes_used": Metric("Share of prototypes in use", "prototypes")}
BATCH_ACCURACY = {"batch_accuracy": Metric("Accuracy in the batch", "batch acc")}


def agreement(student: Float[Array, "*rows k"], teacher: Float[Array, "*rows k"]) -> Metrics:
    """{"teacher_agreement": mean cosine of the student's and the teacher's outputs}."""
    student, teacher = (
        normalise(jax.lax.stop_gradient(x).astype(jnp.float32)) for x in (student, teacher)
    )
    return {"teacher_agreement": (student * teacher).sum(-1).mean()}


def batch_accuracy(queries: Float[Array, "b k"], keys: Float[Array, "b k"]) -> Metrics:
    """{"batch_accuracy": fraction of queries that are closest to their own key}."""
    cosines = normalise(queries) @ normalise(keys).T
    return {"batch_accuracy": cross_entropy_and_top1(cosines, jnp.arange(len(queries)))[1]}


def fraction_used(chosen: Int[Array, " m"], number: int) -> Float[Array, ""]:
    """How many of `number` prototypes or classes the m choices cover, as a fraction of the most
    that they could.
    """
    used = jnp.zeros(number, bool).at[chosen].set(True)
    return used.sum(dtype=jnp.float32) / min(len(chosen), number)


def feature_metrics(features: Float[Array, "b d"]) -> Metrics:
    """How far features are from collapse.

    "feature_std": standard deviation over the batch of the entries of unit-length features, mean
    over entries, times sqrt(d): 1 where they point everywhere alike, 0 where all are the same.
    "feature_rank": (sum of eigenvalues)^2 / sum of their squares, of the covariance: the number of
    directions in use.
    """
    centred = _centred(features)
    # The smaller of the two Gram matrices has the same eigenvalues.
    gram = dot(centred, centred.T) if len(centred) < centred.shape[1] else dot(centred.T, centred)
    return {
        "feature_std": _spread(centred),
        "feature_rank": jnp.square(jnp.trace(gram)) / jnp.maximum(jnp.square(gram).sum(), 1e-20),
    }


def collapse_metrics(features: Float[Array, "b d"], z: Float[Array, "b k"]) -> Metrics:
    """`feature_metrics`, and "embedding_std", the spread of what the loss compares.

    Where a head gives the same for all samples, no gradient reaches the features, which then stay
    as different as those of a random network.
    """
    return {**feature_metrics(features), "embedding_std": _spread(_centred(z))}


def _centred(z: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Rows of unit length, minus their mean."""
    z = normalise(jax.lax.stop_gradient(z).astype(jnp.float32))
    return z - z.mean(0)


def _spread(centred: Float[Array, "b d"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.square(centred).mean(0)).mean() * centred.shape[1] ** 0.5
