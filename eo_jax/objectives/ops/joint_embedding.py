"""The base of objectives with one encoder that compare embeddings of views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import Mode, Network
from eo_jax.models.heads import MLP
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.base import EncoderWeights
from eo_jax.objectives.ops.checks import only_encoder, present_source, require_pairs
from eo_jax.objectives.ops.collapse_metrics import COLLAPSE_METRICS
from eo_jax.schema import Carry, Params, Views


class JointEmbedding:
    """Base of objectives with one encoder and heads on its pooled features; a subclass has a
    Config, `crop_sets`, `loss` and what it changes.

    Params are {"encoder": ..., <head>: ...}; Carry has the running statistics under the same names.

    Args:
        name: of the method, for errors.
        encoders: {source: encoder}, all of the same weights. One source is in a batch at a time.
    """

    couples_batch = True
    crop_sets: Mapping[str, int] = {"global": 2}
    labelled: Mapping[str, int] = {}
    metrics: Mapping[str, Metric] = COLLAPSE_METRICS

    def __init__(self, name: str, encoders: Mapping[str, Encoder]):
        self.source, self.encoder = only_encoder(name, encoders)
        self.sources = tuple(encoders)
        self.networks: dict[str, Network] = {"encoder": self.encoder.network}

    def add_head(
        self, name: str, widths: Sequence[int], *, hidden_norm: str = "batch", end: str = "linear"
    ) -> None:
        """A head `MLP` of these widths, the input first."""
        self.networks[name] = Network(
            lambda rngs: MLP(
                widths, self.encoder.dtype, hidden_norm=hidden_norm, end=end, rngs=rngs
            )
        )

    def check_batch(self, rows: int) -> None:
        require_pairs(rows)

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        return self.init_networks(key)

    def init_networks(self, key: jax.Array) -> tuple[Params, Carry]:
        """Fresh (weights, running statistics) of encoder and heads."""
        keys = jax.random.split(key, len(self.networks))
        made = {
            name: network.init(k)
            for (name, network), k in zip(self.networks.items(), keys, strict=True)
        }
        return {name: params for name, (params, _) in made.items()}, {
            name: statistics for name, (_, statistics) in made.items()
        }

    def views_of(self, views: Views, crop_set: str) -> tuple[Float[Array, "b v H W c"], Array]:
        """Views of a crop set and their validity, of the source that this batch holds."""
        name = f"{present_source(self.sources, views, crop_set)}/{crop_set}"
        return views[name], views[f"{name}/valid"]

    def embed_pair(
        self, params: Params, carry: Carry, views: Views, key: jax.Array
    ) -> tuple[Float[Array, "2 b d"], Float[Array, "2 b k"], Carry]:
        """(pooled features of the two views, the head "projector" on each, carry), each view with
        BatchNorm statistics of its own.
        """
        features, carry = self.pooled_pair(params, carry, views, Mode("batch", key=key))
        embeddings, carry = self.head("projector", params, carry, features, Mode("batch"))
        return features, embeddings, carry

    def pooled_pair(
        self, params: Params, statistics: Carry, views: Views, mode: Mode
    ) -> tuple[Float[Array, "2 b d"], Carry]:
        """Pooled features of the first two views, each with BatchNorm statistics of its own, and
        all running statistics after both.
        """
        view, valid = self.views_of(views, "global")
        features, moved = embed_views_separately(
            self.encoder, params["encoder"], statistics["encoder"], view[:, :2], valid[:, :2], mode
        )
        return features, {**statistics, "encoder": moved}

    def pooled_set(
        self, params: Params, carry: Carry, views: Views, crop_set: str, mode: Mode
    ) -> tuple[Float[Array, "v b d"], Carry]:
        """Pooled features of all views of a crop set, in one forward pass, and the carry
        after it.
        """
        features, moved = embed_views_jointly(
            self.encoder,
            params["encoder"],
            carry["encoder"],
            *self.views_of(views, crop_set),
            mode,
        )
        return features, {**carry, "encoder": moved}

    def pooled_crops(
        self, params: Params, carry: Carry, views: Views, key: jax.Array
    ) -> tuple[Float[Array, "v b d"], Carry]:
        """The same of all crop sets, "global" first; crops of one size make one forward pass."""
        features = []
        for crop_set, drop_key in zip(
            self.crop_sets_of(views), jax.random.split(key), strict=False
        ):
            found, carry = self.pooled_set(
                params, carry, views, crop_set, Mode("batch", key=drop_key)
            )
            features.append(found)
        return jnp.concatenate(features), carry

    def crop_sets_of(self, views: Views) -> list[str]:
        """The crop sets of a batch with several: "global" first, then "local" where the recipe
        gives it.
        """
        return [
            "global",
            *(["local"] if any(f"{source}/local" in views for source in self.sources) else []),
        ]

    def pooled(
        self, params: Params, statistics: Carry, view: Array, valid: Array, mode: Mode
    ) -> tuple[Float[Array, "b d"], Carry]:
        """Pooled features of one view, and all running statistics after it."""
        found, moved = self.encoder.pooled(
            params["encoder"], statistics["encoder"], view, valid, mode
        )
        return found, {**statistics, "encoder": moved}

    def head(
        self, name: str, params: Params, statistics: Carry, x: Array, mode: Mode
    ) -> tuple[Float[Array, "... k"], Carry]:
        """A head's output on one view [b, d], or on several [v, b, d], in float32, and all running
        statistics after it.
        """
        found, moved = self.networks[name].apply(
            params[name], statistics[name], lambda module: module(x, mode)
        )
        return found, {**statistics, name: moved}

    def embed(
        self, params: Params, statistics: Carry, view: Array, valid: Array, mode: Mode
    ) -> tuple[Array, Array, Carry]:
        """(pooled features, what the head "projector" makes of them, running statistics) of one
        view.
        """
        features, statistics = self.pooled(params, statistics, view, valid, mode)
        projected, statistics = self.head("projector", params, statistics, features, mode)
        return features, projected, statistics

    def ema_update(self, params: Params, carry: Carry, progress: jax.Array) -> Carry:
        return carry

    def encoders(self, params: Params, carry: Carry) -> dict[str, EncoderWeights]:
        return {
            self.source: {
                "source": self.source,
                "params": params["encoder"],
                "statistics": carry["encoder"],
            }
        }

    def features(
        self, weights: EncoderWeights, view: jax.Array, valid: jax.Array
    ) -> dict[str, jax.Array]:
        return self.encoder.features(weights["params"], weights["statistics"], view, valid)

    def preview(self, params: Params, carry: Carry, views: Views, key: jax.Array) -> dict[str, Any]:
        return {}


def embed_views_jointly(
    encoder: Encoder,
    params: Params,
    statistics: Carry,
    view: Float[Array, "b v H W c"],
    valid: Array,
    mode: Mode,
) -> tuple[Float[Array, "v b d"], Carry]:
    """Pooled features of all views in one forward pass, so BatchNorm takes them for one batch, and
    the running statistics after it.
    """
    b, v = view.shape[:2]

    def merge(x):
        return x.reshape(b * v, *x.shape[2:])

    found, statistics = encoder.pooled(params, statistics, merge(view), merge(valid), mode)
    return found.reshape(b, v, -1).swapaxes(0, 1), statistics


def embed_views_separately(
    encoder: Encoder,
    params: Params,
    statistics: Carry,
    view: Float[Array, "b v H W c"],
    valid: Array,
    mode: Mode,
) -> tuple[Float[Array, "v b d"], Carry]:
    """Pooled features of all views, each with BatchNorm statistics of its own, and the running
    statistics after the last.

    An encoder without BatchNorm takes all in one forward pass: larger products, and the gradient of
        its weights is made once.
    """
    if not jax.tree.leaves(statistics):
        return embed_views_jointly(encoder, params, statistics, view, valid, mode)
    features = []
    for i in range(view.shape[1]):
        found, statistics = encoder.pooled(
            params, statistics, view[:, i], valid[:, i], mode.of_part(i)
        )
        features.append(found)
    return jnp.stack(features), statistics
