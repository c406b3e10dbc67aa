"""EO-1-CDL."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="EO-1-CDL",
    kind="segmentation",
    label="class",
    convert="spectral-earth-downstream --task eo1_cdl",
    source="Braham et al. 2024, arXiv 2408.08447",
)
