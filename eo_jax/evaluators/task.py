"""A task of `eo_jax.evaluation` by one of its protocols, on frozen features, during a run."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from eo_jax.evaluation.protocol import EvaluationProtocol, find_protocol
from eo_jax.evaluation.reading import TaskData, asked_task, data_of
from eo_jax.evaluation.row import judge
from eo_jax.evaluation.task import LOWER_IS_BETTER
from eo_jax.evaluators.base import Context, Weights
from eo_jax.monitor.metric import Card, Metric

METRICS = {
    "score": Metric("Headline of the task"),
    "low": Metric("Its 95 % interval, lower end"),
    "high": Metric("Its 95 % interval, upper end"),
    "trivial": Metric("Headline of a prediction without images"),
    "gain": Metric("How much better than without images"),
}


def cards(scores: Mapping[str, float]) -> list[Card]:
    """The score beside that of a prediction without images."""
    if "score" not in scores:
        return []
    better = scores["gain"] > 0
    meaning = "better than" if better else "no better than"
    return [
        Card(
            "Task",
            f"{scores['score']:.4f}",
            f"{scores['low']:.4f} to {scores['high']:.4f}; without images {scores['trivial']:.4f}",
            "better" if better else "worse",
            f"{meaning} a prediction that looks at no image",
        )
    ]


@dataclasses.dataclass(frozen=True)
class Config:
    """The headline of a task with its 95 % interval, as `python -m eo_jax.evaluate` gives it.

    Windows are of `data.crop` pixels, shown to the encoder as the run's evaluators show them.

    Attributes:
        every: steps between evaluations; 0 for the end only.
        task: name of a task, or KIND:LABEL of a store of your own.
        store: folder or URL of the task's store, of the sensor that is pretrained on.
        protocol: name of a protocol on frozen features of images in their own size.
        fraction: of the training split.
    """

    every: int = 0
    task: str = ""
    store: str = ""
    protocol: str = "dino:knn"
    fraction: float = 1.0


class Evaluator:
    """See Config."""

    def __init__(self, config: Config, context: Context):
        self.config, self.context = config, context

    def check(self) -> None:
        """Raises ValueError for a task, store or protocol that cannot be evaluated within a run."""
        where = "config.evals.task"
        if not self.config.store:
            raise ValueError(f"{where}.store: empty; expected the folder of the task's store")
        if not 0 < self.config.fraction <= 1:
            raise ValueError(f"{where}.fraction: {self.config.fraction}; expected above 0, up to 1")
        try:
            kind, protocol = self._data.task.kind, self._protocol
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if kind not in protocol.kinds:
            raise ValueError(
                f"{where}.protocol: {self.config.protocol!r} takes {', '.join(protocol.kinds)}, "
                f"and {self.config.task!r} is {kind}"
            )
        if protocol.needs_encoder or protocol.resize or protocol.normalisation != "contract":
            raise ValueError(
                f"{where}.protocol: {self.config.protocol!r} needs the encoder itself "
                f"({protocol.description}); within a run take one on its features as they are, "
                "such as dino:knn or plain:linear, and `python -m eo_jax.evaluate --weights "
                "WORKDIR` for this one"
            )

    def __call__(self, weights: Weights) -> dict[str, float]:
        task, config = self._data.task, self.config
        features = _RunFeatures(self.context, weights)
        with tempfile.TemporaryDirectory() as folder:  # features of these weights are used once
            row = judge(
                *(features, self._data, self._protocol, Path(folder)),
                fraction=config.fraction,
                seed=self.context.seed,
            )
        score, low, high = row.verdict.scores[task.headline]
        sign = -1 if task.headline in LOWER_IS_BETTER else 1
        gain = sign * (score - row.trivial)
        return {"score": score, "low": low, "high": high, "trivial": row.trivial, "gain": gain}

    @functools.cached_property
    def _protocol(self) -> EvaluationProtocol:
        return find_protocol(self.config.protocol)

    @functools.cached_property
    def _data(self) -> TaskData:
        task = asked_task(self.config.task, self.config.store)
        data = data_of(task, self.config.store, self.context.sensor, crop=self.context.data.crop)
        return dataclasses.replace(data, batch_size=self.context.data.batch_size)


class _RunFeatures:
    """The run's encoder as a `features.Featurizer`. Every process reads all windows and computes
    the features of its own rows.
    """

    facts: Mapping[str, Any] = {"weights": "of this step"}

    def __init__(self, context: Context, weights: Weights):
        self._context, self._weights = context, weights
        self.patch = context.patch

    def pooled(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """float32 [b, d] of digital numbers [b, c, H, W], with the no-data value."""
        return self._features(pixels)["pooled"]

    def dense(self, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """float32 [b, h, w, d] of the same."""
        return self._features(pixels)["dense"]

    def _features(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        context = self._context
        context.poll()
        stored = pixels.astype(context.sensor.dtype)[:, None]
        mine = stored if context.rows is None else stored[np.asarray(context.rows)]
        return context.features(self._weights, {context.source: {"pixels": mine}})
