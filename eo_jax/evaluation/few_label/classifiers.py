"""The classifiers of the benchmark, all by scikit-learn, on features that are standardised over the
scene.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

_FOLDS = 3
_SVM_GRID = {"C": (1.0, 10.0, 100.0, 1000.0), "gamma": ("scale", 0.1, 0.01, 0.001)}


def _svm(fewest: int, seed: int) -> Any:
    if fewest < 2:
        return SVC(C=10.0)  # one label of a class cannot be held out
    folds = StratifiedKFold(min(_FOLDS, fewest), shuffle=True, random_state=seed)
    return GridSearchCV(SVC(), _SVM_GRID, cv=folds)


# {name: (fewest labels of a class, seed) -> classifier}
CLASSIFIERS: dict[str, Callable[[int, int], Any]] = {
    "SVM": _svm,
    "logistic regression": lambda fewest, seed: LogisticRegression(max_iter=1000),
    "logistic regression, C=0.1": lambda fewest, seed: LogisticRegression(C=0.1, max_iter=1000),
    "random forest": lambda fewest, seed: RandomForestClassifier(200, random_state=seed),
    "1-NN": lambda fewest, seed: KNeighborsClassifier(1),
}
