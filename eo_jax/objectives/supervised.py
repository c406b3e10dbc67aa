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
from eo_jax.objectives.ops.losses import centre_label
from eo_jax.objectives.ops.single_encoder import SingleEncoder
from eo_jax.schema import Carry, Metrics, Params, Views

_TASKS = ("classification", "multi_label", "segmentation", "regression")
_OF_CLASSES = ("classification", "segmentation")


@dataclasses.dataclass(frozen=True)
class Config:
    """A linear layer on pooled features, or on dense ones for segmentation, trained together with
    the encoder.

    To freeze the encoder is a rule of the optimizer (`optim.freeze_rules`), as is a learning rate
    of its own (`optim.lr_rules`).

    Attributes:
        task: classification and segmentation take labels 1 to k, where 0 is unlabelled; of a
            window's label map, classification takes the centre. multi_label takes k values of 0 or
            1, regression k numbers, NaN where unknown. For k = 1 they may be scalars.
        outputs: number k of classes or of values.
        statistics: BatchNorm of the encoder: "batch", or "running" where the encoder is frozen, so
            that it stays as pretrained.
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
        """The objective for {source: encoder}, all with the same weights."""
        return Supervised(self, encoders)


class Classifier(nnx.Module):
    """A linear layer with float32 output."""

    def __init__(self, width: int, outputs: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.linear = TorchDense(width, outputs, dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... k"]:
        return self.linear(x).astype(jnp.float32)


class Supervised(SingleEncoder):
    """The objective; see the module docstring."""

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("supervised", encoders)
        self.config = config
        of_classes = config.task in _OF_CLASSES
        self.labelled = dict.fromkeys(encoders, config.outputs if of_classes else 0)
        self.metrics = FEATURE_METRICS | (
            {"accuracy": Metric("", "accuracy")} if of_classes else {}
        )
        self.networks["classifier"] = Network(
            lambda rngs: Classifier(
                self.encoder.width, config.outputs, self.encoder.dtype, rngs=rngs
            )
        )

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        view, valid = self.only_view(views)
        label = self._label(views)
        features, statistics = self.encoder.forward(
            params["encoder"], carry["encoder"], view, valid, Mode(self.config.statistics, key=key)
        )
        x = features["dense" if self.config.task == "segmentation" else "pooled"]
        outputs, _ = self.networks["classifier"].apply(
            params["classifier"], {}, lambda module: module(x)
        )
        loss, metrics = _TASK_LOSSES[self.config.task](outputs, label)
        metrics = {**metrics, **feature_metrics(features["pooled"])}
        return loss, ({**carry, "encoder": statistics}, metrics)

    def preview(
        self, params: Params, carry: Carry, views: Views, key: jax.Array
    ) -> dict[str, jax.Array]:
        """{"view": [b, H, W, c], "valid", "logits": [b, k], or [b, h, w, k] for segmentation}; {}
        for a task without classes.
        """
        if self.config.task not in _OF_CLASSES:
            return {}
        view, valid = self.only_view(views)
        features = self.encoder.features(params["encoder"], carry["encoder"], view, valid)
        x = features["dense" if self.config.task == "segmentation" else "pooled"]
        logits, _ = self.networks["classifier"].apply(
            params["classifier"], {}, lambda module: module(x)
        )
        return {"view": view, "valid": valid, "logits": logits}

    def _label(self, views: Views) -> Array:
        """The labels in the shape of the task, [b], [b, k] or [b, H, W]. ValueError, while the step
        is traced, where they have another shape.
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
                f"labels of {list(expected)} per sample, those of source "
                f"{name.partition('/')[0]!r} have {list(label.shape[1:])}; set task and outputs to "
                "match the label"
            )
        return label

    def _check_cells(self, size: tuple[int, int]) -> None:
        """ValueError where cells of features do not tile a view: labels would be compared with the
        features of a neighbour.
        """
        if any(side % self.encoder.patch for side in size):
            raise ValueError(
                f"config.augment.crops.global.size: {size[0]} is not a multiple of "
                f"{self.encoder.patch}, the side in pixels of one feature of this encoder, which "
                "segmentation needs"
            )


def cross_entropy(
    logits: Float[Array, "*batch k"], label: Int[Array, "*batch"]
) -> Float[Array, ""]:
    """Mean cross-entropy over labelled entries, classes 1 to k; 0 where none is labelled."""
    labelled = label > 0
    logits = jnp.where(labelled[..., None], logits.astype(jnp.float32), 0.0)
    index = jnp.maximum(label.astype(jnp.int32) - 1, 0)
    chosen = jnp.take_along_axis(logits, index[..., None], axis=-1)[..., 0]
    error = jax.nn.logsumexp(logits, axis=-1) - chosen
    return jnp.where(labelled, error, 0.0).sum() / jnp.maximum(labelled.sum(), 1)


def multi_label(logits: Float[Array, "b k"], label: Num[Array, "b k"]) -> Float[Array, ""]:
    """Mean binary cross-entropy over samples and classes."""
    logits = logits.astype(jnp.float32)
    return (jax.nn.softplus(logits) - logits * label).mean()


def regression(predicted: Float[Array, "b k"], label: Float[Array, "b k"]) -> Float[Array, ""]:
    """Mean squared error over the values whose label is finite."""
    known = jnp.isfinite(label)
    away = jnp.where(known, predicted.astype(jnp.float32) - label, 0.0)
    return jnp.square(away).sum() / jnp.maximum(known.sum(), 1)


def _classify(
    logits: Float[Array, "*batch k"], label: Int[Array, "*batch"]
) -> tuple[Array, Metrics]:
    right = (logits.argmax(-1) == label - 1) & (label > 0)
    accuracy = right.sum() / jnp.maximum((label > 0).sum(), 1)
    return cross_entropy(logits, label), {"accuracy": accuracy}


def _segment(logits: Float[Array, "b h w k"], label: Int[Array, "b H W"]) -> tuple[Array, Metrics]:
    """Each pixel is compared with the features of the cell that contains it."""
    rows, columns = label.shape[1] // logits.shape[1], label.shape[2] // logits.shape[2]
    return _classify(jnp.repeat(jnp.repeat(logits, rows, axis=1), columns, axis=2), label)


_TASK_LOSSES = {
    "classification": _classify,
    "segmentation": _segment,
    "multi_label": lambda outputs, label: (multi_label(outputs, label), {}),
    "regression": lambda outputs, label: (regression(outputs, label), {}),
}
