"""DESIS-CDL."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="DESIS-CDL",
    kind="segmentation",
    label="class",
    convert="spectral-earth-downstream --task desis_cdl",
    source="Braham et al. 2024, arXiv 2408.08447",
)
