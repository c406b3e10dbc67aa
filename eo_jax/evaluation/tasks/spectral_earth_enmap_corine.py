"""EnMAP-CORINE."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="EnMAP-CORINE",
    kind="multi_label",
    label="multilabel",
    convert="spectral-earth-downstream --task enmap_corine",
    source="Braham et al. 2024, arXiv 2408.08447",
)
