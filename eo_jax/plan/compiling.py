"""The train step of a config, compiled for devices that are not here."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies as jax_topologies
from jax.sharding import Mesh

from eo_jax import sharding
from eo_jax.augment.views import Normalisation, Recipe
from eo_jax.data.store.reader import open_store
from eo_jax.experiment import Experiment, make_experiment, make_recipe
from eo_jax.plan import collectives, costs, memory
from eo_jax.plan.topologies import Topology
from eo_jax.schema import Batch
from eo_jax.step import TrainSession

# What libtpu says of a program that is too large: of all of it, or of its temporaries alone.
_USED = re.compile(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm")
_TEMPORARIES = re.compile(r"HLO temporaries \(([\d.]+)([KMGT])\) exceeds available HBM")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Without LLVM's passes: the program is partitioned and fused the same, and never runs.
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
# What a CPU's program reads and writes, of which a chip's does less: 1.2 to 5 times libtpu's in the
# three programs that were compared (docs/scale.md).
_OF_CPU_BYTES = 0.5
# Part of the memory that an estimate leaves: the model of activations had up to a fifth less than
# libtpu in the three programs that were compared.
_MARGIN = 0.2


class NoCompiler(ValueError):
    """There is no compiler for these devices here."""


@dataclasses.dataclass(frozen=True)
class Target:
    """What a step is compiled for.

    Attributes:
        devices: of one slice of a TPU, or of all GPUs.
        exact: whether this is the chip's own compiler; else CPU devices take the place of its
            devices.
    """

    topology: Topology
    devices: Sequence[Any]
    exact: bool

    @property
    def copies(self) -> int:
        """How often the devices of the topology have the program that is compiled."""
        return self.topology.slices if self.exact else 1

    @property
    def limit(self) -> float:
        """Bytes that a device has for a program."""
        return self.topology.chip.memory * (1.0 if self.exact else 1.0 - _MARGIN)

    @property
    def options(self) -> dict[str, Any]:
        """For the compiler."""
        return {} if self.exact else _QUICK


def tpu_target(pod: Topology) -> Target:
    """A slice of TPUs by libtpu. Raises NoCompiler where that is missing."""
    for name, value in (("TPU_SKIP_MDS_QUERY", "1"), ("TPU_WORKER_HOSTNAMES", "localhost")):
        os.environ.setdefault(name, value)  # else it asks a server of Google Cloud
    try:
        found = jax_topologies.get_topology_desc(pod.name, platform="tpu", **pod.chip.options)
    except (RuntimeError, ValueError, NotImplementedError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise NoCompiler(
            f"no TPU compiler here ({first}); for exact numbers: pip install libtpu (JAX "
            f"{jax.__version__} wants the version that jax[tpu] names)"
        ) from error
    return Target(pod, found.devices, exact=True)


def cpu_target(pod: Topology) -> Target:
    """As many CPU devices as the topology has of its own. To be called before JAX has devices."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", pod.devices)
    devices = jax.devices()
    if len(devices) != pod.devices:
        raise ValueError(
            f"{len(devices)} CPU devices, {pod.devices} wanted: JAX had devices before; start "
            "the plan in a process of its own"
        )
    return Target(pod, devices, exact=False)


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled step.

    Attributes:
        memory: of one device.
        cost: FLOP and bytes of one device, with all turns of loops.
        counted: the same as counted here, for comparison with XLA's.
        xla: XLA's own counts, each loop's body once.
        collectives: what devices exchange.
        seconds: of compilation.
    """

    memory: memory.Memory
    cost: costs.Cost
    counted: costs.Costs
    xla: Mapping[str, float]
    collectives: Sequence[collectives.Collective]
    seconds: float


class TooLarge(Exception):
    """The compiler says that a step does not fit.

    Attributes:
        bytes: that it would take.
    """

    def __init__(self, size: float):
        super().__init__(f"{size:.0f} bytes")
        self.bytes = size


class StepPlan:
    """The train step of a config on a target, as shapes.

    Attributes:
        experiment: the parts of the config.
        component: the mixture component that is planned, the one with the largest batch.
        batch: its shapes.
        dtype: that the networks compute in.
    """

    def __init__(self, config: Mapping[str, Any], target: Target):
        self.target, self.experiment = target, make_experiment(config)
        self.dtype = config["model"]["dtype"]
        self.recipe = _recipe(self.experiment)
        self.mesh = sharding.mesh_of(self.experiment.sharding, target.devices)
        sharding.check_batch(
            self.experiment.data.batch_size, self.experiment.optim.accum, self.mesh
        )
        batches = _batches(self.experiment, self.mesh)
        self.component = max(batches, key=lambda name: memory.whole_bytes(batches[name]))
        self.batch = batches[self.component]
        self.session = TrainSession(self.experiment, self.recipe, self.mesh)

    @property
    def rows(self) -> int:
        """The parts that a batch is split into."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @property
    def smallest(self) -> int:
        """The smallest batch."""
        return self.rows * self.experiment.optim.accum

    def compile(self) -> Program:
        """Raises TooLarge."""
        start = time.perf_counter()
        lowered = self.session.step.lower(self.session.shapes, self.batch)
        try:
            compiled = lowered.compile(self.target.options)
        except jax.errors.JaxRuntimeError as error:
            arguments = memory.of_arguments(self.session.shapes, self.batch).total
            raise too_large(error, arguments) from error
        seconds = time.perf_counter() - start
        counted, xla = costs.read(text := compiled.as_text()), compiled.cost_analysis()
        cost, exchanged = costs.as_xla_counts(counted, xla), collectives.read(text)
        if not self.target.exact:
            cost = dataclasses.replace(cost, main_bytes=_OF_CPU_BYTES * cost.main_bytes)
            exchanged = _as_on_chip(exchanged, self.dtype)
        return Program(
            memory=memory.of_step(self.session.shapes, self.batch, compiled),
            cost=cost,
            counted=counted,
            xla={"flops": xla["flops"], "bytes": xla["bytes accessed"]},
            collectives=exchanged,
            seconds=seconds,
        )


def _as_on_chip(
    found: Sequence[collectives.Collective], dtype: str
) -> list[collectives.Collective]:
    """XLA computes in float32 on CPUs, and gathers weights as it computes."""
    return [
        dataclasses.replace(one, dtype="bf16", bytes=one.bytes // 2)
        if (one.kind, one.dtype, dtype) == ("all-gather", "f32", "bfloat16")
        else one
        for one in found
    ]


def too_large(error: Exception, arguments: float) -> Exception:
    """TooLarge with the bytes that an error of the compiler tells, or else the error itself.

    Args:
        arguments: bytes of the state and the batch on a device.
    """
    whole, temporaries = _USED.search(str(error)), _TEMPORARIES.search(str(error))
    if whole:
        return TooLarge(float(whole[1]) * _UNITS[whole[2]])
    if temporaries:
        return TooLarge(float(temporaries[1]) * _UNITS[temporaries[2]] + arguments)
    return error


def _as_on_chip(
    found: Sequence[collectives.Collective], dtype: str
) -> list[collectives.Collective]:
    """XLA computes in float32 on CPUs, and gathers weights as it computes."""
    return [
        dataclasses.replace(one, dtype="bf16", bytes=one.bytes // 2)
        if (one.kind, one.dtype, dtype) == ("all-gather", "f32", "bfloat16")
        else one
        for one in found
    ]


def _too_large(error: Exception) -> Exception:
    found = _USED.search(str(error))
    return TooLarge(float(found[1]) * _UNITS[found[2]]) if found else error


# ------------------------------------------------------------------------------- configs and shapes


def for_chip(config: Mapping[str, Any], platform: str) -> dict[str, Any]:
    """The config with what "auto" means on a platform that is not this one."""
    config = copy.deepcopy(dict(config))
    if config["model"]["dtype"] == "auto":
        config["model"]["dtype"] = "bfloat16"
    if config["augment"]["sampling"] == "auto":
        config["augment"]["sampling"] = "products" if platform == "tpu" else "gather"
    return config


def with_settings(config: Mapping[str, Any], batch: int, remat: str) -> dict[str, Any]:
    """The config with another batch and, where it is another, recomputation of trunk and decoder
    alike.
    """
    config = copy.deepcopy(dict(config))
    config["data"]["batch_size"] = batch
    if remat != remat_of(config):
        for section, key in _remat_keys(config):
            section[key] = remat
    return config


def overrides(config: Mapping[str, Any], batch: int, remat: str) -> list[str]:
    """Arguments of `python -m eo_jax.train` that make these settings of a config."""
    changed = []
    if batch != config["data"]["batch_size"]:
        changed.append(f"--config.data.batch_size={batch}")
    if remat != remat_of(config):
        names = {"remat": "model.trunk.remat", "decoder_remat": "objective.decoder_remat"}
        changed += [f"--config.{names[key]}={remat}" for _, key in _remat_keys(config)]
    return changed


def _remat_keys(config: Mapping[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """[(section, key)] of what says what is recomputed."""
    places = ((config["model"]["trunk"], "remat"), (config["objective"], "decoder_remat"))
    return [(section, key) for section, key in places if key in section]


def remat_of(config: Mapping[str, Any]) -> str:
    """What the trunk recomputes; "" where it has no such setting."""
    return config["model"]["trunk"].get("remat", "")


def _recipe(experiment: Experiment) -> Recipe:
    """With statistics of 0 and 1, which change no shape."""
    numbers = {
        name: Normalisation(
            np.zeros(len(encoder.sensor.bands)), np.ones(len(encoder.sensor.bands)), "none"
        )
        for name, encoder in experiment.encoders.items()
    }
    return make_recipe(experiment, numbers)


def _batches(experiment: Experiment, mesh: Mesh) -> dict[str, Batch]:
    """{component: its global batch, as shapes}; stores are opened for labels alone."""
    data = experiment.data
    together = {name: about.sources for name, about in data.mixture.items()}
    placed = sharding.batch_sharding(mesh)
    return {
        component: {
            name: {
                field: jax.ShapeDtypeStruct(shape, dtype, sharding=placed)
                for field, (shape, dtype) in _fields(experiment, name).items()
            }
            for name in sources
        }
        for component, sources in (together or {"all": tuple(data.sources)}).items()
    }


def _fields(experiment: Experiment, name: str) -> dict[str, tuple[tuple[int, ...], Any]]:
    """{field: (shape, dtype)} of a source."""
    data, sensor = experiment.data, experiment.encoders[name].sensor
    source, rows = data.sources[name], (data.batch_size, data.sources[name].dates)
    fields = {
        "pixels": ((*rows, len(sensor.bands), data.crop, data.crop), np.dtype(sensor.dtype)),
        "time": (rows, np.dtype(np.int32)),
        "lonlat": ((rows[0], 2), np.dtype(np.float32)),
    }
    if source.label:
        about = open_store(source.store).manifest["labels"][source.label]
        shape = (data.crop, data.crop) if about["shape"] == "map" else tuple(about["shape"])
        fields["label"] = ((*rows, *shape), np.dtype(about["dtype"]))
    return fields
