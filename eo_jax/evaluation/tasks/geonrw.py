"""GeoNRW land cover."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="GeoNRW land cover",
    kind="segmentation",
    label="landcover",
    convert="geonrw",
    val="",
    source="Baier et al. 2021, arXiv 2012.03729; used by DeCUR, arXiv 2309.05300",
)
