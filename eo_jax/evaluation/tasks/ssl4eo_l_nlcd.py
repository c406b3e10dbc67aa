"""SSL4EO-L benchmark, NLCD."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="SSL4EO-L benchmark, NLCD",
    kind="segmentation",
    label="nlcd",
    convert="ssl4eo-l-benchmark --classes paper",
    source="Stewart et al. 2023, arXiv 2306.09424",
)
