"""So2Sat LCZ42, Sentinel-2."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="So2Sat LCZ42, Sentinel-2",
    kind="classification",
    label="class",
    convert="so2sat",
    source="Zhu et al. 2020, arXiv 1912.12171",
)
