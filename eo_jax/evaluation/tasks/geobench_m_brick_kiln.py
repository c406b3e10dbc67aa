"""GEO-Bench v1, m-brick-kiln."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="GEO-Bench m-brick-kiln",
    kind="classification",
    label="class",
    convert="geobench --task m-brick-kiln",
    source="Lacoste et al. 2023, arXiv 2306.03831; default partition",
)
