"""The collectives of a compiled, partitioned program, read from XLA's text of it.

Shapes in such a module are those of one device. TPUs run collectives inside fusions: a reduction
whose result is cut at once is a reduce-scatter there, and the parts of an asynchronous one repeat
it.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterable

import numpy as np

from eo_jax.plan.program import Program

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COLLECTIVE = re.compile(rf"^\s+(?:ROOT )?%?\S+ = (.*?) (ragged-)?({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One array that devices exchange.

    Attributes:
        kind: one of `KINDS`.
        dtype: XLA's name, e.g. "bf16".
        shape: of the whole array on one device: the gathered one, or the one before a scatter.
        bytes: its size.
        members: the devices of the first group, numbered as in the module.
        times: how often a run of the program does it: 1 outside loops; None in a loop whose number
            of turns is not known.
        in_loop: whether it is in the body of a loop.
        op_name: the operation of JAX that it belongs to, or "".
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    members: tuple[int, ...]
    times: int | None
    in_loop: bool
    op_name: str

    @property
    def group(self) -> int:
        """The number of devices that exchange with each other."""
        return len(self.members)


@dataclasses.dataclass(frozen=True)
class Row:
    """All collectives that are alike.

    Attributes:
        count: number of such operations in the program.
        times: how often each is done; see `Collective`.
        total: bytes of all of them in a run; a number of turns that is not known counts as one.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    group: int
    times: int | None
    count: int
    total: int


def read(text: str) -> list[Collective]:
    """All collectives of a module, in the order of its text (`Compiled.as_text()`).

    Raises ValueError for device groups in a form that is not known here.
    """
    module = Program(text)
    found, seen = [], set()
    for computation, lines in module.computations.items():
        for line in lines:
            match = _COLLECTIVE.match(line)
            if not match or _repeats(line, seen):
                continue
            members = _members(line, module.devices)
            kind = _kind(match[3], computation)
            for dtype, shape in _arrays(kind, match[3], bool(match[4]), match[1], len(members)):
                found.append(
                    Collective(
                        kind=kind,
                        dtype=dtype,
                        shape=shape,
                        bytes=_bytes(dtype, shape),
                        members=members,
                        times=module.times(computation),
                        in_loop=module.in_loop(computation),
                        op_name=_op_name(line),
                    )
                )
    return found


def table(found: Iterable[Collective]) -> list[Row]:
    """Rows of equal kind, type, shape, group and turns; those that move most bytes come first."""
    counts = collections.Counter(
        (c.kind, c.dtype, c.shape, c.bytes, c.group, c.times) for c in found
    )
    rows = [
        Row(*alike, count=count, total=alike[3] * count * (1 if alike[5] is None else alike[5]))
        for alike, count in counts.items()
    ]
    return sorted(rows, key=lambda row: (-row.total, row.kind, row.shape))


def _repeats(line: str, seen: set[str]) -> bool:
    """Whether this is a further part of an asynchronous collective of a TPU."""
    channel = re.search(r"\bchannel_id=(\d+)", line)
    if "chain_id=" not in line or not channel:
        return False
    first = channel[1] not in seen
    seen.add(channel[1])
    return not first


def _kind(opcode: str, computation: str) -> str:
    return "reduce-scatter" if computation.startswith("all-reduce-scatter") else opcode


def _op_name(line: str) -> str:
    match = re.search(r'op_name="([^"]*)"', line)
    return match[1] if match else ""


# --- arrays


def _arrays(
    kind: str, opcode: str, starts: bool, result: str, group: int
) -> list[tuple[str, tuple[int, ...]]]:
    """(dtype, shape) of the whole arrays, for the type of the operation's result."""
    arrays = [
        (dtype, tuple(int(n.lstrip("<=")) for n in dims.split(",") if n))
        for dtype, dims in _ARRAY.findall(result)
    ]
    if starts and kind == "all-gather":  # operands, then results
        arrays = arrays[len(arrays) // 2 :]
    if starts and kind == "collective-permute":  # operand, result, and two numbers on some devices
        arrays = arrays[1:2]
    if opcode == "reduce-scatter":
        return [(dtype, _times_last(shape, group)) for dtype, shape in arrays]
    if kind == "all-to-all" and len(arrays) > 1:  # one array in equal parts
        dtype, part = arrays[0]
        return [(dtype, (len(arrays), *part))]
    return arrays


def _times_last(shape: tuple[int, ...], group: int) -> tuple[int, ...]:
    """The shape before a scatter along the first axis, which one does not matter to sizes."""
    return (shape[0] * group, *shape[1:]) if shape else (group,)


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    bits = re.search(r"\d+", dtype)
    return math.prod(shape) * (int(bits[0]) if bits else 8) // 8


# --- groups of devices


def _members(line: str, devices: int) -> tuple[int, ...]:
    """The first group of devices of a collective."""
    if pairs := re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", line):
        return _connected(re.findall(r"(\d+),(\d+)", pairs[1]))
    if "replica_groups={}" in line or "replica_groups=" not in line:
        return tuple(range(devices))
    if explicit := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return tuple(map(int, explicit[1].split(",")))
    if listed := re.search(r"replica_groups=(\[\S+?)(?:, |$|\s)", line):
        return tuple(_numbered(listed[1]).reshape(_sizes(listed[1].split("<=")[0]))[0].tolist())
    if mesh := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", line
    ):
        return _of_mesh(*mesh.groups())
    raise ValueError(f"collective with device groups of an unknown form: {line.strip()[:300]}")


def _connected(pairs: Iterable[tuple[str, str]]) -> tuple[int, ...]:
    """The devices that the first one reaches by (sender, receiver)."""
    links = [set(map(int, pair)) for pair in pairs]
    found = set(links[0])
    while more := [link for link in links if found & link and not link <= found]:
        found = found.union(*more)
    return tuple(sorted(found))


def _numbered(text: str) -> np.ndarray:
    """Device numbers of "[2,4]<=[4,2]T(1,0)", flat."""
    source = text.split("<=")[-1]
    sizes, _, order = source.partition("T")
    numbers = np.arange(math.prod(_sizes(sizes))).reshape(_sizes(sizes))
    return (numbers.transpose(_sizes(order)) if order else numbers).reshape(-1)


def _of_mesh(axes: str, ids: str | None, chosen: str) -> tuple[int, ...]:
    """The first group along the chosen axes of a mesh."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    shape = tuple(sizes.values())
    if not ids:
        numbers = np.arange(math.prod(shape))
    elif ids.startswith("["):
        numbers = _numbered(ids)
    else:
        numbers = np.array(_sizes(ids))
    grid = numbers.reshape(shape)
    members = [dict.fromkeys(sizes, 0)]
    for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", chosen):
        count = int(size or sizes[name])
        stride = sizes[name] // (int(before) * count) if size else 1
        members = [{**m, name: m[name] + stride * turn} for m in members for turn in range(count)]
    return tuple(int(grid[tuple(m.values())]) for m in members)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))
