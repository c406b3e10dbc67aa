"""Salinas."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="Salinas",
    kind="pixel",
    label="landcover",
    convert="hsi-scene --sensor aviris_salinas",
    val="",
    test="val",
    source="the map of the scene; docs/archives.md says how its pixels are split",
)
