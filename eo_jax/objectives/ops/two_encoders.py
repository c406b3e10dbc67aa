"""The base of objectives that train two sensors against each other: an encoder and a projector
each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import Mode, Network
from eo_jax.models.heads import MLP
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.base import Defaults, EncoderWeights
from eo_jax.objectives.ops.checks import require_pairs
from eo_jax.objectives.ops.collapse_metrics import COLLAPSE_METRICS, collapse_metrics
from eo_jax.objectives.ops.joint_embedding import embed_views_separately
from eo_jax.schema import Carry, Metrics, Params, Views


class PairedSensors(Defaults):
    """Base of objectives over two sources that show the same locations, row by row
    (`data.sources.*.paired_with`).

    Params and running statistics are {"encoders": {source: ...}, "projectors": {source: ...}}.
    Nothing is shared, so each encoder can be exported.
    """

    couples_batch = True
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
            encoder, projector = self.by_source[source].network, self.projectors[source]
            params["encoders"][source], carry["encoders"][source] = encoder.init(encoder_key)
            params["projectors"][source], carry["projectors"][source] = projector.init(
                projector_key
            )
        return params, carry

    def embed_sources(
        self, params: Params, carry: Carry, views: Views, key: jax.Array
    ) -> tuple[list[Float[Array, "v b k"]], Carry, Metrics]:
        """(embeddings of each source's views, new carry, collapse metrics of each source).

        Each view has BatchNorm statistics of its own.
        """
        embeddings, metrics = [], {}
        for source, drop_key in zip(self.sources, jax.random.split(key), strict=True):
            features, z, carry = self._embed(params, carry, views, source, drop_key)
            embeddings.append(z)
            for name, value in collapse_metrics(features[0], z[0]).items():
                metrics[f"{name}/{source}"] = value
        return embeddings, carry, metrics

    def encoders(self, params: Params, carry: Carry) -> dict[str, EncoderWeights]:
        return {
            source: {
                "source": source,
                "params": params["encoders"][source],
                "statistics": carry["encoders"][source],
            }
            for source in self.sources
        }

    def features(
        self, weights: EncoderWeights, view: jax.Array, valid: jax.Array
    ) -> dict[str, jax.Array]:
        return self.by_source[weights["source"]].features(
            weights["params"], weights["statistics"], view, valid
        )

    def _embed(
        self, params: Params, carry: Carry, views: Views, source: str, key: jax.Array
    ) -> tuple[Float[Array, "v b d"], Float[Array, "v b k"], Carry]:
        """(pooled features, embeddings, new carry) of the views of a source."""
        features, encoder_statistics = embed_views_separately(
            self.by_source[source],
            params["encoders"][source],
            carry["encoders"][source],
            views[f"{source}/global"],
            views[f"{source}/global/valid"],
            Mode("batch", key=key),
        )
        z, projector_statistics = self.projectors[source].apply(
            params["projectors"][source],
            carry["projectors"][source],
            lambda module: module(features, Mode("batch")),
        )
        return (
            features,
            z,
            {
                **carry,
                "encoders": {**carry["encoders"], source: encoder_statistics},
                "projectors": {**carry["projectors"], source: projector_statistics},
            },
        )
