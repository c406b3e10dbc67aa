"""GEO-Bench v1, m-pv4ger."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="GEO-Bench m-pv4ger",
    kind="classification",
    label="class",
    convert="geobench --task m-pv4ger",
    source="Lacoste et al. 2023, arXiv 2306.03831; default partition",
)
