"""GEO-Bench v1, m-nz-cattle."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="GEO-Bench m-nz-cattle",
    kind="segmentation",
    label="landcover",
    convert="geobench --task m-nz-cattle",
    source="Lacoste et al. 2023, arXiv 2306.03831; default partition",
)
