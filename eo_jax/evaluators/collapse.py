"""How much of its space an encoder uses, without labels: the watch on collapse over many
samples.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from eo_jax.evaluators.base import Context, Weights
from eo_jax.monitor.rankme import rankme


@dataclasses.dataclass(frozen=True)
class Config:
    """RankMe of the pooled features, and their spread.

    Attributes:
        every: steps between evaluations; 0 for the end only.
        split: whose samples; "train", "val", ...
        max_samples: at most so many, from the beginning of the store.
    """

    every: int = 0
    split: str = "train"
    max_samples: int = 4096


class Evaluator:
    """See Config. Returns "rankme", "rank_fraction" (of the most that samples and width allow), and
    "feature_std" as the log has it.
    """

    def __init__(self, config: Config, context: Context):
        self.config, self.context = config, context

    def check(self) -> None:
        """Raises ValueError where the store has no such split."""
        self.context.check("collapse", (self.config.split,))

    def __call__(self, weights: Weights) -> dict[str, float]:
        batches = itertools.islice(
            self.context.batches(self.config.split),
            -(-self.config.max_samples // self.context.data.batch_size),
        )
        features = np.concatenate([self._pooled(weights, batch) for batch in batches])
        rank = rankme(features)
        unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        spread = float(unit.std(0).mean() * features.shape[1] ** 0.5)
        return {"rankme": rank, "rank_fraction": rank / min(features.shape), "feature_std": spread}

    def _pooled(self, weights: Weights, batch) -> np.ndarray:
        real = batch[self.context.source]["position"] >= 0
        return self.context.features(weights, batch)["pooled"][real]
