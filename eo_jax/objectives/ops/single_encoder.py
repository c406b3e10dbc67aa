"""The base of objectives with one encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax
from jaxtyping import Array, Float

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import Network
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.base import Defaults, EncoderWeights, HeadWeights
from eo_jax.objectives.ops.checks import only_encoder, present_source
from eo_jax.objectives.ops.collapse_metrics import FEATURE_METRICS
from eo_jax.schema import Carry, Params, Views


class SingleEncoder(Defaults):
    """Base of objectives with one encoder; a subclass has a Config, `loss`, heads in `networks`.

    Params are {"encoder": ..., <head>: ...}; Carry has the running statistics under the same names.

    Args:
        name: of the method, for errors.
        encoders: {source: encoder}, all with the same weights. A batch has one of the sources.

    Attributes:
        per_sensor: paths in Params and Carry of the parts that belong to one sensor where several
            sensors share a trunk.
    """

    crop_sets: Mapping[str, int] = {"global": 1}
    couples_batch = False
    metrics: Mapping[str, Metric] = FEATURE_METRICS
    per_sensor: tuple[str, ...] = ("encoder/stem",)

    def __init__(self, name: str, encoders: Mapping[str, Encoder]):
        self.source, self.encoder = only_encoder(name, encoders)
        self.sources = tuple(encoders)
        self.networks: dict[str, Network] = {"encoder": self.encoder.network}

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        keys = jax.random.split(key, len(self.networks))
        initial = {
            name: network.init(k)
            for (name, network), k in zip(self.networks.items(), keys, strict=True)
        }
        return {name: params for name, (params, _) in initial.items()}, {
            name: statistics for name, (_, statistics) in initial.items()
        }

    def encoders(self, params: Params, carry: Carry) -> dict[str, EncoderWeights]:
        return {
            self.source: {
                "source": self.source,
                "params": params["encoder"],
                "statistics": carry["encoder"],
            }
        }

    def heads(self, params: Params, carry: Carry) -> dict[str, HeadWeights]:
        names = [name for name in self.networks if name != "encoder"]
        return {self.source: heads_of(names, params, carry)}

    def features(
        self, weights: EncoderWeights, view: jax.Array, valid: jax.Array
    ) -> dict[str, jax.Array]:
        return self.encoder.features(weights["params"], weights["statistics"], view, valid)

    def views_of(self, views: Views, crop_set: str) -> tuple[Float[Array, "b v H W c"], Array]:
        """Views of a crop set and their valid masks, of the source that this batch has."""
        name = f"{present_source(self.sources, views, crop_set)}/{crop_set}"
        return views[name], views[f"{name}/valid"]

    def only_view(self, views: Views) -> tuple[Float[Array, "b H W c"], Array]:
        """The global view of a method that takes one, and its valid mask."""
        view, valid = self.views_of(views, "global")
        return view[:, 0], valid[:, 0]


def heads_of(names: Iterable[str], params: Params, statistics: Carry) -> HeadWeights:
    """The heads of these names; those without running statistics have none."""
    return {
        "params": {name: params[name] for name in names},
        "statistics": {name: statistics.get(name, {}) for name in names},
    }
