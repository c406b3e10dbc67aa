"""Chips and how they are connected: the numbers that a plan is computed from, with their sources.

TPU: jax/_src/tpu_info.py of JAX 0.12 and the system pages of Cloud TPU; links between chips and the
data-centre network by "How to Scale Your Model" (jax-ml.github.io/scaling-book, chapter "TPUs").
GPU: the vendor's sheets as collected in stas00/ml-engineering (compute/accelerator), networks by
the system descriptions of MLPerf. All are one-way rates of one device in bytes per second, and
dense bfloat16 peaks in FLOP/s.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

GIB = 2**30
_NAME = re.compile(r"([a-z0-9]+):(\d+(?:x\d+)*)")


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        kind: as `jax.Device.device_kind` begins.
        platform: "tpu" or "gpu".
        memory: bytes that a program may use: of a TPU what libtpu 0.0.42 allows, of a GPU nine
            tenths of it, since the runtime, NCCL and fragmentation take the rest.
        peak: FLOP/s.
        bandwidth: of its memory.
        link: of one link to a neighbour on a TPU, of NVLink as a whole on a GPU.
        network: share of a device in the network between slices or nodes.
        host: devices of a host.
        axes: most axes of the torus; 0 where a switch connects all.
        wraps: an axis of a multiple of so many chips is a ring; 0 for none.
        options: for `get_topology_desc`. Without them the two cores of a v4 chip are two devices.
    """

    kind: str
    platform: str
    memory: float
    peak: float
    bandwidth: float
    link: float
    network: float
    host: int
    axes: int = 0
    wraps: int = 0
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)


CHIPS: Mapping[str, Chip] = {
    "v4": Chip(
        *("TPU v4", "tpu", 30.75 * GIB, 275e12, 1.2e12, 45e9, 6.25e9, 4, 3, 4),
        options={"chip_config_name": "megacore"},
    ),
    "v5e": Chip("TPU v5 lite", "tpu", 15.75 * GIB, 197e12, 0.81e12, 45e9, 3.125e9, 4, 2, 16),
    "v5p": Chip("TPU v5", "tpu", 95.74 * GIB, 459e12, 2.765e12, 90e9, 6.25e9, 4, 3, 4),
    "v6e": Chip("TPU v6 lite", "tpu", 31.25 * GIB, 918e12, 1.638e12, 90e9, 12.5e9, 4, 2, 16),
    "a100": Chip("NVIDIA A100", "gpu", 0.9 * 80e9, 312e12, 2.0e12, 300e9, 25e9, 8),
    "h100": Chip("NVIDIA H100", "gpu", 0.9 * 80e9, 989e12, 3.35e12, 450e9, 50e9, 8),
    "h200": Chip("NVIDIA H200", "gpu", 0.9 * 141e9, 989e12, 4.8e12, 450e9, 50e9, 8),
    "b200": Chip("NVIDIA B200", "gpu", 0.9 * 180e9, 2250e12, 8.0e12, 900e9, 50e9, 8),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices that a plan is made for.

    Attributes:
        name: as given, e.g. "v5p:8x8x8".
        chip: of each.
        shape: sides of the torus of a slice; (devices of a node,) for GPUs.
        slices: slices of TPUs, or nodes of GPUs; the network connects them.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int

    @property
    def inside(self) -> int:
        """Devices of a slice or node."""
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """All devices."""
        return self.inside * self.slices

    @property
    def hosts(self) -> int:
        """All hosts."""
        return self.slices * max(1, self.inside // self.chip.host)

    @property
    def unit(self) -> str:
        """What `slices` counts."""
        return "slice" if self.chip.platform == "tpu" else "node"

    def with_slices(self, slices: int) -> Topology:
        """The same with another number of them."""
        return dataclasses.replace(self, slices=slices)


def parse(text: str, slices: int = 1) -> Topology:
    """The topology of "v5e:4x4", "v5p:8x8x8", "h100:8x4" (four nodes with eight GPUs each) or
    "h200:8"; `slices` multiplies it. Raises ValueError.
    """
    match = _NAME.fullmatch(text)
    if not match or match[1] not in CHIPS:
        raise ValueError(
            f"--topology={text}: unknown; expected CHIP:SHAPE with CHIP one of "
            f"{', '.join(CHIPS)}, as in v5e:4x4, v5p:8x8x8 or h100:8x4"
        )
    if slices < 1:
        raise ValueError(f"--slices={slices}: expected at least 1")
    chip, shape = CHIPS[match[1]], tuple(map(int, match[2].split("x")))
    if not all(shape):
        raise ValueError(f"--topology={text}: a side of 0; expected at least 1 each")
    if chip.platform == "gpu":
        return _nodes(text, chip, shape, slices)
    if len(shape) != chip.axes:
        raise ValueError(
            f"--topology={text}: {len(shape)} sides, {match[1]} is a torus of {chip.axes}; "
            f"expected as in {match[1]}:{'x'.join('4' * chip.axes)}"
        )
    return Topology(text, chip, shape, slices)


def _nodes(text: str, chip: Chip, shape: tuple[int, ...], slices: int) -> Topology:
    if len(shape) > 2 or shape[0] > chip.host:
        raise ValueError(
            f"--topology={text}: expected GPUS or GPUSxNODES with at most {chip.host} GPUs per "
            "node, as in h100:8x4"
        )
    nodes = shape[1] if len(shape) == 2 else 1
    return Topology(text, chip, shape[:1], nodes * slices)
