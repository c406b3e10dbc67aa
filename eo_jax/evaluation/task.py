"""A task: what is predicted from features, on which splits of a store, and what counts."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

# {kind: the score that stands for it}
HEADLINES = {
    "classification": "accuracy",
    "multi_label": "micro_map",
    "segmentation": "miou",
    "regression": "rmse",
    "change": "f1",
    "pixel": "accuracy",
}
MAPS = ("segmentation", "change")  # kinds whose label is a map
LOWER_IS_BETTER = ("rmse", "normalised_mse", "calibration_error")


@dataclasses.dataclass(frozen=True)
class Task:
    """One label of one archive.

    Attributes:
        title: for tables.
        kind: "classification" (one class per sample, 0 unlabelled), "multi_label" (a vector of 0
            and 1 per sample), "segmentation" (a map of classes, 0 unlabelled), "regression" (a
            vector of numbers per sample), "change" (a map of 0, 1 unchanged, 2 changed, of two
            dates) or "pixel" (the class of single pixels of a scene).
        label: its name in the store.
        convert: arguments of `python -m data_prep convert` that make the store, without paths.
        train, val, test: the splits. `val` chooses settings, and is "" where an archive has no
            third split: a fifth of `train`, drawn by the seed, chooses then.
        metric: the score of the headline; "" for that of the kind.
        ignored: classes that count as unlabelled, besides 0.
        source: where the split and the score come from.
    """

    title: str
    kind: str
    label: str
    convert: str
    train: str = "train"
    val: str = "val"
    test: str = "test"
    metric: str = ""
    ignored: tuple[int, ...] = ()
    source: str = ""

    @property
    def headline(self) -> str:
        """The score that stands for the task."""
        return self.metric or HEADLINES[self.kind]


def task_names() -> list[str]:
    """The names of all tasks: the modules of `tasks`."""
    package = importlib.import_module("eo_jax.evaluation.tasks")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def find_task(name: str) -> Task:
    """A task by name. Raises ValueError."""
    known = task_names()
    if name not in known:
        raise ValueError(f"--task: {name!r}; expected one of {', '.join(known)}")
    return importlib.import_module(f"eo_jax.evaluation.tasks.{name}").TASK
