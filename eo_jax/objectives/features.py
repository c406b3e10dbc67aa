"""Pooled features of a source by its encoder, for evaluators and collapse metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from eo_jax.augment.differences import pixels_field
from eo_jax.objectives.base import Objective
from eo_jax.schema import POOLED, Batch, Carry, Params, Views

# Cap on the samples used for collapse metrics, so that their SVD does not grow with the batch.
_MAX_SAMPLES = 256


def features_of(
    objective: Objective,
    params: Params,
    carry: Carry,
    views: Views,
    source: str,
    same_encoder: Sequence[str],
) -> dict[str, jax.Array]:
    """`Objective.features` of the first global view of a source.

    The encoder is the first whose source is among `same_encoder`: the teacher's where that is the
    default. Raises ValueError where there is none.
    """
    encoders = objective.encoders(params, carry)
    matching = [weights for weights in encoders.values() if weights["source"] in same_encoder]
    if not matching:
        raise ValueError(
            f"objective {type(objective).__name__}: no encoder of source {source!r} among "
            f"{', '.join(encoders)}"
        )
    return objective.features(
        matching[0], views[f"{source}/global"][:, 0], views[f"{source}/global/valid"][:, 0]
    )


def make_pooled(
    objective: Objective,
    make_views: Callable[[Batch], Views],
    same_encoder: Mapping[str, Sequence[str]],
) -> Callable[[dict[str, Any], Batch], dict[str, jax.Array]]:
    """The pure function (state, batch) -> {"pooled/<source>": features [m, d]} in evaluation mode
    of at most 256 samples, spread over the batch.

    It runs next to the train step, for logged steps; the host computes collapse metrics (an SVD)
    from the features. Sources without an encoder are left out.

    Args:
        make_views: batch -> Views without augmentation.
        same_encoder: {source: names of the sources that share its encoder, its own among them}.
    """

    def pooled(state: dict[str, Any], batch: Batch) -> dict[str, jax.Array]:
        weights = state["params"], state["carry"]
        encoded = {encoder["source"] for encoder in objective.encoders(*weights).values()}
        seen = {
            source: _some_pixels(fields)
            for source, fields in batch.items()
            if encoded & set(same_encoder[source])
        }
        views = make_views(seen)
        return {
            f"{POOLED}{source}": features_of(
                objective, *weights, views, source, same_encoder[source]
            )["pooled"]
            for source in seen
        }

    return pooled


def _some_pixels(fields: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The pixels of every k-th row, so that each device keeps some where there are enough."""
    name = pixels_field(fields)
    return {name: fields[name][:: -(-len(fields[name]) // _MAX_SAMPLES)]}
