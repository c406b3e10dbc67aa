"""Semi-supervised view assignment: views of an unlabelled sample get soft labels from their
similarity to a few labelled ones, and have to agree.

Source: PAWS, Assran et al. 2021, arXiv 2104.13963; for hyperspectral pixels Pande et al. 2023,
arXiv 2306.10955, whose details we could not read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import Mode
from eo_jax.models.heads import normalise
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.ops.checks import require_fractions, require_positive
from eo_jax.objectives.ops.collapse_metrics import collapse_metrics, fraction_used
from eo_jax.objectives.ops.joint_embedding import JointEmbedding
from eo_jax.objectives.ops.losses import centre_label, dot
from eo_jax.schema import Carry, Metrics, Params, Views

_TINY = 1e-20
_LEAST_TARGET = 1e-4  # smaller ones count as 0, as in PAWS' released code


@dataclasses.dataclass(frozen=True)
class Config:
    """PAWS. Takes two sources with one stem: one whose labels are not read, and a labelled one, the
    support.

    Attributes:
        classes: number k of classes; labels are 1 to k, and 0 is unlabelled.
        support: name of the labelled source.
        temperature: of the similarity classifier.
        sharpening: temperature of the targets.
        smoothing: fraction of a support label that is spread over all classes.
        projector: widths of the projector's layers, the output last.
    """

    classes: int
    support: str = "support"
    temperature: float = 0.1
    sharpening: float = 0.25
    smoothing: float = 0.1
    projector: tuple[int, ...] = (256, 256, 128)

    def __post_init__(self):
        require_positive(self, "temperature", "sharpening")
        require_fractions(self, "smoothing")
        if self.classes < 2:
            raise ValueError(f"config.objective.classes: {self.classes}; expected at least 2")

    def build(self, encoders: Mapping[str, Encoder]) -> ViewAssignment:
        """The objective for {source: encoder}, all with the same weights; one of the sources is the
        support.
        """
        if self.support not in encoders or len(encoders) < 2:
            raise ValueError(
                f"config.data.sources: {', '.join(encoders)}; the semi-supervised objective needs "
                f"the labelled source {self.support!r} (config.objective.support) and an "
                "unlabelled one"
            )
        return ViewAssignment(self, encoders)


class ViewAssignment(JointEmbedding):
    """The objective; see the module docstring. Support and unlabelled views go through the network
    in separate passes.
    """

    metrics: Mapping[str, Metric] = {
        **JointEmbedding.metrics,
        "classes_used": Metric("Share of classes that are assigned", "classes"),
        "view_agreement": Metric(""),
    }

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("semi_supervised", encoders)
        self.config = config
        self.labelled = {config.support: config.classes}
        self.sources = tuple(source for source in encoders if source != config.support)
        self.add_head("projector", (self.encoder.width, *config.projector))

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        support_key, pair_key = jax.random.split(key)
        support, labels, carry = self._support(params, carry, views, support_key)
        features, embeddings, carry = self.embed_pair(params, carry, views, pair_key)
        p1, p2 = (soft_labels(z, support, labels, self.config.temperature) for z in embeddings)
        metrics = {**assignment_metrics(p1, p2), **collapse_metrics(features[0], embeddings[0])}
        return view_assignment_loss(p1, p2, self.config.sharpening), (carry, metrics)

    def _support(
        self, params: Params, carry: Carry, views: Views, key: jax.Array
    ) -> tuple[Float[Array, "m d"], Float[Array, "m k"], Carry]:
        """(embeddings of all views of the support, their smoothed labels, new carry)."""

        def merged(name):
            return views[name].reshape(-1, *views[name].shape[2:])

        name = f"{self.config.support}/global"
        view, valid, label = merged(name), merged(f"{name}/valid"), merged(f"{name}/label")
        _, z, carry = self.embed(params, carry, view, valid, Mode("batch", key=key))
        label = smooth_labels(centre_label(label), self.config.classes, self.config.smoothing)
        return z, label, carry


def smooth_labels(label: Int[Array, " m"], classes: int, smoothing: float) -> Float[Array, "m k"]:
    """One-hot labels of classes 1 to k, a fraction of them spread evenly; unlabelled rows are all
    0, so that they have no vote.
    """
    hot = jax.nn.one_hot(label.astype(jnp.int32) - 1, classes)
    return jnp.where((label > 0)[:, None], hot * (1 - smoothing) + smoothing / classes, 0.0)


def soft_labels(
    z: Float[Array, "b d"],
    support: Float[Array, "m d"],
    support_labels: Float[Array, "m k"],
    temperature: float,
) -> Float[Array, "b k"]:
    """Labels of the support, weighted by the softmax of their cosine similarity to each row
    (equation 1).
    """
    z, support = normalise(z.astype(jnp.float32)), normalise(support.astype(jnp.float32))
    similarity = dot(z, support.T) / temperature
    labelled = support_labels.sum(1) > 0
    return dot(jax.nn.softmax(jnp.where(labelled, similarity, -1e9)), support_labels)


def assignment_metrics(p1: Float[Array, "b k"], p2: Float[Array, "b k"]) -> Metrics:
    """Signs of collapse: "view_agreement", the fraction of rows whose views have the same class;
    "classes_used", see `fraction_used`.
    """
    first, second = p1.argmax(1), p2.argmax(1)
    used = fraction_used(jnp.concatenate([first, second]), p1.shape[1])
    return {"view_agreement": (first == second).mean(dtype=jnp.float32), "classes_used": used}


def sharpen(p: Float[Array, "b k"], temperature: float) -> Float[Array, "b k"]:
    """p^(1 / T), scaled to sum to 1 (equation 2)."""
    return jax.nn.softmax(_log(p) / temperature)


def view_assignment_loss(
    p1: Float[Array, "b k"], p2: Float[Array, "b k"], sharpening: float
) -> Float[Array, ""]:
    """Cross-entropy of each view's soft label against the other's sharpened one, of which parts
    below 1e-4 count as 0, minus the entropy of the mean sharpened label (equation 3).
    """
    sharp1, sharp2 = sharpen(p1, sharpening), sharpen(p2, sharpening)
    agree = (_cross_entropy(_target(sharp2), p1) + _cross_entropy(_target(sharp1), p2)).mean() / 2
    mean = (sharp1.mean(0) + sharp2.mean(0)) / 2
    return agree + (mean * _log(mean)).sum()


def _target(sharp: Float[Array, "b k"]) -> Float[Array, "b k"]:
    return jax.lax.stop_gradient(jnp.where(sharp < _LEAST_TARGET, 0.0, sharp))


def _cross_entropy(target: Float[Array, "b k"], p: Float[Array, "b k"]) -> Float[Array, " b"]:
    return -(target * _log(p)).sum(1)


def _log(p: Array) -> Array:
    return jnp.log(jnp.maximum(p.astype(jnp.float32), _TINY))
