"""The contract of an evaluator, and its context. It never sees a model: it receives `features` and
`preview` as functions of the current weights.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from eo_jax.data.pipeline import Config as DataConfig
from eo_jax.data.pipeline import Pipeline, in_order
from eo_jax.data.pixel_source import open_source
from eo_jax.data.source import Source
from eo_jax.objectives.base import Objective
from eo_jax.objectives.features import features_of
from eo_jax.schema import Batch, Carry, Params, Views
from eo_jax.sensors import Sensor

# Batches that set the BatchNorm statistics of the untrained encoder: with momentum 0.1, 0.9^30 =
# 4 % of the initial values remain.
_STATISTICS_BATCHES = 30

Weights = tuple[Params, Carry]


class Evaluator(Protocol):
    """(params, carry) -> scores. Built once per run from (config, context); `config.every` is the
    number of steps between evaluations, 0 for the end only.
    """

    def check(self) -> None:
        """Raises ValueError for a store or objective that it cannot evaluate; called so that a
        misconfigured evaluator fails before compilation.
        """

    def __call__(self, weights: Weights) -> dict[str, float]:
        """{name: score}; the caller prefixes "eval/<evaluator>/", and "<source>/" where sources are
        named.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """The data and functions of a run, the same at every evaluation.

    Attributes:
        source: name of the source that is evaluated.
        same_encoder: names of the sources that share its encoder, its own among them.
        sensor: its sensor.
        mean, std: its normalisation in digital numbers, [c].
        patch: side of a token in pixels.
        data: the data section of the config.
        objective: gives features and previews.
        train_views: (batch, key) -> Views; evaluate_views: batch -> Views.
        rows: of a batch, which this process reads; None for all.
        place: (batch of these rows) -> global batch, spread over the devices.
        whole: this process's rows of an array -> all rows.
        poll: called between batches; it raises an exception where the run is to stop.
        announce: called with an error of reading; it raises it, unless other processes, which wait
            for this one, first have to learn of it at a poll.
        replicated: sharding of results, whole on every device; None to leave them as they are.
        seed: of the run.
    """

    source: str
    same_encoder: tuple[str, ...]
    sensor: Sensor
    mean: np.ndarray
    std: np.ndarray
    patch: int
    data: DataConfig
    objective: Objective
    train_views: Callable[[Batch, jax.Array], Views]
    evaluate_views: Callable[[Batch], Views]
    rows: Sequence[int] | None
    place: Callable[[Batch], Batch]
    whole: Callable[[np.ndarray], np.ndarray]
    poll: Callable[[], None]
    announce: Callable[[Exception], None]
    replicated: Any
    seed: int

    def check(self, evaluator: str, splits: Sequence[str], label: str = "") -> None:
        """Opens the splits that an evaluator will read. Raises ValueError for a split without
        samples, and for a label that the store, or a scene, lacks.
        """
        for split in splits:
            try:
                source = self.open_split(split)
                labels = source.store.manifest.get("labels", {})
                if label and label not in labels:
                    raise ValueError(
                        f"{source.store.path}: no label {label!r}; there is "
                        f"{', '.join(labels) or 'none'}"
                    )
                if label and source.config.draw == "pixel":
                    # Where one scene has all splits, only its label map knows.
                    source.candidates(label)
            except ValueError as error:
                raise ValueError(f"config.evals.{evaluator}: {error}") from error

    def open_split(self, split: str) -> Source:
        """The source, opened for one split, one date and all of its labels."""
        config = dataclasses.replace(
            self.data.sources[self.source], split=split, dates=1, labels_per_class=0
        )
        return open_source(self.source, config, self.data.crop, self.seed)

    def label_windows(self, split: str, label: str) -> Iterator[np.ndarray]:
        """The label of every window of `batches`, [crop, crop] or one class; reads no pixels."""
        return self.open_split(split).label_windows(label)

    @property
    def preview_names(self) -> set[str]:
        """The names of the arrays in the objective's preview of this source."""

        def preview(key: jax.Array, pixels: jax.Array) -> dict[str, Any]:
            return self.objective.preview(
                *self.objective.init(key),
                self.evaluate_views({self.source: {"pixels": pixels}}),
                key,
            )

        return set(jax.eval_shape(preview, jax.random.key(0), self._one_patch))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the dense features of a batch."""

        def features(key: jax.Array, pixels: jax.Array) -> dict[str, jax.Array]:
            batch = {self.source: {"pixels": pixels}}
            return self._features_of(*self.objective.init(key), batch)

        return jax.eval_shape(features, jax.random.key(0), self._one_patch)["dense"].shape[1:3]

    @property
    def _one_patch(self) -> jax.ShapeDtypeStruct:
        shape = (1, 1, len(self.sensor.bands), self.data.crop, self.data.crop)
        return jax.ShapeDtypeStruct(shape, self.sensor.dtype)

    def batches(
        self, split: str, label: str | None = None, most: int | None = None
    ) -> Iterator[Batch]:
        """Every sample of a split once, in adjacent crops, or every pixel where pixels are drawn;
        rows with `position` -1 are padding. `most` is the largest number of batches.

        With several processes, each reads and holds the pixels of its own rows; `position` and
        `label` are those of all rows.
        """
        batches = in_order(self.open_split(split), self.data.batch_size, label, self.rows)
        for batch in self._read(itertools.islice(batches, most)):
            self.poll()
            yield {
                source: {
                    name: self.whole(array) if name in ("position", "label") else array
                    for name, array in fields.items()
                }
                for source, fields in batch.items()
            }
        self.poll()  # no score of a batch that stood in for another

    def _read(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; after an error that could be announced, the last one until a poll ends it.

        Its features are part of a computation that other processes have begun.
        """
        batch = None
        try:
            for batch in batches:
                yield batch
        except (ValueError, OSError) as error:
            if batch is None:
                raise
            self.announce(error)
        else:
            return
        yield from itertools.repeat(batch)

    def features(self, weights: Weights, batch: Batch) -> dict[str, np.ndarray]:
        """{"pooled": [b, d], "dense": [b, h, w, d]} of the source's encoder, the teacher's where
        that is the default.
        """
        return jax.device_get(self._features(*weights, self.place(_pixels(batch))))

    def preview(self, weights: Weights, batch: Batch, number: int) -> dict[str, np.ndarray]:
        """The objective's preview arrays for fixed mask `number`."""
        key = jax.device_put(jax.random.fold_in(jax.random.key(0), number))
        return jax.device_get(self._preview(*weights, self.place(_pixels(batch)), key))

    def untrained(self) -> Weights:
        """The weights of step 0, with BatchNorm statistics from training data, without which a
        random network would score too low.
        """
        init = jax.jit(self.objective.init, out_shardings=self.replicated)
        params, carry = init(jax.random.key(self.seed))
        for batch in Pipeline(self.data, self.seed, self.rows).batches(0, _STATISTICS_BATCHES):
            self.poll()
            carry = self._updated_carry(params, carry, self.place(batch))
        return params, carry

    @functools.cached_property
    def _features(self) -> Callable[[Params, Carry, Batch], dict[str, jax.Array]]:
        return jax.jit(self._features_of, out_shardings=self.replicated)

    def _features_of(self, params: Params, carry: Carry, batch: Batch) -> dict[str, jax.Array]:
        views = self.evaluate_views(batch)
        return features_of(self.objective, params, carry, views, self.source, self.same_encoder)

    @functools.cached_property
    def _preview(self) -> Callable[..., dict[str, Any]]:
        def preview(params: Params, carry: Carry, batch: Batch, key: jax.Array) -> dict[str, Any]:
            return self.objective.preview(params, carry, self.evaluate_views(batch), key)

        return jax.jit(preview, out_shardings=self.replicated)

    @functools.cached_property
    def _updated_carry(self) -> Callable[[Params, Carry, Batch], Carry]:
        def updated(params: Params, carry: Carry, batch: Batch) -> Carry:
            key = jax.random.key(0)
            views = self.train_views(batch, key)
            _, (carry, _) = self.objective.loss(params, carry, views, key, jnp.zeros(()))
            return carry

        return jax.jit(updated, out_shardings=self.replicated)


def _pixels(batch: Batch) -> Batch:
    """The batch without labels, which are for the evaluator alone."""
    return {source: {"pixels": fields["pixels"]} for source, fields in batch.items()}


def due_evaluators(
    evaluators: Mapping[str, tuple[int, Evaluator]], step: int, steps: int
) -> dict[str, Evaluator]:
    """{name: evaluator} of those that run after `step`: every `every` steps, and all at the end."""
    return {
        name: evaluator
        for name, (every, evaluator) in evaluators.items()
        if step == steps or (every and step % every == 0)
    }
