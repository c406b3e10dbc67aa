"""What the objectives that train two sensors against each other have in common: an encoder and a
projector for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import Mode, Network
from eo_jax.models.heads import MLP
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.base import EncoderWeights
from eo_jax.objectives.ops.checks import require_pairs
from eo_jax.objectives.ops.collapse_metrics import COLLAPSE_METRICS
from eo_jax.objectives.ops.joint_embedding import embed_views_separately
from eo_jax.schema import Carry, Params, Views


class PairedSensors:
    """Base of objectives over two sources that show the same locations, row by row
    (`data.sources.*.paired_with`).

    Params and running statistics are {"encoders": {source: ...}, "projectors": {source: ...}}.
    Nothing is shared, so each encoder is one to export.
    """

    couples_batch = True
    labelled: Mapping[str, int] = {}
    metrics: Mapping[str, Metric] = COLLAPSE_METRICS

    def __init__(self, name: str, encoders: Mapping[str, Encoder], widths: Sequence[int], end: str):
        owners = {encoder.weight_owner or source for source, encoder in encoders.items()}
        if len(encoders) != 2 or len(owners) != 2:
            raise ValueError(
                f"config.model.stems: {name} trains two encoders, found "
                f"{', '.join(sorted(owners))}; give two sources a stem each"
            )
        self.by_source, self.sources = dict(encoders), tuple(encoders)

        def head(e):
            return Network(lambda rngs: MLP((e.width, *widths), e.dtype, end=end, rngs=rngs))

        self.projectors = {source: head(encoder) for source, encoder in encoders.items()}

    def check_batch(self, rows: int) -> None:
        require_pairs(rows)

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        params: Params = {"encoders": {}, "projectors": {}}
        carry: Carry = {"encoders": {}, "projectors": {}}
        for source, source_key in zip(self.sources, jax.random.split(key, 2), strict=True):
            encoder_key, projector_key = jax.random.split(source_key)
            params["encoders"][source], carry["encoders"][source] = self.by_source[
                source
            ].network.init(encoder_key)
            params["projectors"][source], carry["projectors"][source] = self.projectors[
                source
            ].init(projector_key)
        return params, carry

    def embed(
        self, params: Params, carry: Carry, views: Views, source: str, key: jax.Array
    ) -> tuple[Float[Array, "v b d"], Float[Array, "v b k"], Carry]:
        """(pooled features, embeddings, carry) of the views of a source, each with BatchNorm
        statistics of its own.
        """

        def of(tree, part):
            return tree[part][source]

        view, valid = views[f"{source}/global"], views[f"{source}/global/valid"]
        mode = Mode("batch", key=key)
        features, moved = embed_views_separately(
            self.by_source[source], of(params, "encoders"), of(carry, "encoders"), view, valid, mode
        )
        z, head = self.projectors[source].apply(
            of(params, "projectors"),
            of(carry, "projectors"),
            lambda module: module(features, Mode("batch")),
        )
        encoders, projectors = (
            {**carry["encoders"], source: moved},
            {**carry["projectors"], source: head},
        )
        return features, z, {**carry, "encoders": encoders, "projectors": projectors}

    def ema_update(self, params: Params, carry: Carry, progress: jax.Array) -> Carry:
        return carry

    def encoders(self, params: Params, carry: Carry) -> dict[str, EncoderWeights]:
        def of(source):
            return {
                "source": source,
                "params": params["encoders"][source],
                "statistics": carry["encoders"][source],
            }

        return {source: of(source) for source in self.sources}

    def features(
        self, weights: EncoderWeights, view: jax.Array, valid: jax.Array
    ) -> dict[str, jax.Array]:
        return self.by_source[weights["source"]].features(
            weights["params"], weights["statistics"], view, valid
        )

    def preview(self, params: Params, carry: Carry, views: Views, key: jax.Array) -> dict[str, Any]:
        return {}
