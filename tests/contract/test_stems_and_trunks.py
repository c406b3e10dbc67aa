"""Every file in models/stems and models/trunks satisfies the contract in `eo_jax.models.base`."""

from __future__ import annotations

import inspect

import jax.numpy as jnp
import pytest
from flax import nnx

from eo_jax.config import modules
from eo_jax.models import base
from eo_jax.sensors import ENMAP

# {kind: (contract of the config, of the module that it builds)}
STEMS = {
    "tokens": (base.TokenStem, base.TokenStemModule),
    "image": (base.ImageStem, base.ImageStemModule),
}
TRUNKS = {
    "tokens": (base.TokenTrunk, base.TokenTrunkModule),
    "image": (base.ImageTrunk, base.ImageTrunkModule),
}
CHANNELS = {"mit": 32}  # what the smallest MiT takes; the others take any number


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def assert_satisfies(protocol: type, instance) -> None:
    """Its attributes and methods, with the same parameters: `isinstance` does not compare those."""
    assert isinstance(instance, protocol)
    for name, method in inspect.getmembers(protocol, inspect.isfunction):
        if name == "__call__" or not name.startswith("_"):
            assert parameters(getattr(type(instance), name)) == parameters(method), name


@pytest.mark.parametrize("name", modules("models/stems"))
def test_every_stem_satisfies_the_contract_of_its_kind(name):
    config = modules("models/stems")[name].Config()
    of_config, of_module = STEMS[config.output_kind]
    assert_satisfies(of_config, config)
    width = (192,) if config.output_kind == "tokens" else ()
    module = nnx.eval_shape(lambda: config.build(ENMAP, *width, jnp.dtype("float32"), nnx.Rngs(0)))
    assert_satisfies(of_module, module)


@pytest.mark.parametrize("name", modules("models/trunks"))
def test_every_trunk_satisfies_the_contract_of_its_kind(name):
    config = modules("models/trunks")[name].Config()
    of_config, of_module = TRUNKS[config.input_kind]
    assert_satisfies(of_config, config)
    channels = (CHANNELS.get(name, 64),) if config.input_kind == "image" else ()
    module = nnx.eval_shape(lambda: config.build(*channels, jnp.dtype("float32"), nnx.Rngs(0)))
    assert_satisfies(of_module, module)


def test_a_trunk_is_not_a_stem_nor_a_stem_a_trunk():
    for stem in modules("models/stems").values():
        assert not isinstance(stem.Config(), base.Trunk)
    for trunk in modules("models/trunks").values():
        assert not isinstance(trunk.Config(), base.Stem)
