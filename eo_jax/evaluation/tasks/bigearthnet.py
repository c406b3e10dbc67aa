"""BigEarthNet, Sentinel-2, 19 classes."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="BigEarthNet, Sentinel-2, 19 classes",
    kind="multi_label",
    label="multilabel",
    convert="bigearthnet --labels multilabel",
    source="Clasen et al. 2025, arXiv 2407.03653",
)
