"""Hyperview soil properties."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="Hyperview soil properties",
    kind="regression",
    label="targets",
    convert="hyperview",
    val="",
    test="val",
    metric="normalised_mse",
    source="Nalepa et al. 2022; as used by SpectralEarth, arXiv 2408.08447",
)
