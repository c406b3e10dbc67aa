"""Checks of settings and batches that objectives share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eo_jax.models.encoder import Encoder
from eo_jax.schema import Views


def only_encoder(name: str, encoders: Mapping[str, Encoder]) -> tuple[str, Encoder]:
    """The one encoder of a method that trains one, and its source. Raises ValueError where the
    config has more.
    """
    owners = {
        encoder.weight_owner or source: (source, encoder)
        for source, encoder in reversed(encoders.items())
    }
    if len(owners) != 1:
        raise ValueError(
            f"config.model.stems: {name} trains one encoder, found {', '.join(owners)}; let "
            "sources share a stem, or use decur or clip"
        )
    return next(iter(owners.values()))


def present_source(sources: Sequence[str], views: Views, crop_set: str) -> str:
    """The one source of these whose views are here; a mixture gives one at a time. ValueError where
    there are none or more.
    """
    present = [source for source in sources if f"{source}/{crop_set}" in views]
    if len(present) != 1:
        raise ValueError(
            f"config.data.mixture: a batch of {', '.join(present) or 'no source'}; this objective "
            "takes one source at a time"
        )
    return present[0]


def require_pairs(rows: int) -> None:
    """ValueError where a batch is too small for a method that compares its samples, or for
    BatchNorm in its heads.
    """
    if rows < 2:
        raise ValueError(
            f"config.data.batch_size: {rows} at once (batch_size / optim.accum); this objective "
            "compares the samples of a batch, or has BatchNorm "
            f"in its heads, so it needs at least 2"
        )


def require_positive(config: Any, *fields: str) -> None:
    """ValueError where a setting of an objective is not more than 0."""
    for field in fields:
        if not getattr(config, field) > 0:
            raise ValueError(
                f"config.objective.{field}: {getattr(config, field)}; expected more than 0"
            )


def require_fractions(config: Any, *fields: str) -> None:
    """ValueError where a setting of an objective is no share, 0 to 1."""
    for field in fields:
        if not 0 <= getattr(config, field) <= 1:
            raise ValueError(
                f"config.objective.{field}: {getattr(config, field)}; expected a share, 0 to 1"
            )


def require_same_width(projector: Sequence[int], predictor: Sequence[int]) -> None:
    """ValueError where a predictor does not predict what the projector gives."""
    if projector[-1] != predictor[-1]:
        raise ValueError(
            f"config.objective.predictor: ends in {predictor[-1]}, the projector in "
            f"{projector[-1]}; expected the same"
        )
