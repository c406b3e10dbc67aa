"""SUN RGB-D."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="SUN RGB-D",
    kind="segmentation",
    label="segmentation",
    convert="sunrgbd",
    val="",
    source="Song et al. 2015; lists of CMX, arXiv 2203.04838",
)
