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
    """The one of these sources whose views are in the batch; a mixture gives one at a time.
    ValueError where none or several are.
    """
    present = [source for source in sources if f"{source}/{crop_set}" in views]
    if len(present) != 1:
        raise ValueError(
            f"config.data.mixture: a batch of {', '.join(present) or 'no source'}; this objective "
            "takes one source at a time"
        )
    return present[0]


def require_tokens(name: str, encoder: Encoder) -> None:
    """ValueError where a method that hides tokens has an encoder without any."""
    if encoder.kind != "tokens":
        raise ValueError(
            f"config.model.trunk: {name} hides tokens, so it needs a trunk of tokens, such as vit"
        )


def require_pairs(rows: int) -> None:
    """ValueError where a batch is too small for a method that compares its samples, or for
    BatchNorm in its heads.
    """
    if rows < 2:
        raise ValueError(
            f"config.data.batch_size: {rows} at once (batch_size / optim.accum); this objective "
            "compares the samples of a batch, or has BatchNorm in its heads, so it needs at least 2"
        )


def require_positive(config: Any, *fields: str) -> None:
    """ValueError where a setting of an objective is not more than 0."""
    for field in fields:
        if not getattr(config, field) > 0:
            raise ValueError(
                f"config.objective.{field}: {getattr(config, field)}; expected more than 0"
            )


def require_fractions(config: Any, *fields: str) -> None:
    """ValueError where a setting of an objective is not a fraction, 0 to 1."""
    for field in fields:
        if not 0 <= getattr(config, field) <= 1:
            raise ValueError(
                f"config.objective.{field}: {getattr(config, field)}; expected a fraction, 0 to 1"
            )


def require_mask_ratio(config: Any) -> None:
    """ValueError where `mask_ratio` would hide no token or all of them."""
    if not 0 < config.mask_ratio < 1:
        raise ValueError(
            f"config.objective.mask_ratio: {config.mask_ratio}; expected a fraction between 0 and 1"
        )


def require_same_width(projector: Sequence[int], predictor: Sequence[int]) -> None:
    """ValueError where projector and predictor end in different widths."""
    if projector[-1] != predictor[-1]:
        raise ValueError(
            f"config.objective.predictor: ends in {predictor[-1]}, the projector in "
            f"{projector[-1]}; expected the same"
        )
