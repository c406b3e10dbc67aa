"""L7 Irish clouds."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="L7 Irish clouds",
    kind="segmentation",
    label="cloud",
    convert="l7irish --classes index --val-fraction 0.2 --test-fraction 0.2",
    source="Scaramuzza et al. 2012; SSL4EO-L, arXiv 2306.09424",
)
