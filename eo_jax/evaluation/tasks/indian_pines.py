"""Indian Pines."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="Indian Pines",
    kind="pixel",
    label="landcover",
    convert="hsi-scene --sensor aviris_indian_pines",
    val="",
    test="val",
    source="the map of the scene; docs/archives.md says how its pixels are split",
)
