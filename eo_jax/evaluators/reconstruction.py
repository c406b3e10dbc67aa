"""Reconstruction error in physical units on masked tokens, compared with two baselines that need no
training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from eo_jax.evaluators.base import Context, Weights
from eo_jax.monitor.metric import Card, Metric, Verdict

METRICS = {
    "rmse": Metric("Reconstruction RMSE"),
    "mean_visible_rmse": Metric("RMSE of the mean of the visible pixels"),
    "nearest_token_rmse": Metric("RMSE of the nearest visible token"),
    "ratio_to_mean_visible": Metric("RMSE over that of the mean of the visible pixels"),
    "ratio_to_nearest_token": Metric("RMSE over that of the nearest visible token"),
}
_BASELINES = {
    "mean_visible": "Mean of the visible pixels",
    "nearest_token": "Nearest visible token copied",
}


def cards(scores: Mapping[str, float]) -> list[Card]:
    """The error of the model, and those of both baselines."""
    own = Card(
        "Reconstruction RMSE",
        f"{scores['rmse']:.4f}",
        "in the units of the sensor, masked tokens of held-out patches",
        *_verdict(scores),
    )
    baselines = [
        Card(
            title,
            f"{scores[f'{name}_rmse']:.4f}",
            f"baseline; model / baseline = {scores[f'ratio_to_{name}']:.3f}",
        )
        for name, title in _BASELINES.items()
    ]
    return [own, *baselines]


def _verdict(scores: Mapping[str, float]) -> tuple[Verdict, str]:
    if not scores["ratio_to_mean_visible"] < 1:
        return "worse", (
            "worse than predicting the mean of the visible pixels: the model has not learnt yet"
        )
    if not scores["ratio_to_nearest_token"] < 1:
        return "worse", (
            "better than the mean of the visible pixels, but worse than copying the nearest "
            "visible token: the model has learnt little yet"
        )
    return "better", "better than both baselines, which need no training"


@dataclasses.dataclass(frozen=True)
class Config:
    """Root mean square error over the valid values of masked tokens, pooled over samples and masks.

    Attributes:
        every: steps between evaluations; 0 for the end only.
        split: of the store.
        masks: number of fixed masks per sample.
    """

    every: int = 0
    split: str = "val"
    masks: int = 20


class Evaluator:
    """See Config. Needs an objective whose preview has view, valid, reconstruction and masked, in
    normalised units, without norm_pix_loss.
    """

    def __init__(self, config: Config, context: Context):
        self.config, self.context = config, context
        # Normalised differences -> differences in the sensor's units.
        self._to_units = context.std * context.sensor.scales

    def check(self) -> None:
        """Raises ValueError where the store has no such split, or the objective no reconstruction
        that can be scored.
        """
        self.context.check("reconstruction", (self.config.split,))
        shown = self.context.preview_names
        if "rescaled" in shown:
            raise ValueError(
                "config.evals.reconstruction: with norm_pix_loss a reconstruction has the mean and "
                "variance of the hidden pixels themselves, so its error is not a result; set "
                "config.objective.norm_pix_loss=False, or leave this evaluator out"
            )
        if "reconstruction" not in shown:
            raise ValueError(
                "config.evals.reconstruction: the objective shows "
                f"{', '.join(sorted(shown)) or 'nothing'}, not a reconstruction; use mae"
            )

    def __call__(self, weights: Weights) -> dict[str, float]:
        squares, values = np.zeros(3), 0
        for batch in self.context.batches(self.config.split):
            real = batch[self.context.source]["position"] >= 0
            for number in range(self.config.masks):
                preview = self.context.preview(weights, batch, number)
                shown = {name: array[real] for name, array in preview.items()}
                batch_squares, batch_values = squared_errors(
                    shown, self.context.patch, self._to_units
                )
                squares, values = squares + batch_squares, values + batch_values
        if not values:
            raise ValueError(
                f"config.evals.reconstruction: split {self.config.split!r} of source "
                f"{self.context.source!r} has no valid pixel to score"
            )
        rmse, mean_visible, nearest_token = np.sqrt(squares / values).tolist()
        return {
            "rmse": rmse,
            "mean_visible_rmse": mean_visible,
            "nearest_token_rmse": nearest_token,
            "ratio_to_mean_visible": _ratio(rmse, mean_visible),
            "ratio_to_nearest_token": _ratio(rmse, nearest_token),
        }


def _ratio(error: float, baseline: float) -> float:
    # On constant images a baseline may have no error, which nothing beats.
    return error / baseline if baseline else float("inf")


def squared_errors(
    preview: dict[str, np.ndarray], patch: int, to_units: np.ndarray
) -> tuple[np.ndarray, int]:
    """(sums of squared errors of [model, mean of visible pixels, nearest visible token], number of
    values) over masked valid values.
    """
    view, masked = preview["view"], preview["masked"]
    valid = np.broadcast_to(preview["valid"], view.shape)
    visible_mean = _visible_mean(view, valid & ~masked[..., None])
    nearest = np.where(_nearest(valid, masked, patch), _nearest(view, masked, patch), visible_mean)
    scored = valid & masked[..., None]
    sums = [
        np.sum(np.square((guess - view) * to_units, dtype=np.float64), where=scored)
        for guess in (preview["reconstruction"], visible_mean, nearest)
    ]
    return np.array(sums), int(scored.sum())


def _visible_mean(view: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Mean spectrum of the visible valid pixels of each image, [b, 1, 1, c]; 0, the training mean,
    where a band has none.
    """
    count = visible.sum((1, 2), keepdims=True)
    return np.sum(view, axis=(1, 2), keepdims=True, where=visible, dtype=np.float64) / np.maximum(
        count, 1
    )


def _nearest(image: np.ndarray, masked: np.ndarray, patch: int) -> np.ndarray:
    """The image [b, H, W, c] with every token replaced by the nearest visible one (Euclidean in the
    token grid, first in row order on ties).
    """
    b, height, width, c = image.shape
    rows, columns = height // patch, width // patch
    tokens = (
        image.reshape(b, rows, patch, columns, patch, c)
        .transpose(0, 1, 3, 2, 4, 5)
        .reshape(b, rows * columns, patch, patch, c)
    )
    row, column = np.divmod(np.arange(rows * columns), columns)
    distance = np.square(row[:, None] - row) + np.square(column[:, None] - column)
    hidden = masked[:, ::patch, ::patch].reshape(b, -1)
    source = np.where(hidden[:, None, :], np.iinfo(np.int64).max, distance).argmin(-1)
    copied = np.take_along_axis(tokens, source[:, :, None, None, None], axis=1)
    return (
        copied.reshape(b, rows, columns, patch, patch, c)
        .transpose(0, 1, 3, 2, 4, 5)
        .reshape(image.shape)
    )
