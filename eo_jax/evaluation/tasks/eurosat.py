"""EuroSAT, Sentinel-2."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="EuroSAT, Sentinel-2",
    kind="classification",
    label="class",
    convert="eurosat",
    source="Helber et al. 2019, arXiv 1709.00029; lists of torchgeo",
)
