"""What the objectives that compare embeddings of views have in common: one encoder, heads, a
teacher that follows, a watch on collapse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from eo_jax.models.encoder import Encoder
from eo_jax.models.functional import Mode, Network
from eo_jax.models.heads import MLP, normalise
from eo_jax.objectives.base import EncoderWeights
from eo_jax.schema import Carry, Metrics, Params, Views


def only_encoder(name: str, encoders: Mapping[str, Encoder]) -> tuple[str, Encoder]:
    """The one encoder of a method that trains one, and its source. Raises ValueError where the
    config has more.
    """
    owners = {
        encoder.weights or source: (source, encoder)
        for source, encoder in reversed(encoders.items())
    }
    if len(owners) != 1:
        raise ValueError(
            f"config.model.stems: {name} trains one encoder, found {', '.join(owners)}; let "
            "sources share a stem, or use decur or clip"
        )
    return next(iter(owners.values()))


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

    def of_crop_set(self, views: Views, crop_set: str) -> tuple[Float[Array, "b v H W c"], Array]:
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
        view, valid = self.of_crop_set(views, "global")
        features, moved = pooled_apart(
            self.encoder, params["encoder"], statistics["encoder"], view[:, :2], valid[:, :2], mode
        )
        return features, {**statistics, "encoder": moved}

    def pooled_set(
        self, params: Params, carry: Carry, views: Views, crop_set: str, mode: Mode
    ) -> tuple[Float[Array, "v b d"], Carry]:
        """Pooled features of all views of a crop set, in one forward pass, and the carry
        after it.
        """
        features, moved = pooled_together(
            self.encoder,
            params["encoder"],
            carry["encoder"],
            *self.of_crop_set(views, crop_set),
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

    def multiply_adds(self, views: Mapping[str, tuple[int, int]]) -> int:
        """Of the encoder alone, over the views that carry a gradient; heads and teachers are left
        out.
        """
        return sum(
            count * self.view_multiply_adds(size)
            for name, (count, size) in views.items()
            if name.partition("/")[0] in self.sources
        )

    def view_multiply_adds(self, size: int) -> int:
        """Of the encoder's forward pass over one view of `size` pixels. Those that ask it for more
        than pooled features say so.
        """
        return self.encoder.pooled_multiply_adds(size)


class WithTeacher(JointEmbedding):
    """The same with a teacher: a copy of encoder and some heads that follows them as an exponential
    moving average, after the optimizer.

    Carry["teacher"] is {"params": ..., "statistics": ...}. The teacher starts as a copy, not as a
    network of its own.

    Attributes:
        copied: the networks that it has.
        statistics_of: whose running statistics its BatchNorm has: "teacher", moved by its own
            forward passes; "student", a copy after each step; or "average", which follow the
            student's as the weights follow its weights (EMAN, Cai et al. 2021, arXiv 2101.08482).
    """

    copied: tuple[str, ...] = ("encoder", "projector")
    statistics_of: str = "teacher"

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        params, statistics = self.init_networks(key)

        def only(tree):
            return {name: tree[name] for name in self.copied}

        return params, {
            **statistics,
            "teacher": {"params": only(params), "statistics": only(statistics)},
        }

    def momentum(self, progress: jax.Array) -> float | jax.Array:
        """Share of the teacher that stays, at this progress."""
        raise NotImplementedError

    def teach(
        self, carry: Carry, view: Array, valid: Array, mode: Mode
    ) -> tuple[Float[Array, "b k"], Carry]:
        """(what the teacher's projector makes of a view, without gradient, the carry after it)."""
        teacher = carry["teacher"]
        _, projected, statistics = self.embed(
            teacher["params"], teacher["statistics"], view, valid, mode
        )
        return jax.lax.stop_gradient(projected), {
            **carry,
            "teacher": {**teacher, "statistics": statistics},
        }

    def predict_pair(
        self, params: Params, carry: Carry, views: Views, key: jax.Array
    ) -> tuple[Array, Array, Array, Carry]:
        """(pooled features of the two views, the head "predictor" on each, what the teacher's
        projector makes of each, carry).
        """
        features, embeddings, carry = self.embed_pair(params, carry, views, key)
        predicted, carry = self.head("predictor", params, carry, embeddings, Mode("batch"))
        teacher = carry["teacher"]
        seen, statistics = self.pooled_pair(
            teacher["params"], teacher["statistics"], views, Mode("batch")
        )
        targets, statistics = self.head(
            "projector", teacher["params"], statistics, seen, Mode("batch")
        )
        return (
            features,
            predicted,
            jax.lax.stop_gradient(targets),
            {**carry, "teacher": {**teacher, "statistics": statistics}},
        )

    def ema_update(self, params: Params, carry: Carry, progress: jax.Array) -> Carry:
        teacher, momentum = carry["teacher"], self.momentum(progress)

        def of_student(tree):
            return {name: tree[name] for name in self.copied}

        statistics = self._statistics(teacher["statistics"], of_student(carry), momentum)
        return {
            **carry,
            "teacher": {
                "params": follow(teacher["params"], of_student(params), momentum),
                "statistics": statistics,
            },
        }

    def _statistics(self, teacher: Carry, student: Carry, momentum: float | jax.Array) -> Carry:
        if self.statistics_of == "teacher":
            return teacher
        return student if self.statistics_of == "student" else follow(teacher, student, momentum)

    def encoders(self, params: Params, carry: Carry) -> dict[str, EncoderWeights]:
        teacher = carry["teacher"]
        weights = {
            "source": self.source,
            "params": teacher["params"]["encoder"],
            "statistics": teacher["statistics"]["encoder"],
        }
        return super().encoders(params, carry) | {f"{self.source}.teacher": weights}


def pooled_together(
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


def pooled_apart(
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
        return pooled_together(encoder, params, statistics, view, valid, mode)
    features = []
    for i in range(view.shape[1]):
        found, statistics = encoder.pooled(
            params, statistics, view[:, i], valid[:, i], mode.of_part(i)
        )
        features.append(found)
    return jnp.stack(features), statistics


def present_source(sources: Sequence[str], views: Views, crop_set: str) -> str:
    """The one source of these whose views are here; a mixture gives one at a time. ValueError where
    there are none or more.
    """
    present = [source for source in sources if f"{source}/{crop_set}" in views]
    if len(present) != 1:
        raise ValueError(
            f"config.data.entries: a batch of {', '.join(present) or 'no source'}; this objective "
            "takes one source at a time"
        )
    return present[0]


def centre_label(label: Int[Array, "m ..."]) -> Int[Array, " m"]:
    """The label of a sample: that of a window is its centre pixel's."""
    for _ in range(label.ndim - 1):
        label = label[:, label.shape[1] // 2]
    return label


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


def require_shares(config: Any, *fields: str) -> None:
    """ValueError where a setting of an objective is no share, 0 to 1."""
    for field in fields:
        if not 0 <= getattr(config, field) <= 1:
            raise ValueError(
                f"config.objective.{field}: {getattr(config, field)}; expected a share, 0 to 1"
            )


def require_same_end(projector: Sequence[int], predictor: Sequence[int]) -> None:
    """ValueError where a predictor does not predict what the projector gives."""
    if projector[-1] != predictor[-1]:
        raise ValueError(
            f"config.objective.predictor: ends in {predictor[-1]}, the projector in "
            f"{projector[-1]}; expected the same"
        )


def dot(a: Float[Array, "... m d"], b: Float[Array, "d n"]) -> Float[Array, "... m n"]:
    """A matrix product of a loss, in float32 on matrix units too, whose default is fewer bits."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def correlated(
    x: Float[Array, "b d"], y: Float[Array, "b d"]
) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    """(the diagonal of x^T y, the sum of the squares of its other entries).

    The squares of x^T y and the entries of x x^T times those of y y^T have the same sum, trace(x^T
    y y^T x). The way of less work is taken: one product of columns, of which an embedding of 8192
    makes 268 MB, or two products of rows.
    """
    diagonal = (x * y).sum(0)
    squares = dot(x, x.T) * dot(y, y.T) if 2 * len(x) <= x.shape[1] else jnp.square(dot(x.T, y))
    return diagonal, squares.sum() - jnp.square(diagonal).sum()


def follow(teacher: Params, student: Params, momentum: float | jax.Array) -> Params:
    """momentum teacher + (1 - momentum) student, leaf by leaf."""
    return jax.tree.map(lambda old, new: momentum * old + (1 - momentum) * new, teacher, student)


def half_cosine(start: float, end: float, progress: jax.Array) -> jax.Array:
    """From `start` at progress 0 to `end` at 1 along half a cosine, as teachers' momenta rise."""
    return end - (end - start) * (jnp.cos(jnp.pi * progress) + 1) / 2


def nearest_is(
    logits: Float[Array, "b k"], right: Int[Array, " b"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(cross-entropy of the softmax against the right column of each row, share of rows where that
    column is larger than all others).

    Where all are equal, as after a collapse, none is right.
    """
    chosen = jnp.take_along_axis(logits, right[:, None], axis=1)
    accuracy = ((logits >= chosen).sum(1) == 1).mean(dtype=jnp.float32)
    return (jax.nn.logsumexp(logits, axis=1) - chosen[:, 0]).mean(), accuracy


def pushed(queue: Carry, rows: Float[Array, "b ..."]) -> Carry:
    """The queue {"rows": [n, ...], "next": row that is replaced next} with its oldest rows
    replaced; b divides n.
    """
    held = jax.lax.dynamic_update_slice_in_dim(queue["rows"], rows, queue["next"], axis=0)
    return {"rows": held, "next": (queue["next"] + len(rows)) % len(held)}


def agreement(student: Float[Array, "*rows k"], teacher: Float[Array, "*rows k"]) -> Metrics:
    """{"teacher_agreement": mean cosine of what the student gives and what the teacher gives},
    without gradient.
    """
    student, teacher = (
        normalise(jax.lax.stop_gradient(x).astype(jnp.float32)) for x in (student, teacher)
    )
    return {"teacher_agreement": (student * teacher).sum(-1).mean()}


def share_used(chosen: Int[Array, " m"], number: int) -> Float[Array, ""]:
    """How many of `number` prototypes or classes any of m choices has, as a share of how many could
    be.
    """
    used = jnp.zeros(number, bool).at[chosen].set(True)
    return used.sum(dtype=jnp.float32) / min(len(chosen), number)


def watch(features: Float[Array, "b d"]) -> Metrics:
    """How far features are from collapse, without gradient.

    "feature_std": mean standard deviation over the batch of the entries of unit-length features,
    times sqrt(d): 1 where they point everywhere
    alike, 0 where all are the same. "feature_rank": (sum of eigenvalues)^2 / sum of their squares,
        of the covariance: how many directions are in use.
    """
    centred = _centred(features)
    # The smaller of the two Gram matrices has the same eigenvalues.
    gram = dot(centred, centred.T) if len(centred) < centred.shape[1] else dot(centred.T, centred)
    return {
        "feature_std": _spread(centred),
        "feature_rank": jnp.square(jnp.trace(gram)) / jnp.maximum(jnp.square(gram).sum(), 1e-20),
    }


def watch_pair(features: Float[Array, "b d"], z: Float[Array, "b k"]) -> Metrics:
    """The same, and "embedding_std", the spread of what the loss compares: where a head makes the
    same of all samples, no gradient comes to the features, which then stay as different as those of
    a random network.
    """
    return {**watch(features), "embedding_std": _spread(_centred(z))}


def _centred(z: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Rows of unit length, less their mean."""
    z = normalise(jax.lax.stop_gradient(z).astype(jnp.float32))
    return z - z.mean(0)


def _spread(centred: Float[Array, "b d"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.square(centred).mean(0)).mean() * centred.shape[1] ** 0.5
