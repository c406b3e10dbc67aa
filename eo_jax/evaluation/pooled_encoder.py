"""An encoder with another pooled feature than its config names."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import Mode


@dataclasses.dataclass(frozen=True)
class PooledEncoder(Encoder):
    """A transformer whose pooled feature is as `pooling` says: "cls", "mean" (of patch tokens) or
    "both", one after the other. All else is the encoder's.
    """

    pooling: str = "cls"

    @property
    def pool(self) -> str:
        """How tokens are pooled."""
        return self.pooling

    def forward(
        self, params: Any, statistics: Any, view: jax.Array, valid: jax.Array, mode: Mode
    ) -> tuple[dict[str, jax.Array], Any]:
        """({"pooled": [b, d], or [b, 2 d] for "both", "dense": [b, h, w, d]}, new running
        statistics).
        """

        def features(module):
            tokens = module.tokens(view, valid, None, mode)
            class_token, patches = tokens[:, 0], tokens[:, 1:]
            parts = {"cls": [class_token], "mean": [patches.mean(1)]}
            parts["both"] = parts["cls"] + parts["mean"]
            return {
                "pooled": jnp.concatenate(parts[self.pooling], axis=-1),
                "dense": patches.reshape(len(view), *module.grid(view), -1),
            }

        return self.network.apply(params, statistics, features)


def pooled_by(encoder: Encoder, pooling: str) -> Encoder:
    """The encoder with a pooled feature of `protocol.POOLINGS`; one without a class token has one
    pooled feature, the mean of its last stage, which stays.
    """
    if pooling == "contract" or encoder.kind != "tokens":
        return encoder
    fields = {field.name: getattr(encoder, field.name) for field in dataclasses.fields(Encoder)}
    return PooledEncoder(**fields, pooling=pooling)


def pooled_width(encoder: Encoder) -> int:
    """Number of channels of the pooled feature."""
    return encoder.width * (2 if encoder.kind == "tokens" and encoder.pool == "both" else 1)
