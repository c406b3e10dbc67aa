"""Pavia University."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="Pavia University",
    kind="pixel",
    label="landcover",
    convert="hsi-scene --sensor rosis_pavia_university",
    val="",
    test="val",
    source="the map of the scene; docs/archives.md says how its pixels are split",
)
