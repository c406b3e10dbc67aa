"""GEO-Bench v1, m-chesapeake."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="GEO-Bench m-chesapeake",
    kind="segmentation",
    label="landcover",
    convert="geobench --task m-chesapeake",
    source="Lacoste et al. 2023, arXiv 2306.03831; default partition",
)
