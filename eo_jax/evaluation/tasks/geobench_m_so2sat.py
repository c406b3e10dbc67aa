"""GEO-Bench v1, m-so2sat."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="GEO-Bench m-so2sat",
    kind="classification",
    label="class",
    convert="geobench --task m-so2sat",
    source="Lacoste et al. 2023, arXiv 2306.03831; default partition",
)
