"""data2vec: predicts, for hidden patches, the outputs of a teacher's last blocks for the whole view
(Baevski et al. 2022, arXiv 2202.03555).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from eo_jax.augment import masking
from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import EVALUATE, Mode, Network
from eo_jax.models.initialisation import beit
from eo_jax.models.layers.dense import Dense
from eo_jax.monitor.metric import Metric
from eo_jax.objectives.ops.checks import (
    require_fractions,
    require_mask_ratio,
    require_positive,
    require_tokens,
)
from eo_jax.objectives.ops.collapse_metrics import (
    FEATURE_METRICS,
    TEACHER_AGREEMENT,
    agreement,
    feature_metrics,
)
from eo_jax.objectives.ops.teacher import WithTeacher
from eo_jax.schema import Carry, Metrics, Params, Views

_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True)
class Config:
    """data2vec for images.

    Attributes:
        mask_ratio: fraction of patch tokens that are hidden, in blocks.
        average_top_k_layers: number of last blocks whose outputs are averaged.
        beta: distance at which the smooth L1 loss turns from quadratic to linear.
        momentum: fraction of the teacher that each step keeps at the start.
        end_momentum: the same at the end; it changes linearly.
    """

    mask_ratio: float = 120 / 196
    average_top_k_layers: int = 6
    beta: float = 2.0
    momentum: float = 0.999
    end_momentum: float = 0.9998

    def __post_init__(self):
        require_mask_ratio(self)
        require_positive(self, "beta")
        require_fractions(self, "momentum", "end_momentum")

    def build(self, encoders: Mapping[str, Encoder]) -> Data2Vec:
        """The objective for {source: encoder}, all with the same weights."""
        return Data2Vec(self, encoders)


class Regressor(nnx.Module):
    """The token in place of hidden patches, and the linear layer that predicts the targets; BEiT's
    initial weights replace theirs.
    """

    def __init__(self, width: int, dtype: jnp.dtype, *, rngs: nnx.Rngs):
        self.mask_token = nnx.Param(jnp.zeros((1, 1, width)))
        self.predict = Dense(width, width, dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.predict(tokens).astype(jnp.float32)


class Data2Vec(WithTeacher):
    """The objective; see the module docstring. The teacher sees all patches. Patches without data
    are hidden first and do not count.
    """

    crop_sets: Mapping[str, int] = {"global": 1}
    couples_batch = False
    metrics: Mapping[str, Metric] = {
        **FEATURE_METRICS,
        **TEACHER_AGREEMENT,
        "target_std": Metric(""),
    }
    teacher_networks = ("encoder",)
    statistics_of = "student"

    def __init__(self, config: Config, encoders: Mapping[str, Encoder]):
        super().__init__("data2vec", encoders)
        require_tokens("data2vec", self.encoder)
        if not 0 < config.average_top_k_layers <= self.encoder.layers:
            raise ValueError(
                f"config.objective.average_top_k_layers: {config.average_top_k_layers}; expected 1 "
                f"to {self.encoder.layers}, the blocks of the trunk"
            )
        self.config = config
        self.networks["regressor"] = Network(
            lambda rngs: Regressor(self.encoder.width, self.encoder.dtype, rngs=rngs), beit
        )

    def check_batch(self, rows: int) -> None:
        """Accepts any batch."""

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        view, valid = self.only_view(views)
        mask_key, drop_key = jax.random.split(key)
        patch, ratio = self.encoder.patch, self.config.mask_ratio
        has_data = masking.valid_values(valid, patch) > 0
        rows, columns = view.shape[1] // patch, view.shape[2] // patch
        hidden = masking.hidden_count(rows * columns, ratio)
        masked = masking.random_blocks(mask_key, has_data, rows, columns, hidden)
        predicted, statistics = self._predict(params, carry, view, valid, masked, drop_key)
        targets = average_targets(self._teacher_layers(carry, view, valid))
        loss = smooth_l1(predicted, targets, self.config.beta, masked & has_data)
        metrics = {
            "target_std": targets.std(axis=(0, 1)).mean(),
            **agreement(predicted, targets),
            **feature_metrics(predicted.mean(1)),
        }
        return loss, ({**carry, "encoder": statistics}, metrics)

    def momentum(self, progress: jax.Array) -> jax.Array:
        return self.config.momentum + (self.config.end_momentum - self.config.momentum) * progress

    def _predict(
        self,
        params: Params,
        carry: Carry,
        view: Array,
        valid: Array,
        masked: Bool[Array, "b n"],
        key: jax.Array,
    ) -> tuple[Float[Array, "b n d"], Carry]:
        """(the student's predictions for all patches, new running statistics of the encoder)."""
        token = params["regressor"]["mask_token"]
        mode = Mode("batch", key=key)

        def student(module):
            tokens = module.embed(view, valid, None, mode)
            tokens = jnp.where(masked[..., None], token.astype(tokens.dtype), tokens)
            return module.trunk(
                module.with_positions(tokens, None, module.grid(view)), module.grid(view), mode
            )

        tokens, statistics = self.encoder.network.apply(
            params["encoder"], carry["encoder"], student
        )
        predicted, _ = self.networks["regressor"].apply(
            params["regressor"], {}, lambda module: module(tokens[:, 1:])
        )
        return predicted, statistics

    def _teacher_layers(self, carry: Carry, view: Array, valid: Array) -> Float[Array, "K b n d"]:
        """Outputs of the teacher's last blocks for the patch tokens, without gradient, with running
        statistics.
        """
        teacher, count = carry["teacher"], self.config.average_top_k_layers

        def layers(module):
            tokens = module.trunk_input(view, valid, None, EVALUATE)
            return module.trunk.last_layers(tokens, module.grid(view), EVALUATE, count)

        outputs, _ = self.encoder.network.apply(
            teacher["params"]["encoder"], teacher["statistics"]["encoder"], layers
        )
        return jax.lax.stop_gradient(outputs)[:, :, 1:]


def average_targets(layers: Float[Array, "K b n d"]) -> Float[Array, "b n d"]:
    """Each layer normalised over d, their mean, normalised again (section 3.3)."""
    return _standardise(_standardise(layers.astype(jnp.float32)).mean(0))


def _standardise(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + _EPSILON)


def smooth_l1(
    x: Float[Array, "b n d"], y: Float[Array, "b n d"], beta: float, masked: Bool[Array, "b n"]
) -> Float[Array, ""]:
    """Smooth L1 distance, mean over d and the masked tokens (equation 2); 0 where none is
    masked.
    """
    away = x.astype(jnp.float32) - y.astype(jnp.float32)
    # Other tokens are 0 before any mathematics: their gradient would be NaN where they are.
    gap = jnp.abs(jnp.where(masked[..., None], away, 0.0))
    error = jnp.where(gap < beta, jnp.square(gap) / (2 * beta), gap - beta / 2).mean(-1)
    return error.sum() / jnp.maximum(masked.sum(), 1)
