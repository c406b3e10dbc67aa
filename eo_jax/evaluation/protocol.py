"""A protocol: how frozen features become predictions."""

from __future__ import annotations

import importlib
import pkgutil
from typing import NamedTuple, Protocol

import numpy as np


class Labelled(NamedTuple):
    """Features and their targets.

    Attributes:
        x: float32 [n, d].
        y: int64 [n], classes from 0; float [n, k], 0 and 1, or numbers.
    """

    x: np.ndarray
    y: np.ndarray

    def with_rows_of(self, other: Labelled) -> Labelled:
        """Both, one after the other."""
        return Labelled(*map(np.concatenate, zip(self, other, strict=True)))


class Predictor(Protocol):
    """Predicts from features alone, so that the test split is read once and never chosen on."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float64 [q, k] of features [q, d]: probabilities of classes or labels, or numbers."""


class EvaluationProtocol(Protocol):
    """A protocol; its module has `PROTOCOLS`, {name: EvaluationProtocol}, of one family of papers.

    In place of `fit`, protocols for maps have `fit_maps`, see `dense_heads.TrainedHead`, and those
    that train the encoder `fine_tune`, see `fine_tuning.FineTuning`.

    Attributes:
        title: for tables: everything that changes the number, in words.
        resize: side in pixels that images are resized to; 0 to leave them.
    """

    title: str
    resize: int

    def fit(self, kind: str, train: Labelled, val: Labelled, classes: int, seed: int) -> Predictor:
        """The predictor of a kind of task (see `task.Task`), with its settings chosen on `val`.

        Raises ValueError for a kind that the protocol does not have.
        """


def protocol_names() -> list[str]:
    """ "dino:knn" and the like: a module, and the name of one of its protocols."""
    package = importlib.import_module("eo_jax.evaluation.protocols")
    return [
        f"{module.name}:{name}"
        for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name)
        for name in importlib.import_module(f"{package.__name__}.{module.name}").PROTOCOLS
    ]


def find_protocol(name: str) -> EvaluationProtocol:
    """A protocol by name. Raises ValueError."""
    known = protocol_names()
    if name not in known:
        raise ValueError(f"--protocol: {name!r}; expected one of {', '.join(known)}")
    module, _, which = name.partition(":")
    return importlib.import_module(f"eo_jax.evaluation.protocols.{module}").PROTOCOLS[which]
