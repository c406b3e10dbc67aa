"""EnMAP-NLCD."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="EnMAP-NLCD",
    kind="segmentation",
    label="class",
    convert="spectral-earth-downstream --task enmap_nlcd",
    source="Braham et al. 2024, arXiv 2408.08447",
)
