"""GEO-Bench v1, m-NeonTree."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="GEO-Bench m-NeonTree",
    kind="segmentation",
    label="landcover",
    convert="geobench --task m-NeonTree",
    source="Lacoste et al. 2023, arXiv 2306.03831; default partition",
)
