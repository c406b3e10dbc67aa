"""Trains five steps of a small MAE on a mesh of eight devices or on one device, and returns its
losses, the features that its collapse metrics saw of the last batch, and where its weights were.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from eo_jax import sharding
from eo_jax.augment import views
from eo_jax.experiment import compute_dtype
from eo_jax.models.encoder import make_encoder
from eo_jax.models.stems.spectral_adapter import Config as StemConfig
from eo_jax.models.trunks.vit import Config as TrunkConfig
from eo_jax.objectives import mae
from eo_jax.objectives.features import make_pooled
from eo_jax.optim import optimizers
from eo_jax.sensors import ENMAP
from eo_jax.step import init_state, make_train_step

ROWS, SIZE, STEPS = 8, 16, 5
ENCODER = make_encoder(
    StemConfig(patch=4), TrunkConfig(size="tiny", depth=1), ENMAP, compute_dtype("float32")
)
OBJECTIVE = mae.Config(decoder_width=32, decoder_depth=1, decoder_heads=2).build({"enmap": ENCODER})
NUMBERS = views.normalisation("published", ENMAP, None)
RECIPE = views.make_recipe(
    views.Config(crops={"global": views.CropSet(size=SIZE)}), {"enmap": (ENMAP, NUMBERS)}
)
OPTIMIZER = optimizers.make_optimizer(
    optimizers.Config(lr=1e-3), jax.eval_shape(OBJECTIVE.init, jax.random.key(0))[0], STEPS
)


def host_batch(n: int) -> dict:
    """Batch n on the host; `position` says which row is which."""
    pixels = np.random.default_rng(n).integers(0, 5000, (ROWS, 1, 202, SIZE, SIZE)).astype(np.int16)
    return {"enmap": {"pixels": pixels, "position": np.arange(ROWS)}}


def one_device() -> Mesh:
    """The mesh that needs no communication."""
    return Mesh(
        np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2
    )


@functools.cache
def initial_state() -> dict:
    """Step 0 on the host, compiled once for all meshes."""
    return jax.device_get(jax.jit(lambda: init_state(OBJECTIVE, OPTIMIZER, 0))())


@functools.cache
def train(mesh: Mesh) -> dict:
    """Losses of every step, and the shape of what one device holds of some weights and moments."""
    placement = sharding.state_sharding(sharding.Config(), initial_state(), mesh)
    inputs, everywhere = (
        (placement, sharding.batch_sharding(mesh)),
        NamedSharding(mesh, PartitionSpec()),
    )
    update = make_train_step(OBJECTIVE, OPTIMIZER, RECIPE.train, seed=0, steps=STEPS, accum=1)
    step = jax.jit(
        update, donate_argnums=0, in_shardings=inputs, out_shardings=(placement, everywhere)
    )
    pooled = jax.jit(
        make_pooled(OBJECTIVE, RECIPE.evaluate, {"enmap": ("enmap",)}),
        in_shardings=inputs,
        out_shardings=everywhere,
    )
    state, losses = jax.device_put(initial_state(), placement), []
    for batch in sharding.prefetch((host_batch(n) for n in range(STEPS)), mesh, 1):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))

    def qkv(tree):
        return tree["encoder"]["trunk"]["blocks"]["layers"]["attention"]["qkv"]

    def held(array):
        return list(array.addressable_shards[0].data.shape)

    watched = np.asarray(pooled(state, batch)["pooled/enmap"]).tolist()
    return {
        "losses": losses,
        "watched": watched,
        "qkv": held(qkv(state["params"])),
        "moment": held(qkv(state["optimizer"][1].mu)),
    }


def rows(mesh: Mesh) -> dict:
    """Where `to_global` puts the rows: what the global array holds, and the first row of each
    device, in mesh order.
    """
    placed = sharding.to_global(host_batch(0), mesh)["enmap"]
    pixels, first = placed["pixels"], {}
    for shard in pixels.addressable_shards:
        first[shard.device] = shard.index[0].start or 0
    same = bool(np.array_equal(np.asarray(pixels), host_batch(0)["enmap"]["pixels"]))
    return {
        "same": same,
        "keys": sorted(placed),
        "first_rows": [first[device] for device in mesh.devices.flat],
    }


def mesh_of(name: str) -> Mesh:
    """The mesh "4x2" (data x fsdp) of all devices, or "one"."""
    if name == "one":
        return one_device()
    data, fsdp = map(int, name.split("x"))
    return sharding.make_mesh(sharding.Config(data=data, fsdp=fsdp))


def main(what: str, *meshes: str) -> dict:
    """What `train` or `rows` says of these meshes."""
    functions = {"train": train, "rows": rows}
    return functions[what](*map(mesh_of, meshes))
