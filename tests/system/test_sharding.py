"""A mesh changes only where arrays are; what does not fit a mesh is refused before placement."""

from __future__ import annotations

import types

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from eo_jax import rules, sharding, topology
from eo_jax.data.store.buffers import BufferPool

# --- eight devices

MESHES = ("8x1", "4x2", "1x8")
# Each is compiled. One that cuts both batches and weights is quick.
TRAINED = ("4x2", *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in ("8x1", "1x8")))
WHOLE = [1, 192, 3, 3, 64]
HELD = {"8x1": WHOLE, "4x2": [1, 96, 3, 3, 64], "1x8": [1, 24, 3, 3, 64]}


@pytest.mark.parametrize("mesh", TRAINED)
def test_any_mesh_gives_the_losses_of_one_device_and_fsdp_cuts_weights_and_moments(
    eight_devices, mesh
):
    one, found = (eight_devices("trajectories", "train", name) for name in ("one", mesh))
    assert one["losses"][-1] < one["losses"][0]
    np.testing.assert_allclose(found["losses"], one["losses"], rtol=1e-5)
    # Their values are at most 3.
    np.testing.assert_allclose(found["watched"], one["watched"], rtol=0, atol=3e-4)
    assert one["qkv"] == one["moment"] == WHOLE
    assert found["qkv"] == found["moment"] == HELD[mesh]


@pytest.mark.parametrize("mesh", MESHES)
def test_to_global_keeps_rows_in_mesh_order_and_leaves_positions_on_the_host(eight_devices, mesh):
    assert eight_devices("trajectories", "rows", mesh) == {
        "same": True,
        "keys": ["pixels"],
        "first_rows": list(range(8)),
    }


# --- what does not fit


def mesh_of(data: int, fsdp: int, model: int = 1) -> AbstractMesh:
    return AbstractMesh((data, fsdp, model), sharding.AXES, axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize(
    "config",
    [
        sharding.Config(data=3),
        sharding.Config(fsdp=2),
        sharding.Config(data=2, fsdp=4),
        sharding.Config(data=0),
        sharding.Config(model=2),
    ],
)
def test_a_mesh_that_does_not_multiply_to_the_devices_is_refused(config):
    with pytest.raises(
        ValueError,
        match=r"config\.sharding: data -?\d+ x fsdp \d x model \d is not 1, the "
        r"number of devices",
    ):
        sharding.make_mesh(config)


@pytest.mark.parametrize(
    ("batch_size", "accum", "nearest"), [(12, 1, 8), (4, 1, 8), (24, 2, 16), (31, 1, 24)]
)
def test_a_batch_that_does_not_divide_names_one_that_does(batch_size, accum, nearest):
    with pytest.raises(
        ValueError,
        match=rf"config\.data\.batch_size: {batch_size} does not divide over data x fsdp = 8 "
        rf"devices x {accum} .*: {nearest}$",
    ):
        sharding.check_batch(batch_size, accum, mesh_of(4, 2))
    sharding.check_batch(nearest, accum, mesh_of(4, 2))


def placed(rules: tuple, shapes: dict) -> dict:
    state = {name: jax.ShapeDtypeStruct(shape, "float32") for name, shape in shapes.items()}
    tree = sharding.state_sharding(sharding.Config(rules=rules), state, mesh_of(2, 4))
    return {name: tuple(sharded.spec) for name, sharded in tree.items()}


def test_rules_are_right_aligned_so_that_stacked_weights_share_a_row():
    rules = (("kernel$", ("fsdp", None)), (".*", ()))
    assert placed(rules, {"kernel": (8, 3), "layers_kernel": (5, 8, 3), "bias": (3,)}) == {
        "kernel": ("fsdp", None),
        "layers_kernel": (None, "fsdp", None),
        "bias": (),
    }


def test_a_rule_that_does_not_divide_its_weight_names_both():
    with pytest.raises(
        ValueError,
        match=r"config\.sharding\.rules: kernel has shape \(6, 3\); 6 does not divide over fsdp = "
        r"4",
    ):
        placed((("kernel$", ("fsdp", None)),), {"kernel": (6, 3)})


def test_a_rule_with_more_axes_than_its_weight_names_both():
    with pytest.raises(
        ValueError, match=r"config\.sharding\.rules: kernel has shape \(8,\), its rule names 2 axes"
    ):
        placed((("kernel$", ("fsdp", None)),), {"kernel": (8,)})


def test_a_rule_with_an_axis_that_no_mesh_has_names_those_that_there_are():
    with pytest.raises(
        ValueError,
        match=r"config\.sharding\.rules: the rule of kernel names the axis 'fdsp'; expected one of "
        r"data, fsdp, model, or None",
    ):
        placed((("kernel$", ("fdsp", None)),), {"kernel": (8, 4)})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model", 0, r"model: 0; expected at least 1"),
        ("moments", "zero1", r"moments: 'zero1'; expected one of as_weights, over_data"),
        ("moments_memory", "disk", r"moments_memory: 'disk'; expected one of device, host"),
    ],
)
def test_a_setting_that_does_not_exist_is_refused(field, value, message):
    with pytest.raises(ValueError, match=rf"config\.sharding\.{message}"):
        sharding.Config(**{field: value})


def test_moments_on_the_host_need_a_device_that_reaches_its_memory(monkeypatch):
    alone = types.SimpleNamespace(
        device_kind="abacus", addressable_memories=lambda: [types.SimpleNamespace(kind="beads")]
    )
    monkeypatch.setattr(jax, "devices", lambda: [alone])
    with pytest.raises(
        ValueError,
        match=r"config\.sharding\.moments_memory: 'host', but abacus has no memory of kind "
        r"pinned_host, only beads; use 'device'",
    ):
        sharding.make_mesh(sharding.Config(moments_memory="host"))


@pytest.mark.parametrize("table", [(("bias$", ()),), (("kernel$", ()), ("bias$", ()))])
def test_a_weight_without_a_rule_and_a_rule_without_a_weight_are_errors(table):
    with pytest.raises(
        ValueError,
        match=r"config\.sharding\.rules: (no rule matches 'kernel'|rules that match no "
        r"weight.*bias)",
    ):
        placed(table, {"kernel": (8, 4)})


# --- what is where

BLOCK = {
    "attention": {"qkv": (16, 3, 4, 4), "out": {"kernel": (16, 16)}},
    "mlp": {"fc1": {"kernel": (16, 64)}, "fc2": {"kernel": (64, 16)}},
}


def specs_of(config: sharding.Config, tree: dict, *mesh: int) -> dict:
    shapes = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, "float32"), tree, is_leaf=_is_shape
    )
    placed = sharding.state_sharding(config, shapes, mesh_of(*mesh))
    return {path: at for path, at in rules.paths(placed)}


def _is_shape(value):
    return isinstance(value, tuple)


def test_model_splits_a_block_by_heads_and_by_hidden_channels():
    found = specs_of(sharding.Config(), BLOCK, 1, 2, 2)
    assert {path: tuple(at.spec) for path, at in found.items()} == {
        "attention/qkv": ("fsdp", None, "model", None),
        "attention/out/kernel": (("model", "fsdp"), None),
        "mlp/fc1/kernel": ("fsdp", "model"),
        "mlp/fc2/kernel": (("model", "fsdp"), None),
    }


def test_heads_that_model_does_not_divide_are_named():
    with pytest.raises(
        ValueError,
        match=r"attention/qkv has shape \(16, 3, 3, 4\); 3 does not divide over model = 2",
    ):
        specs_of(sharding.Config(), {"attention": {"qkv": (16, 3, 3, 4)}}, 1, 2, 2)


def test_moments_over_data_are_split_further_and_weights_are_not():
    state = {name: {"fc1": {"kernel": (16, 64)}, "bias": (6,)} for name in ("params", "optimizer")}
    config = sharding.Config(moments="over_data", moments_memory="host")
    found = specs_of(config, state, 4, 2)
    assert {path: tuple(at.spec) for path, at in found.items()} == {
        "params/fc1/kernel": ("fsdp", None),
        "params/bias": (),
        "optimizer/fc1/kernel": (("fsdp", "data"), None),
        "optimizer/bias": (None,),  # 6 does not divide over 4
    }
    on_host = {path for path, at in found.items() if at.memory_kind == "pinned_host"}
    assert on_host == {"optimizer/fc1/kernel", "optimizer/bias"}


# --- slices and nodes


def devices_of(*islands: int, key: str = "slice_index") -> list:
    """Devices with the numbers 0, 1, ...; `islands` says in which slice each is."""
    return [
        types.SimpleNamespace(
            **{"slice_index": None, "process_index": 0, key: island},
            id=number,
            platform="cpu",
            device_kind="cpu",
        )
        for number, island in enumerate(islands)
    ]


@pytest.mark.parametrize("key", ["slice_index", "process_index"])
def test_fsdp_stays_within_a_slice_and_data_goes_across(key):
    grid = topology.lay_out(devices_of(0, 1, 0, 1, 0, 1, 0, 1, key=key), (4, 2, 1))
    assert [[device.id for device in copy.flat] for copy in grid] == [
        [0, 2],
        [4, 6],
        [1, 3],
        [5, 7],
    ]


@pytest.mark.parametrize("shape", [(1, 8, 1), (1, 4, 2)])
def test_a_copy_that_no_slice_holds_takes_slices_in_order(shape):
    grid = topology.lay_out(devices_of(0, 1, 0, 1, 0, 1, 0, 1), shape)
    assert [device.id for device in grid.flat] == [0, 2, 4, 6, 1, 3, 5, 7]


@pytest.mark.parametrize(
    ("islands", "shape", "line"),
    [
        ((0, 0, 0, 0), (2, 2, 1), "data 2 x fsdp 2 x model 1"),
        (
            (0, 0, 1, 1),
            (2, 2, 1),
            "data 2 x fsdp 2 x model 1 on 2 slices or nodes, fsdp within, data across",
        ),
        (
            (0, 0, 1, 1),
            (1, 4, 1),
            "data 1 x fsdp 4 x model 1 on 2 slices or nodes, FSDP ACROSS, weights move between "
            "them",
        ),
    ],
)
def test_the_log_line_says_what_crosses_slices(islands, shape, line):
    grid = topology.lay_out(devices_of(*islands), shape)
    named = types.SimpleNamespace(shape=dict(zip(sharding.AXES, shape, strict=True)), devices=grid)
    assert topology.described(named) == line


# --- prefetch


@pytest.mark.parametrize("depth", [0, 1, 3, 10])
def test_prefetch_places_ahead_and_loses_nothing(depth):
    mesh, taken = sharding.make_mesh(sharding.Config()), []

    def batches():
        for n in range(5):
            taken.append(n)
            yield {"enmap": {"pixels": np.full((2, 3), n)}}

    ahead = []
    for n, batch in enumerate(sharding.prefetch(batches(), mesh, depth)):
        assert batch["enmap"]["pixels"][0, 0] == n
        ahead.append(len(taken) - n - 1)
    assert ahead == [min(depth, 4 - n) for n in range(5)]


def test_what_is_placed_keeps_the_archives_dtype():
    batch = {
        "enmap": {
            "pixels": np.ones((2, 3), np.int16),
            "label": np.ones(2, np.uint8),
            "time": np.ones((2, 1), np.int32),
        }
    }
    placed = next(sharding.prefetch(iter([batch]), sharding.make_mesh(sharding.Config()), 1))[
        "enmap"
    ]
    assert {name: array.dtype.name for name, array in placed.items()} == {
        "pixels": "int16",
        "label": "uint8",
        "time": "int32",
    }


def test_a_batch_that_was_used_leaves_its_memory_to_the_next():
    """Buffers in use: `depth` ahead, the one of the step, and the one being filled."""
    pool, addresses = BufferPool((2, 512), np.int16, 8), set()

    def batches():
        for _ in range(40):
            pixels = pool.take()
            addresses.add(pixels.ctypes.data)
            yield {"enmap": {"pixels": pixels}}

    for batch in sharding.prefetch(batches(), sharding.make_mesh(sharding.Config()), 1):
        batch["enmap"]["pixels"].block_until_ready()
    assert len(addresses) <= 4
