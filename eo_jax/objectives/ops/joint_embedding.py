"""The base of objectives with one encoder that compare embeddings of views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import Mode, Network
from eo_jax.models.heads import MLP
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.ops.checks import require_pairs
from eo_jax.objectives.ops.collapse_metrics import COLLAPSE_METRICS
from eo_jax.objectives.ops.single_encoder import SingleEncoder
from eo_jax.schema import Carry, Params, Views


class JointEmbedding(SingleEncoder):
    """Base of objectives with heads on the pooled features of an encoder.

    A subclass has a Config, `loss` and what it overrides.
    """

    crop_sets: Mapping[str, int] = {"global": 2}
    couples_batch = True
    metrics: Mapping[str, Metric] = COLLAPSE_METRICS

    def check_batch(self, rows: int) -> None:
        require_pairs(rows)

    def add_head(
        self, name: str, widths: Sequence[int], *, hidden_norm: str = "batch", end: str = "linear"
    ) -> None:
        """Adds a head `MLP` of these widths, the input first."""
        self.networks[name] = Network(
            lambda rngs: MLP(
                widths, self.encoder.dtype, hidden_norm=hidden_norm, end=end, rngs=rngs
            )
        )

    def embed_pair(
        self, params: Params, carry: Carry, views: Views, key: jax.Array
    ) -> tuple[Float[Array, "2 b d"], Float[Array, "2 b k"], Carry]:
        """(pooled features of both views, their embeddings by the head "projector", new carry),
        each view with BatchNorm statistics of its own.
        """
        features, carry = self.encode_pair(params, carry, views, Mode("batch", key=key))
        embeddings, carry = self.head("projector", params, carry, features, Mode("batch"))
        return features, embeddings, carry

    def encode_pair(
        self, params: Params, statistics: Carry, views: Views, mode: Mode
    ) -> tuple[Float[Array, "2 b d"], Carry]:
        """Pooled features of the first two global views, each with BatchNorm statistics of its own,
        and the new running statistics.
        """
        view, valid = self.views_of(views, "global")
        features, updated = embed_views_separately(
            self.encoder, params["encoder"], statistics["encoder"], view[:, :2], valid[:, :2], mode
        )
        return features, {**statistics, "encoder": updated}

    def encode_crops(
        self, params: Params, carry: Carry, views: Views, key: jax.Array
    ) -> tuple[Float[Array, "v b d"], Carry]:
        """Pooled features of all views, "global" first, one forward pass per crop set, and the new
        carry.
        """
        features = []
        for crop_set, drop_key in zip(
            self.crop_sets_of(views), jax.random.split(key), strict=False
        ):
            pooled, carry = self.encode_crop_set(
                params, carry, views, crop_set, Mode("batch", key=drop_key)
            )
            features.append(pooled)
        return jnp.concatenate(features), carry

    def encode_crop_set(
        self, params: Params, carry: Carry, views: Views, crop_set: str, mode: Mode
    ) -> tuple[Float[Array, "v b d"], Carry]:
        """Pooled features of all views of a crop set, from one forward pass, and the new carry."""
        view, valid = self.views_of(views, crop_set)
        features, updated = embed_views_jointly(
            self.encoder, params["encoder"], carry["encoder"], view, valid, mode
        )
        return features, {**carry, "encoder": updated}

    def crop_sets_of(self, views: Views) -> list[str]:
        """The crop sets of a batch: "global", then "local" where the recipe gives it."""
        has_local = any(f"{source}/local" in views for source in self.sources)
        return ["global", "local"] if has_local else ["global"]

    def embed(
        self, params: Params, statistics: Carry, view: Array, valid: Array, mode: Mode
    ) -> tuple[Float[Array, "b d"], Float[Array, "b k"], Carry]:
        """(pooled features, embedding by the head "projector", new running statistics) of one
        view.
        """
        features, updated = self.encoder.pooled(
            params["encoder"], statistics["encoder"], view, valid, mode
        )
        statistics = {**statistics, "encoder": updated}
        embedding, statistics = self.head("projector", params, statistics, features, mode)
        return features, embedding, statistics

    def head(
        self, name: str, params: Params, statistics: Carry, x: Array, mode: Mode
    ) -> tuple[Float[Array, "... k"], Carry]:
        """A head's float32 output for one view [b, d] or several [v, b, d], and the new running
        statistics.
        """
        output, updated = self.networks[name].apply(
            params[name], statistics[name], lambda module: module(x, mode)
        )
        return output, {**statistics, name: updated}


def embed_views_jointly(
    encoder: Encoder,
    params: Params,
    statistics: Carry,
    view: Float[Array, "b v H W c"],
    valid: Array,
    mode: Mode,
) -> tuple[Float[Array, "v b d"], Carry]:
    """Pooled features of all views in one forward pass, one batch for BatchNorm, and the new
    running statistics.
    """
    b, v = view.shape[:2]

    def merge(x):
        return x.reshape(b * v, *x.shape[2:])

    pooled, statistics = encoder.pooled(params, statistics, merge(view), merge(valid), mode)
    return pooled.reshape(b, v, -1).swapaxes(0, 1), statistics


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

    An encoder without BatchNorm takes all views in one forward pass: the products are larger, and
    the gradient of its weights is computed once.
    """
    if not jax.tree.leaves(statistics):
        return embed_views_jointly(encoder, params, statistics, view, valid, mode)
    features = []
    for i in range(view.shape[1]):
        pooled, statistics = encoder.pooled(
            params, statistics, view[:, i], valid[:, i], mode.of_part(i)
        )
        features.append(pooled)
    return jnp.stack(features), statistics
