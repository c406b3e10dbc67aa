"""One trunk behind the stems of several sensors: any objective of one encoder, trained on sources
that come one at a time in a mixture.

The objective is built once for each stem. What those have in common is kept once: the trunk, heads,
teachers, queues. What belongs to one sensor is kept for each: its stem with the running statistics
in it, and the layer of a decoder that makes its bands. A step joins the two for the source that its
batch holds, so that no objective knows of it. OFA-Net (Xiong et al. 2024, arXiv 2401.07527) and
FoMo-Net train one trunk so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util

from eo_jax.models.encoder import Encoder
from eo_jax.objectives.base import EncoderWeights, Objective
from eo_jax.schema import Carry, Metrics, Params, Views

_OWN = re.compile(
    r"(^|/)(encoder/stem|decoder/predict)(/|$)"
)  # of a sensor, wherever it stands in Params or Carry


def build(config: Any, encoders: Mapping[str, Encoder]) -> SharedTrunk:
    """The objective of this config for {source: encoder}, one inner objective for each stem.
    ValueError where there is nothing to share.
    """
    families: dict[str, dict[str, Encoder]] = {}
    for source, encoder in encoders.items():
        families.setdefault(encoder.weight_owner, {})[source] = encoder
    if len(families) < 2:
        raise ValueError(
            f"config.model.trunk_sharing: 'all' with one stem, that of {', '.join(families)}; give "
            "the "
            "sources stems of their own, or use 'none'"
        )
    return SharedTrunk(
        {owner: config.build(family) for owner, family in families.items()},
        {s: e.weight_owner for s, e in encoders.items()},
    )


class SharedTrunk:
    """The objective; see the module docstring. Params and Carry are {"shared": ..., "own": {source:
    ...}}.

    Args:
        by_stem: {source that has the stem: its objective}.
        owners: {source: the source whose stem it uses}.
    """

    def __init__(self, by_stem: Mapping[str, Objective], owners: Mapping[str, str]):
        self._by_stem, self._owners = dict(by_stem), dict(owners)
        first = next(iter(self._by_stem.values()))
        self.crop_sets, self.couples_batch = first.crop_sets, first.couples_batch
        self.metrics = first.metrics
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
        made = {
            stem: objective.init(jax.random.fold_in(key, i))
            for i, (stem, objective) in enumerate(self._by_stem.items())
        }
        return self._joined({s: params for s, (params, _) in made.items()}), self._joined(
            {s: carry for s, (_, carry) in made.items()}
        )

    def loss(
        self, params: Params, carry: Carry, views: Views, key: jax.Array, progress: jax.Array
    ) -> tuple[jax.Array, tuple[Carry, Metrics]]:
        stem = self._stem_of(views)
        loss, (moved, metrics) = self._by_stem[stem].loss(
            _of(params, stem), _of(carry, stem), views, key, progress
        )
        shared, own = _split(moved)
        return loss, ({"shared": shared, "own": {**carry["own"], stem: own}}, metrics)

    def ema_update(self, params: Params, carry: Carry, progress: jax.Array) -> Carry:
        updated = {
            stem: objective.ema_update(_of(params, stem), _of(carry, stem), progress)
            for stem, objective in self._by_stem.items()
        }
        return self._joined(updated)

    def encoders(self, params: Params, carry: Carry) -> dict[str, EncoderWeights]:
        found: dict[str, EncoderWeights] = {}
        for stem, objective in self._by_stem.items():
            found |= objective.encoders(_of(params, stem), _of(carry, stem))
        return found

    def features(
        self, weights: EncoderWeights, view: jax.Array, valid: jax.Array
    ) -> dict[str, jax.Array]:
        return self._by_stem[self._owners[weights["source"]]].features(weights, view, valid)

    def preview(self, params: Params, carry: Carry, views: Views, key: jax.Array) -> dict[str, Any]:
        stem = self._stem_of(views)
        return self._by_stem[stem].preview(_of(params, stem), _of(carry, stem), views, key)

    def _stem_of(self, views: Views) -> str:
        stems = {self._owners[name.partition("/")[0]] for name in views}
        if len(stems) != 1:
            raise ValueError(
                f"config.data.mixture: a batch for the stems of {', '.join(sorted(stems))}; with "
                "one trunk, a component has one source"
            )
        return stems.pop()

    def _joined(self, trees: Mapping[str, dict]) -> dict:
        """What is shared as the first stem has it, and what each stem has for itself."""
        split = {stem: _split(tree) for stem, tree in trees.items()}
        shared, _ = next(iter(split.values()))
        return {"shared": shared, "own": {stem: own for stem, (_, own) in split.items()}}

    def _check_shapes(self) -> None:
        """What is shared has to have one shape, whatever the sensor."""
        trees = {
            stem: jax.eval_shape(lambda init=objective.init: init(jax.random.key(0)))
            for stem, objective in self._by_stem.items()
        }
        for part in (0, 1):
            (first, expected), *others = {
                stem: _shapes(_split(tree[part])[0]) for stem, tree in trees.items()
            }.items()
            for stem, found in others:
                apart = sorted(
                    name
                    for name in expected.keys() | found.keys()
                    if expected.get(name) != found.get(name)
                )
                if apart:
                    where = (
                        f"{apart[0]} is {found.get(apart[0])} behind the stem of {stem}, "
                        f"{expected.get(apart[0])} behind that of {first}"
                    )
                    raise ValueError(
                        f"config.model.trunk_sharing: 'all', but {where}; give them stems that end "
                        "alike, "
                        "or use 'none'"
                    )


def _flat(tree: dict) -> dict[tuple, Any]:
    return traverse_util.flatten_dict(tree, keep_empty_nodes=True)


def _name(path: tuple) -> str:
    return "/".join(map(str, path))


def _shapes(tree: dict) -> dict[str, tuple[int, ...]]:
    return {
        _name(path): leaf.shape for path, leaf in _flat(tree).items() if hasattr(leaf, "shape")
    }  # an empty dict has none


def _split(tree: dict) -> tuple[dict, dict]:
    """(what sensors share, what is of one sensor) of the Params or Carry of an inner objective."""
    shared, own = {}, {}
    for path, leaf in _flat(tree).items():
        (own if _OWN.search(_name(path)) else shared)[path] = leaf
    return traverse_util.unflatten_dict(shared), traverse_util.unflatten_dict(own)


def _of(tree: dict, stem: str) -> dict:
    """The Params or Carry of the inner objective of a stem."""
    return traverse_util.unflatten_dict({**_flat(tree["shared"]), **_flat(tree["own"][stem])})
