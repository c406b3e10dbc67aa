"""FLOP and bytes of a compiled program, read from XLA's text of it, with every turn of its loops.

XLA's own analysis (`Compiled.cost_analysis`) counts the body of a loop once. Here the same rules
are applied to each computation, times the turns of the loops that it is in: an operation reads its
operands and writes its result once, a fusion those at its border; where it only cuts a part out of
an operand, or writes one into it, that part counts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping

from eo_jax.plan.program import Program

_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\(")
# The layout may say that the array is in another memory than the device's main one: S(1).
_ARRAY = re.compile(r"\b([a-z]+\d+\w*|pred)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition)=%?([\w.\-]+)")
_FREE = {
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}
# Neither FLOP nor transcendental functions; the rest is elementwise, one FLOP per value.
_MOVES = {
    "all-gather",
    "all-to-all",
    "broadcast",
    "collective-permute",
    "concatenate",
    "copy",
    "custom-call",
    "dynamic-slice",
    "dynamic-update-slice",
    "gather",
    "iota",
    "pad",
    "reshape",
    "reverse",
    "rng-bit-generator",
    "scatter",
    "slice",
    "sort",
    "transpose",
}
_TRANSCENDENTAL = {
    "cbrt",
    "cosine",
    "erf",
    "exponential",
    "exponential-minus-one",
    "log",
    "log-plus-one",
    "logistic",
    "power",
    "rng",
    "rsqrt",
    "sine",
    "sqrt",
    "tan",
    "tanh",
    "atan2",
}
# Custom calls of TPUs that stand for memory or say something about it.
_STANDS_FOR = (
    "AllocateBuffer",
    "AssumeGatherIndicesInBound",
    "AsyncCollectiveDone",
    "AsyncCollectiveStart",
    "ConcatBitcast",
)
_CUTS = ("slice", "dynamic-slice", "gather")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a device does in a run of the program.

    Attributes:
        flops: of products and of elementwise operations.
        bytes: read and written, in whichever memory.
        main_bytes: those of the main memory; a TPU also has a small fast one.
    """

    flops: float = 0.0
    bytes: float = 0.0
    main_bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.main_bytes + other.main_bytes,
        )

    def __mul__(self, times: float) -> Cost:
        return Cost(self.flops * times, self.bytes * times, self.main_bytes * times)


@dataclasses.dataclass(frozen=True)
class Costs:
    """Two counts of a program.

    Attributes:
        once: the body of each loop counted once, as XLA does.
        whole: with all turns; a loop whose number of turns is not known counts as one.
    """

    once: Cost
    whole: Cost


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    line: str
    is_root: bool


def read(text: str) -> Costs:
    """The costs of a module of one device (`Compiled.as_text()`)."""
    program = Program(text)
    counter = _Counter(program)
    once, whole = Cost(), Cost()
    for name in program.computations:
        if name in counter.inside_others:
            continue
        cost = counter.cost(name)
        once += cost * program.calls(name)
        turns = program.times(name)
        whole += cost * (program.calls(name) if turns is None else turns)
    return Costs(once, whole)


def as_xla_counts(found: Costs, xla: Mapping[str, float]) -> Cost:
    """XLA's own counts (`Compiled.cost_analysis()`), with the turns of loops added."""
    bytes_of_xla = xla["bytes accessed"] / max(found.once.bytes, 1.0)
    return Cost(
        xla["flops"] * found.whole.flops / max(found.once.flops, 1.0),
        bytes_of_xla * found.whole.bytes,
        bytes_of_xla * found.whole.main_bytes,
    )


_Body = Mapping[str, _Instruction]
_Size = Callable[[str], float]


class _Counter:
    """Costs of the computations of a program, without those that they call.

    Attributes:
        inside_others: fused computations and functions of reductions, whose cost is that of the
            operation that has them.
    """

    def __init__(self, program: Program):
        self._bodies = {
            name: {found.name: found for line in lines if (found := _parse(line))}
            for name, lines in program.computations.items()
        }
        self.inside_others = {
            called
            for body in self._bodies.values()
            for found in body.values()
            if found.opcode not in ("call", "while", "conditional", "async-start")
            for _, called in _CALLED.findall(found.line)
        }
        self.flops = functools.cache(self._flops)
        self._parameters = functools.cache(self._parameters_of)
        self._readers = functools.cache(self._readers_of)

    def cost(self, name: str) -> Cost:
        """Of one run of a computation."""
        body = self._bodies[name]
        return Cost(
            self.flops(name),
            sum(self._bytes(found, body, _size) for found in body.values()),
            sum(self._bytes(found, body, _main_size) for found in body.values()),
        )

    def _flops(self, name: str) -> float:
        body = self._bodies[name]
        return sum(self._flops_of(found, body) for found in body.values())

    def _flops_of(self, found: _Instruction, body: _Body) -> float:
        opcode = found.opcode.removesuffix("-start").removesuffix("-done")
        if opcode == "fusion":
            return self.flops(_called(found))
        if opcode in _FREE | _MOVES | _TRANSCENDENTAL or opcode in ("call", "while", "conditional"):
            return 0.0
        if opcode in ("dot", "convolution"):
            return _PRODUCTS[opcode](found, *(_shape(body[name]) for name in found.operands[:2]))
        if opcode in ("reduce", "reduce-window", "map"):
            arrays = len(found.operands) // 2
            values = sum(_values(body[name].type) for name in found.operands[:arrays])
            return values - _values(found.type)
        return _values(found.type)

    def _bytes(self, found: _Instruction, body: _Body, size: _Size) -> float:
        if found.opcode in _FREE or found.opcode in ("call", "while", "conditional"):
            return 0.0
        if found.opcode.endswith("-done"):
            return 0.0
        if found.opcode == "fusion":
            return self._fusion_bytes(found, size)
        return _plain_bytes(found, body, size)

    def _fusion_bytes(self, found: _Instruction, size: _Size) -> float:
        """Fusions may have fusions inside."""
        name = _called(found)
        read = sum(
            min(size(inner.type), self._parts(name, inner.name))
            for inner in self._parameters(name).values()
        )
        return self._written(self._bodies[name], size) + read

    def _written(self, fused: _Body, size: _Size) -> float:
        root = next(found for found in fused.values() if found.is_root)
        ends = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
        return sum(self._result(_through_bitcasts(end, fused), fused, size) for end in ends)

    def _result(self, found: _Instruction, body: _Body, size: _Size) -> float:
        """A part that is written into an array, in place, is all that is written."""
        if found.opcode == "dynamic-update-slice":
            return size(body[found.operands[1]].type)
        if found.opcode == "fusion":
            return min(size(found.type), self._written(self._bodies[_called(found)], _size))
        return size(found.type)

    def _parts(self, computation: str, name: str) -> float:
        """Bytes that are cut out of an array of a fused computation; infinite where it is read as
        a whole.
        """
        body, total = self._bodies[computation], 0.0
        for reader in self._readers(computation).get(name, ()):
            into = reader.operands[0] == name
            if reader.opcode == "bitcast":
                total += self._parts(computation, reader.name)
            elif reader.opcode == "fusion":
                inner = self._parameters(_called(reader))
                numbers = [n for n, operand in enumerate(reader.operands) if operand == name]
                total += sum(self._parts(_called(reader), inner[n].name) for n in numbers)
            elif reader.opcode in _CUTS and into:
                total += _size(reader.type)
            elif reader.opcode == "dynamic-update-slice" and into:
                total += _size(body[reader.operands[1]].type)
            else:
                return math.inf
        return total

    def _parameters_of(self, computation: str) -> dict[int, _Instruction]:
        """{number: parameter}"""
        return {
            int(re.search(r" parameter\((\d+)\)", found.line)[1]): found
            for found in self._bodies[computation].values()
            if found.opcode == "parameter"
        }

    def _readers_of(self, computation: str) -> dict[str, list[_Instruction]]:
        """{instruction: what reads it}"""
        found: dict[str, list[_Instruction]] = {}
        for reader in self._bodies[computation].values():
            for name in dict.fromkeys(reader.operands):
                found.setdefault(name, []).append(reader)
        return found


def _through_bitcasts(found: _Instruction, body: _Body) -> _Instruction:
    while found.opcode == "bitcast":
        found = body[found.operands[0]]
    return found


def _plain_bytes(found: _Instruction, body: _Body, size: _Size) -> float:
    sizes = [size(body[name].type) if name in body else 0.0 for name in found.operands]
    result = size(found.type)
    if found.opcode == "copy-start":  # (result, operand, context)
        return 2 * sizes[0]
    if found.opcode == "slice-start":  # ((operand), result, context)
        return 2 * (result - sizes[0])
    if any(f'custom_call_target="{name}"' in found.line for name in _STANDS_FOR):
        return 0.0
    if found.opcode == "slice":
        return 2 * result
    if found.opcode == "dynamic-slice":
        return 2 * result + sum(sizes[1:])
    if found.opcode == "gather":
        return 2 * result + sizes[1]
    if found.opcode == "dynamic-update-slice":
        return 2 * sizes[1] + sum(sizes[2:])
    return sum(sizes) + result


# ------------------------------------------------------------------------------ products and shapes


def _dot(found: _Instruction, left: tuple[int, ...], _: tuple[int, ...]) -> float:
    axes = _numbers(found.line, "lhs_contracting_dims")
    return 2.0 * _values(found.type) * math.prod(left[axis] for axis in axes)


def _convolution(found: _Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """By the pairs of output and kernel positions that meet a value of the image, as XLA counts:
    a TPU writes batched products as convolutions of mostly padded images.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", found.line)
    if not labels:
        return 0.0
    image, kernel, output = labels.groups()
    groups = [
        int(match[1]) if (match := re.search(rf"{name}=(\d+)", found.line)) else 1
        for name in ("feature_group_count", "batch_group_count")
    ]
    shape = _shape(found)
    pairs = 1.0
    for axis, window in enumerate(_windows(found.line, len(image) - 2)):
        label = str(axis)
        pairs *= _meetings(
            left[image.index(label)], right[kernel.index(label)], shape[output.index(label)], window
        )
    rows, features = left[image.index("b")], left[image.index("f")]
    made = shape[output.index("f")]
    return 2.0 * rows * features * made * pairs / (groups[0] * groups[1])


@dataclasses.dataclass(frozen=True)
class _Window:
    stride: int = 1
    low: int = 0
    image_dilation: int = 1
    kernel_dilation: int = 1


def _windows(line: str, axes: int) -> list[_Window]:
    text = re.search(r"window=\{([^}]*)\}", line)
    fields = dict(part.split("=") for part in text[1].split()) if text else {}

    def of(name: str, otherwise: str) -> list[str]:
        return fields[name].split("x") if name in fields else [otherwise] * axes

    return [
        _Window(int(stride), int(pad.split("_")[0]), int(lhs), int(rhs))
        for stride, pad, lhs, rhs in zip(
            of("stride", "1"),
            of("pad", "0_0"),
            of("lhs_dilate", "1"),
            of("rhs_dilate", "1"),
            strict=True,
        )
    ]


@functools.cache
def _meetings(image: int, kernel: int, output: int, window: _Window) -> int:
    """The pairs of an output and a kernel position that meet a value of the image, not padding."""
    count = 0
    for at in range(kernel):
        first = at * window.kernel_dilation - window.low
        for out in range(output):
            place = out * window.stride + first
            inside = 0 <= place < (image - 1) * window.image_dilation + 1
            count += inside and place % window.image_dilation == 0
    return count


_PRODUCTS: Mapping[str, Callable[..., float]] = {"dot": _dot, "convolution": _convolution}


def _parse(line: str) -> _Instruction | None:
    match = _INSTRUCTION.match(line)
    if not match:
        return None
    operands = tuple(re.findall(r"%([\w.\-]+)", _within_brackets(line, match.end())))
    return _Instruction(match[2], match[4], match[3], operands, line, bool(match[1]))


def _within_brackets(line: str, start: int) -> str:
    """The text from `start` to the bracket that closes the one before it."""
    depth = 1
    for match in re.compile(r"[()]").finditer(line, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return line[start : match.start()]
    return line[start:]


def _called(found: _Instruction) -> str:
    return next(name for _, name in _CALLED.findall(found.line))


def _numbers(line: str, name: str) -> list[int]:
    match = re.search(rf"\b{name}=\{{([\d,]*)\}}", line)
    return [int(number) for number in match[1].split(",") if number] if match else []


def _arrays(text: str) -> list[tuple[str, tuple[int, ...], str]]:
    """[(dtype, shape, layout)]"""
    return [
        (dtype, tuple(int(n.lstrip("<=")) for n in dims.split(",") if n), layout)
        for dtype, dims, layout in _ARRAY.findall(text)
    ]


def _shape(found: _Instruction) -> tuple[int, ...]:
    return _arrays(found.type)[0][1]


def _values(text: str) -> float:
    return sum(math.prod(shape) for _, shape, _ in _arrays(text))


def _size(text: str) -> float:
    """Bytes of a type."""
    return sum(math.prod(shape) * _bits(dtype) / 8 for dtype, shape, _ in _arrays(text))


def _main_size(text: str) -> float:
    """Bytes of the arrays of a type that are in the main memory."""
    return sum(
        math.prod(shape) * _bits(dtype) / 8
        for dtype, shape, layout in _arrays(text)
        if "S(" not in layout
    )


def _bits(dtype: str) -> int:
    match = re.search(r"\d+", dtype)
    return int(match[0]) if match else 8
