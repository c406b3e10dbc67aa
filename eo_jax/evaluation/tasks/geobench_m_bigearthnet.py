"""GEO-Bench v1, m-bigearthnet."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="GEO-Bench m-bigearthnet",
    kind="multi_label",
    label="multilabel",
    convert="geobench --task m-bigearthnet",
    source="Lacoste et al. 2023, arXiv 2306.03831; default partition",
)
