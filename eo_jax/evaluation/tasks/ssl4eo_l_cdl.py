"""SSL4EO-L benchmark, CDL."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="SSL4EO-L benchmark, CDL",
    kind="segmentation",
    label="cdl",
    convert="ssl4eo-l-benchmark --classes paper",
    source="Stewart et al. 2023, arXiv 2306.09424",
)
