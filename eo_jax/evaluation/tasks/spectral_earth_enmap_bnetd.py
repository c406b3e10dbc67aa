"""EnMAP-BNETD."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="EnMAP-BNETD",
    kind="segmentation",
    label="class",
    convert="spectral-earth-downstream --task enmap_bnetd",
    source="Braham et al. 2024, arXiv 2408.08447",
)
