"""OSCD change."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="OSCD change",
    kind="change",
    label="change",
    convert="oscd",
    val="",
    source="Caye Daudt et al. 2018, arXiv 1810.08468",
)
