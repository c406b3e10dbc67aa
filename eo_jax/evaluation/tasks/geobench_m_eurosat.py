"""GEO-Bench v1, m-eurosat."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="GEO-Bench m-eurosat",
    kind="classification",
    label="class",
    convert="geobench --task m-eurosat",
    source="Lacoste et al. 2023, arXiv 2306.03831; default partition",
)
