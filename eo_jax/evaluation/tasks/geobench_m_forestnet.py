"""GEO-Bench v1, m-forestnet."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="GEO-Bench m-forestnet",
    kind="classification",
    label="class",
    convert="geobench --task m-forestnet",
    source="Lacoste et al. 2023, arXiv 2306.03831; default partition",
)
