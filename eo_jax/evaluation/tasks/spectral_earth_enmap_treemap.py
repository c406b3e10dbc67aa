"""EnMAP-TreeMap."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="EnMAP-TreeMap",
    kind="segmentation",
    label="class",
    convert="spectral-earth-downstream --task enmap_treemap",
    source="Braham et al. 2024, arXiv 2408.08447",
)
