"""The smallest objective that satisfies the contract: one linear layer on mean spectra, and a carry
that keeps the means of its batches, in order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from eo_jax.monitor.metric import Metric

MEMORY = 8


@dataclasses.dataclass(frozen=True)
class Toy:
    """Loss: mean square of (mean spectrum @ kernel + bias - 1). Carry: the last MEMORY batch means,
    oldest first; a teacher; counters.
    """

    bands: int
    crop_sets: Mapping[str, int] = dataclasses.field(default_factory=lambda: {"global": 1})
    couples_batch: bool = False
    labelled: Mapping[str, int] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, Metric] = dataclasses.field(default_factory=lambda: {"out": Metric("")})

    def check_batch(self, rows):
        """Any batch will do."""

    def init(self, key):
        params = {
            "layer": {"kernel": 0.1 * jax.random.normal(key, (self.bands, 3)), "bias": jnp.zeros(3)}
        }
        counters = {"forwards": jnp.zeros((), jnp.int32), "updates": jnp.zeros((), jnp.int32)}
        return params, {"memory": jnp.zeros(MEMORY), "teacher": params, **counters}

    def loss(self, params, carry, views, key, progress):
        spectra = views["enmap/global"][:, 0].mean((1, 2))
        out = spectra @ params["layer"]["kernel"] + params["layer"]["bias"]
        carry = {
            **carry,
            "memory": jnp.roll(carry["memory"], -1).at[-1].set(spectra.mean()),
            "forwards": carry["forwards"] + 1,
        }
        return jnp.square(out - 1).mean(), (carry, {"out": out.mean()})

    def ema_update(self, params, carry, progress):
        teacher = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, carry["teacher"], params)
        return {**carry, "teacher": teacher, "updates": carry["updates"] + 1}

    def encoders(self, params, carry):
        return {"enmap": {"source": "enmap", "params": params, "statistics": {}}}

    def heads(self, params, carry):
        return {}

    def features(self, weights, view, valid):
        return {
            "pooled": view.mean((1, 2)) @ weights["params"]["layer"]["kernel"]
            + weights["params"]["layer"]["bias"],
            "dense": view,
        }

    def preview(self, params, carry, views, key):
        return {}
