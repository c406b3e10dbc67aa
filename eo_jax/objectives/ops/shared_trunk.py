"""One trunk behind the stems of several sensors: any objective of one encoder, trained on sources
that alternate in a mixture.

The objective is built once per stem. Trunk, heads, teachers and queues are kept once; what an
objective declares as `per_sensor` is kept per stem: the stem with its running statistics, and the
layer of a decoder that predicts its bands. A step joins the two for the source of its batch, so no
objective knows about it. OFA-Net (Xiong et al. 2024, arXiv 2401.07527) and FoMo-Net train one trunk
in this way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util

from eo_jax.models.encoder import Encoder
from eo_jax.objectives.base import EncoderWeights, HeadWeights
from eo_jax.objectives.ops.single_encoder import SingleEncoder
from eo_jax.rules import PER_SENSOR
from eo_jax.schema import Carry, Metrics, Params, Views

_SHARED = "shared"


def build(config: Any, encoders: Mapping[str, Encoder]) -> SharedTrunk:
    """The objective of this config for {source: encoder}, one inner objective per stem. ValueError
    where there is nothing to share.
    """
    by_stem: dict[str, dict[str, Encoder]] = {}
    for source, encoder in encoders.items():
        by_stem.setdefault(encoder.weight_owner, {})[source] = encoder
    if len(by_stem) < 2:
        raise ValueError(
            f"config.model.trunk_sharing: 'all' with one stem, that of {', '.join(by_stem)}; give "
            "the sources stems of their own, or use 'none'"
        )
    return SharedTrunk(
        {owner: config.build(members) for owner, members in by_stem.items()},
        {source: encoder.weight_owner for source, encoder in encoders.items()},
    )


class SharedTrunk:
    """The objective; see the module docstring. Params and Carry are {"shared": ..., "own": {stem:
    ...}}.

    Args:
        by_stem: {source that has the stem: its objective}.
        owners: {source: the source whose stem it uses}.
    """

    def __init__(self, by_stem: Mapping[str, SingleEncoder], owners: Mapping[str, str]):
        self._by_stem, self._owners = dict(by_stem), dict(owners)
        first = next(iter(self._by_stem.values()))
        self.crop_sets, self.couples_batch = first.crop_sets, first.couples_batch
        self.metrics, self._per_sensor = first.metrics, first.per_sensor
        self.labelled = {
            source: classes
            for objective in self._by_stem.values()
            for source, classes in objective.labelled.items()
        }
        self._check_shapes()

    def check_batch(self, rows: int) -> None:
        for objective in self._by_stem.values():
            objective.check_batch(rows)

    def init(self, key: jax.Array) -> tuple[Params, Carry]:
        inner = {
            stem: objective.init(jax.random.fold_in(key, i))
            for i, (stem, objective) in enumerate(self._by_stem.items())
        }
        return self._joined({stem: params for stem, (params, _) in inner.items()}), self._joined(
            {stem: carry for stem, (_, carry) in inner.items()}
        )

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        stem = self._stem_of(views)
        loss, (new_carry, metrics) = self._by_stem[stem].loss(
            _inner(params, stem), _inner(carry, stem), views, key, progress
        )
        shared, own = self._split(new_carry)
        carry = {_SHARED: shared, PER_SENSOR: {**carry[PER_SENSOR], stem: own}}
        return loss, (carry, metrics)

    def ema_update(self, params: Params, carry: Carry, progress: jax.Array) -> Carry:
        updated = {
            stem: objective.ema_update(_inner(params, stem), _inner(carry, stem), progress)
            for stem, objective in self._by_stem.items()
        }
        return self._joined(updated)

    def encoders(self, params: Params, carry: Carry) -> dict[str, EncoderWeights]:
        found: dict[str, EncoderWeights] = {}
        for stem, objective in self._by_stem.items():
            found |= objective.encoders(_inner(params, stem), _inner(carry, stem))
        return found

    def heads(self, params: Params, carry: Carry) -> dict[str, HeadWeights]:
        found: dict[str, HeadWeights] = {}
        for stem, objective in self._by_stem.items():
            found |= objective.heads(_inner(params, stem), _inner(carry, stem))
        return found

    def features(
        self, weights: EncoderWeights, view: jax.Array, valid: jax.Array
    ) -> dict[str, jax.Array]:
        return self._by_stem[self._owners[weights["source"]]].features(weights, view, valid)

    def preview(self, params: Params, carry: Carry, views: Views, key: jax.Array) -> dict[str, Any]:
        stem = self._stem_of(views)
        return self._by_stem[stem].preview(_inner(params, stem), _inner(carry, stem), views, key)

    def _stem_of(self, views: Views) -> str:
        stems = {self._owners[name.partition("/")[0]] for name in views}
        if len(stems) != 1:
            raise ValueError(
                f"config.data.mixture: a batch for the stems of {', '.join(sorted(stems))}; with "
                "one trunk, a component has one source"
            )
        return stems.pop()

    def _split(self, tree: dict) -> tuple[dict, dict]:
        """(what sensors share, what belongs to one) of the Params or Carry of an inner
        objective.
        """
        shared, own = {}, {}
        for path, leaf in _flat(tree).items():
            name = f"/{_name(path)}/"
            is_own = any(f"/{part}/" in name for part in self._per_sensor)
            (own if is_own else shared)[path] = leaf
        return traverse_util.unflatten_dict(shared), traverse_util.unflatten_dict(own)

    def _joined(self, trees: Mapping[str, dict]) -> dict:
        """The shared leaves of the first of {stem: tree}, and the own leaves of each."""
        split = {stem: self._split(tree) for stem, tree in trees.items()}
        shared, _ = next(iter(split.values()))
        return {_SHARED: shared, PER_SENSOR: {stem: own for stem, (_, own) in split.items()}}

    def _check_shapes(self) -> None:
        """ValueError where a shared leaf has another shape for another sensor."""
        trees = {
            stem: jax.eval_shape(lambda init=objective.init: init(jax.random.key(0)))
            for stem, objective in self._by_stem.items()
        }
        for part in (0, 1):
            (first, expected), *others = {
                stem: _shapes(self._split(tree[part])[0]) for stem, tree in trees.items()
            }.items()
            for stem, found in others:
                _require_same_shapes(first, expected, stem, found)


def _require_same_shapes(first: str, expected: dict, stem: str, found: dict) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"config.model.trunk_sharing: 'all', but {name} is {found.get(name)} behind the "
                f"stem of {stem}, {expected.get(name)} behind that of {first}; give them stems "
                "with the same output, or use 'none'"
            )


def _flat(tree: dict) -> dict[tuple, Any]:
    return traverse_util.flatten_dict(tree, keep_empty_nodes=True)


def _name(path: tuple) -> str:
    return "/".join(map(str, path))


def _shapes(tree: dict) -> dict[str, tuple[int, ...]]:
    return {
        _name(path): leaf.shape for path, leaf in _flat(tree).items() if hasattr(leaf, "shape")
    }  # an empty dict has none


def _inner(tree: dict, stem: str) -> dict:
    """The Params or Carry of the inner objective of a stem."""
    return traverse_util.unflatten_dict({**_flat(tree[_SHARED]), **_flat(tree[PER_SENSOR][stem])})
