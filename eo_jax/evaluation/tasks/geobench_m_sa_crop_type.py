"""GEO-Bench v1, m-SA-crop-type."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="GEO-Bench m-SA-crop-type",
    kind="segmentation",
    label="landcover",
    convert="geobench --task m-SA-crop-type",
    source="Lacoste et al. 2023, arXiv 2306.03831; default partition",
)
