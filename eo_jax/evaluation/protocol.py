"""A protocol: how frozen features become predictions."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from eo_jax.evaluation.features import Featurizer
from eo_jax.evaluation.task import HEADLINES, MAPS


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


# {value: in words}
POOLINGS = {
    "contract": "the contract's pooled feature",
    "cls": "class token",
    "mean": "mean of the tokens",
    "both": "class token and mean of the tokens",
}
NORMALISATIONS = {
    "contract": "normalised by the contract",
    "data": "normalised by the training split",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationProtocol:
    """A protocol; its module has `PROTOCOLS`, {name: EvaluationProtocol}, of one family of papers.

    One on features of windows has

        fit(kind, train: Labelled, val: Labelled, classes: int, seed) -> Predictor

    which returns the predictor of a kind of task (see `task.Task`), with its settings chosen on
    `val`. In its place, protocols for maps have `fit_maps`, see `trained_head.TrainedHead`, and
    those that train the encoder `fine_tune`, see `fine_tuning.FineTuning`.

    Attributes:
        resize: side in pixels that images are resized to; 0 to leave them.
        pooling: a key of POOLINGS: the pooled feature of transformers. Other encoders have one.
        normalisation: a key of NORMALISATIONS: whose mean and standard deviation of each band.
        kinds: the kinds of tasks that it takes.
    """

    resize: int = 0
    pooling: str = "contract"
    normalisation: str = "contract"

    kinds: ClassVar[tuple[str, ...]] = tuple(HEADLINES)

    def __post_init__(self):
        for field, allowed in (("pooling", POOLINGS), ("normalisation", NORMALISATIONS)):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"{field}: {getattr(self, field)!r}; expected one of {', '.join(allowed)}"
                )

    @property
    def needs_encoder(self) -> bool:
        """Whether it needs more than a candidate's features: its weights, or inner blocks."""
        return False

    @property
    def title(self) -> str:
        """For tables: how features become predictions, in words."""
        raise NotImplementedError

    @property
    def description(self) -> str:
        """Everything that changes the number, in words."""
        size = f"{self.resize} px" if self.resize else "images in their own size"
        return f"{self.title}; {size}, {NORMALISATIONS[self.normalisation]}, {self._pooled}"

    @property
    def _pooled(self) -> str:
        return "tokens" if set(self.kinds) <= set(MAPS) else POOLINGS[self.pooling]

    def seen(self, candidate: Featurizer) -> Featurizer:
        """The candidate as the protocol sees it."""
        return candidate


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
