"""EnMAP-BDForet."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="EnMAP-BDForet",
    kind="segmentation",
    label="class",
    convert="spectral-earth-downstream --task enmap_bdforet",
    source="Braham et al. 2024, arXiv 2408.08447",
)
