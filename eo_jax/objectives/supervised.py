"""Supervised training, which is also fine-tuning: classification, multi-label classification,
segmentation or regression on an encoder's features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import Mode, Network
from eo_jax.models.heads import TorchDense
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.ops.collapse_metrics import FEATURE_METRICS, feature_metrics
from eo_jax.objectives.ops.joint_embedding import JointEmbedding
from eo_jax.objectives.ops.losses import centre_label
from eo_jax.schema import Carry, Metrics, Params, Views

_TASKS = ("classification", "multi_label", "segmentation", "regression")


@dataclasses.dataclass(frozen=True)
class Config:
    """A linear layer on pooled features, or on dense ones for segmentation, trained together with
    the encoder.

    Frozen encoders are a rule of the optimizer (`optim.freeze_rules`), learning rates of their own
    as well (`optim.lr_rules`).

    Attributes:
        task: classification and segmentation take labels 1 to k, 0 is unlabelled, and where
            classification finds the map of a window it takes that of its centre; multi_label takes
            k of 0 and 1, regression k numbers, NaN where one is not known. For k = 1 they may be
            scalars.
        outputs: number k of classes or of values.
        statistics: BatchNorm of the encoder: "batch", or "running" where it is frozen, so that it
            stays the encoder that was pretrained.
    """

    task: str
    outputs: int
    statistics: str = "batch"

    def __post_init__(self):
        if self.task not in _TASKS:
            raise ValueError(
                f"config.objective.task: {self.task!r}; expected one of {', '.join(_TASKS)}"
            )
        if self.statistics not in ("batch", "running"):
            raise ValueError(
                f"config.objective.statistics: {self.statistics!r}; expected 'batch' or 'running'"
            )
        if self.outputs < 1:
            raise ValueError(f"config.objective.outputs: {self.outputs}; expected at least 1")

    def build(self, encoders: Mapping[str, Encoder]) -> Supervised:
        """The objective for {source: encoder}, all of the same weights."""
        return Supervised(self, encoders)


class Classifier(nnx.Module):
    """A linear layer, in float32."""

    def __init__(self, width: int, outputs: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.linear = TorchDense(width, outputs, dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... k"]:
        return self.linear(x).astype(jnp.float32)


class Supervised(JointEmbedding):
    """The objective; see the module docstring."""

    crop_sets: Mapping[str, int] = {"global": 1}
    couples_batch = False

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("supervised", encoders)
        self.config = config
        of_classes = config.task in ("classification", "segmentation")
        self.labelled = dict.fromkeys(encoders, config.outputs if of_classes else 0)
        self.metrics = FEATURE_METRICS | (
            {"accuracy": Metric("", "accuracy")} if of_classes else {}
        )
        self.networks["classifier"] = Network(
            lambda rngs: Classifier(
                self.encoder.width, config.outputs, self.encoder.dtype, rngs=rngs
            )
        )

    def check_batch(self, rows: int) -> None:
        """Any batch will do."""

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        view, valid = (x[:, 0] for x in self.views_of(views, "global"))
        label = self._label(views)
        found, statistics = self.encoder.forward(
            params["encoder"], carry["encoder"], view, valid, Mode(self.config.statistics, key=key)
        )
        features = found["dense" if self.config.task == "segmentation" else "pooled"]
        outputs, _ = self.networks["classifier"].apply(
            params["classifier"], {}, lambda module: module(features)
        )
        loss, metrics = _TASK_LOSSES[self.config.task](outputs, label)
        return loss, (
            {**carry, "encoder": statistics},
            {**metrics, **feature_metrics(found["pooled"])},
        )

    def _label(self, views: Views) -> Array:
        """The labels in the shape of the task, [b], [b, k] or [b, H, W]. ValueError, while the step
        is traced, where they have another.
        """
        name = next(name for source in self.sources if (name := f"{source}/global/label") in views)
        label = views[name][:, 0]
        if self.config.task == "classification":
            return centre_label(label)
        size = views[name.removesuffix("/label")].shape[2:4]
        if self.config.task == "segmentation":
            self._check_cells(size)
        elif label.ndim == 1:
            label = label[:, None]
        expected = size if self.config.task == "segmentation" else (self.config.outputs,)
        if label.shape[1:] != expected:
            raise ValueError(
                f"config.objective: {self.config.task} with outputs={self.config.outputs} takes "
                f"labels of {list(expected)} a sample, "
                f"those of source {name.partition('/')[0]!r} have {list(label.shape[1:])}; set "
                "task and outputs by the label"
            )
        return label

    def _check_cells(self, size: tuple[int, int]) -> None:
        """ValueError where cells of features do not tile a view: labels would be compared with the
        features of a neighbour.
        """
        if any(side % self.encoder.patch for side in size):
            raise ValueError(
                f"config.augment.crops.global.size: {size[0]} is no multiple of "
                f"{self.encoder.patch}, the pixels that a feature of this encoder "
                f"stands for; segmentation needs that"
            )


def cross_entropy(
    logits: Float[Array, "*batch k"], label: Int[Array, "*batch"]
) -> Float[Array, ""]:
    """Mean cross-entropy over what is labelled, classes 1 to k; 0 where nothing is."""
    labelled = label > 0
    chosen = jnp.take_along_axis(
        logits.astype(jnp.float32), jnp.maximum(label.astype(jnp.int32) - 1, 0)[..., None], axis=-1
    )[..., 0]
    error = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1) - chosen
    return jnp.where(labelled, error, 0.0).sum() / jnp.maximum(labelled.sum(), 1)


def multi_label(logits: Float[Array, "b k"], label: Num[Array, "b k"]) -> Float[Array, ""]:
    """Mean binary cross-entropy over samples and classes."""
    logits = logits.astype(jnp.float32)
    return (jax.nn.softplus(logits) - logits * label).mean()


def regression(predicted: Float[Array, "b k"], label: Float[Array, "b k"]) -> Float[Array, ""]:
    """Mean squared error over the values that are there; a label of NaN is not."""
    known = jnp.isfinite(label)
    error = jnp.square(predicted.astype(jnp.float32) - jnp.where(known, label, 0.0))
    return jnp.where(known, error, 0.0).sum() / jnp.maximum(known.sum(), 1)


def _classify(
    logits: Float[Array, "*batch k"], label: Int[Array, "*batch"]
) -> tuple[Array, Metrics]:
    right = (logits.argmax(-1) == label - 1) & (label > 0)
    return cross_entropy(logits, label), {
        "accuracy": right.sum() / jnp.maximum((label > 0).sum(), 1)
    }


def _segment(logits: Float[Array, "b h w k"], label: Int[Array, "b H W"]) -> tuple[Array, Metrics]:
    """Each pixel against the features of the cell that it lies in."""
    rows, columns = label.shape[1] // logits.shape[1], label.shape[2] // logits.shape[2]
    return _classify(jnp.repeat(jnp.repeat(logits, rows, axis=1), columns, axis=2), label)


_TASK_LOSSES = {
    "classification": _classify,
    "segmentation": _segment,
    "multi_label": lambda outputs, label: (multi_label(outputs, label), {}),
    "regression": lambda outputs, label: (regression(outputs, label), {}),
}
