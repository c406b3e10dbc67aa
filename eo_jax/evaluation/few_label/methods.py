"""The methods that are compared: classifiers on feature maps, and networks that labels train."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from eo_jax.evaluation import metrics
from eo_jax.evaluation.few_label import features
from eo_jax.evaluation.few_label.classifiers import CLASSIFIERS
from eo_jax.evaluation.few_label.network import Network
from eo_jax.evaluation.few_label.protocol import Draw
from eo_jax.evaluation.few_label.scene import Scene
from eo_jax.evaluation.few_label.view_assignment import ViewAssignment
from eo_jax.trained_encoder import TrainedEncoder

FLOOR, PRETRAINED = "floor", "pretrained"

# (draw, its number) -> class of every pixel, [h * w]
Predict = Callable[[Draw, int], np.ndarray]


class Method(NamedTuple):
    """A method.

    Attributes:
        features: what it is fitted on.
        classifier: its name.
        kind: FLOOR for what needs no pretraining, else PRETRAINED.
    """

    features: str
    classifier: str
    kind: str

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.features}, {self.classifier}"


_ALL = tuple(CLASSIFIERS)
_LOGISTIC = ("logistic regression", "logistic regression, C=0.1")
_FITTED = {
    FLOOR: {
        "spectrum": _ALL,
        "mean spectrum": _ALL,
        "principal components": ("SVM",),
        "principal components of the mean spectrum": ("SVM",),
        "untrained, mean": ("SVM", *_LOGISTIC),
        "untrained, mean of similar": ("SVM", *_LOGISTIC),
        "spectrum beside untrained, mean of similar": ("SVM", *_LOGISTIC),
    },
    PRETRAINED: {
        "pretrained": ("SVM", *_LOGISTIC, "1-NN"),
        "pretrained, mean": ("SVM", *_LOGISTIC),
        "pretrained, mean of similar": ("SVM", *_LOGISTIC, "1-NN"),
        "spectrum beside pretrained, mean of similar": ("SVM", *_LOGISTIC),
    },
}
FROM_SCRATCH = Method("network from scratch", "its own", FLOOR)
FINE_TUNED = Method("network fine-tuned", "its own", PRETRAINED)
ASSIGNED = Method("network by view assignment", "its own", PRETRAINED)
# Chosen on the scenes of protocol.TUNED_ON; its margin over the best floor is the result.
HEADLINE = Method(
    "spectrum beside pretrained, mean of similar", "logistic regression, C=0.1", PRETRAINED
)
METHODS = (
    *(
        Method(of, classifier, kind)
        for kind, table in _FITTED.items()
        for of, classifiers in table.items()
        for classifier in classifiers
    ),
    FROM_SCRATCH,
    FINE_TUNED,
    ASSIGNED,
)


class Predictors:
    """The methods for one scene; feature maps are computed once.

    Args:
        trained: an encoder that was pretrained on the scene.
    """

    def __init__(self, trained: TrainedEncoder, scene: Scene):
        self._classes = scene.classes.ravel()
        maps = features.floors(trained, scene) | features.pretrained(trained, scene)
        self._features = {name: features.standardised(found) for name, found in maps.items()}
        self._networks = {
            FROM_SCRATCH: Network(features.untrained(trained, scene), scene),
            FINE_TUNED: Network(trained, scene),
            ASSIGNED: ViewAssignment(trained, scene),
        }

    def of(self, method: Method) -> Predict:
        """What predicts by a method."""
        if method in self._networks:
            return self._networks[method].predict
        x, make = self._features[method.features], CLASSIFIERS[method.classifier]

        def predict(draw: Draw, number: int) -> np.ndarray:
            y = self._classes[draw.labelled]
            fewest = int(np.unique(y, return_counts=True)[1].min())
            return make(fewest, number).fit(x[draw.labelled], y).predict(x)

        return predict


def scores(predicted: np.ndarray, scene: Scene, draw: Draw) -> dict[str, float]:
    """ "accuracy" (overall), "average_accuracy" and "kappa" on the test pixels of a draw."""
    truth = np.searchsorted(scene.codes, scene.classes.ravel()[draw.test])
    guess = np.searchsorted(scene.codes, predicted[draw.test])
    found = metrics.of_confusion(metrics.confusion(truth, guess, len(scene.codes)))
    return {name: found[name] for name in ("accuracy", "average_accuracy", "kappa")}
