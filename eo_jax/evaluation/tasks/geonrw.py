"""GeoNRW land cover."""

from eo_jax.evaluation.task import Task

TASK = Task(
    title="GeoNRW land cover",
    kind="segmentation",
    label="landcover",
    convert="geonrw --split blocks:5 --val-fraction 0.1 --test-fraction 0.2",
    source="Baier et al. 2021, arXiv 2012.03729, without lists; used by DeCUR, arXiv 2309.05300",
)
