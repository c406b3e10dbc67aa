"""GEO-Bench v1, m-cashew-plant."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="GEO-Bench m-cashew-plant",
    kind="segmentation",
    label="landcover",
    convert="geobench --task m-cashew-plant",
    source="Lacoste et al. 2023, arXiv 2306.03831; default partition",
)
