"""Collapse metrics of an encoder over many samples, without labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from eo_jax.evaluators.base import Context, Weights
from eo_jax.monitor.metric import Card, Metric
from eo_jax.monitor.rankme import rankme

METRICS = {
    "rankme": Metric("RankMe of features"),
    "rank_fraction": Metric("RankMe over the largest rank possible"),
    "feature_std": Metric("Spread of features; 0 is collapse"),
}


def cards(scores: Mapping[str, float]) -> list[Card]:
    """RankMe; none where features were not finite."""
    if "rankme" not in scores:
        return []
    note = f"{scores['rank_fraction']:.1%} of the largest possible; spread of features "
    return [Card("RankMe", f"{scores['rankme']:.1f}", f"{note}{scores['feature_std']:.3f}")]


@dataclasses.dataclass(frozen=True)
class Config:
    """RankMe of the pooled features, and their spread.

    Attributes:
        every: steps between evaluations; 0 for the end only.
        split: of the store; "train", "val", ...
        max_samples: upper limit, from the beginning of the store.
    """

    every: int = 0
    split: str = "train"
    max_samples: int = 4096


class Evaluator:
    """See Config. Returns "rankme", "rank_fraction" (RankMe over the largest rank that samples and
    width allow), and "feature_std" as in the log.
    """

    def __init__(self, config: Config, context: Context):
        self.config, self.context = config, context

    def check(self) -> None:
        """Raises ValueError where the store has no such split."""
        self.context.check("collapse", (self.config.split,))

    def __call__(self, weights: Weights) -> dict[str, float]:
        most = -(-self.config.max_samples // self.context.data.batch_size)
        batches = self.context.batches(self.config.split, most=most)
        features = np.concatenate([self._pooled(weights, batch) for batch in batches])
        rank = rankme(features)
        unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        spread = float(unit.std(0).mean() * features.shape[1] ** 0.5)
        return {"rankme": rank, "rank_fraction": rank / min(features.shape), "feature_std": spread}

    def _pooled(self, weights: Weights, batch) -> np.ndarray:
        real = batch[self.context.source]["position"] >= 0
        return self.context.features(weights, batch)["pooled"][real]
