"""The contract of an objective, its defaults, and the check of its views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypedDict, runtime_checkable

import jax

from eo_jax.monitor.metric import Metric
from eo_jax.schema import Carry, Metrics, Params, Views


class EncoderWeights(TypedDict):
    """The weights and running statistics that an encoder needs to run or to be exported."""

    source: str
    params: Params
    statistics: Carry


class HeadWeights(TypedDict):
    """The weights and running statistics of the heads on an encoder, each as {head: ...}."""

    params: Params
    statistics: Carry


NO_HEADS: HeadWeights = {"params": {}, "statistics": {}}


@runtime_checkable
class Objective(Protocol):
    """A method, self-supervised or supervised: Views in, a scalar out.

    It keeps everything in two dicts, Params and Carry, which nobody else looks into.

    Attributes:
        crop_sets: {crop set: number of views} that it takes of every source; 0 means any number,
            including none.
        couples_batch: whether a sample's loss depends on the other samples of the batch, so that
            accumulation would change the method.
        labelled: {source: number of classes} of the sources whose labels it reads, from
            Views["<source>/<crop set>/label"]; 0 where labels are not classes.
        metrics: {name: description} of all Metrics that `loss` returns, whose names may have the
            suffix "/<source>".
    """

    crop_sets: Mapping[str, int]
    couples_batch: bool
    labelled: Mapping[str, int]
    metrics: Mapping[str, Metric]

    def check_batch(self, rows: int) -> None:
        """Raises ValueError for a global batch that the method cannot be trained with."""

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        """Initial weights, and everything else that the method keeps."""

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        """The loss in float32, the new carry, and metrics to log. `progress` in [0, 1] drives
        schedules.
        """

    def ema_update(self, params: Params, carry: Carry, progress: jax.Array) -> Carry:
        """The carry after the optimizer; identity without a teacher."""

    def encoders(self, params: Params, carry: Carry) -> dict[str, EncoderWeights]:
        """{"enmap": ..., "enmap.teacher": ...}. The first is the default for evaluation and export;
        with several sources, the first of each source.
        """

    def heads(self, params: Params, carry: Carry) -> dict[str, HeadWeights]:
        """The heads on each encoder, by the names of `encoders`; none for an encoder whose heads
        are not its own.
        """

    def features(
        self, weights: EncoderWeights, view: jax.Array, valid: jax.Array
    ) -> dict[str, jax.Array]:
        """{"pooled": [b, d], "dense": [b, h, w, d]} of a view [b, H, W, c] in evaluation mode."""

    def preview(self, params: Params, carry: Carry, views: Views, key: jax.Array) -> dict[str, Any]:
        """Arrays for pictures, in evaluation mode; empty where a method has nothing to show."""


class Defaults:
    """What an objective inherits unless it has labels, a teacher, heads to export, pictures or
    limits on batches.
    """

    labelled: Mapping[str, int] = {}

    def check_batch(self, rows: int) -> None:
        """Accepts any batch."""

    def ema_update(self, params: Params, carry: Carry, progress: jax.Array) -> Carry:
        return carry

    def heads(self, params: Params, carry: Carry) -> dict[str, HeadWeights]:
        return {}

    def preview(self, params: Params, carry: Carry, views: Views, key: jax.Array) -> dict[str, Any]:
        return {}


def check_views(
    objective: Objective, name: str, views: Mapping[str, tuple[int, int]], sources: Sequence[str]
) -> None:
    """Raises ValueError where the views are not those that an objective takes of every source.

    Args:
        views: {"<source>/<crop set>": (number, size in pixels)}.
    """
    for view in views:
        crop_set = view.partition("/")[2]
        if crop_set not in objective.crop_sets:
            raise ValueError(
                f"config.augment.crops: gives {view}, but objective {name!r} takes only views "
                f"{', '.join(objective.crop_sets)}"
            )
    for source in sources:
        for crop_set, count in objective.crop_sets.items():
            given, _ = views.get(f"{source}/{crop_set}", (0, 0))
            if count and given != count:
                raise ValueError(
                    f"config.augment.crops.{crop_set}.views: objective {name!r} needs {count} "
                    f"view(s) {crop_set!r} of source {source!r}, there are {given}"
                )
