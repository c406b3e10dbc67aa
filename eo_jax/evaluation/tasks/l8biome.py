"""L8 Biome clouds."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="L8 Biome clouds",
    kind="segmentation",
    label="cloud",
    convert="l8biome --classes index --val-fraction 0.2 --test-fraction 0.2",
    source="Foga et al. 2017; SSL4EO-L, arXiv 2306.09424",
)
