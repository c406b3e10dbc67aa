"""Houston 2013."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="Houston 2013",
    kind="pixel",
    label="landcover",
    convert="hsi-scene --sensor casi_houston2013",
    val="",
    test="val",
    source="the map of the scene; docs/archives.md says how its pixels are split",
)
