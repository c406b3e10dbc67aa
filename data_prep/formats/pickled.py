"""Reads plain values out of a pickle without unpickling it: nothing is imported, called or built.

`pickletools.genops` splits the bytes into opcodes and their literal arguments, and runs none. The
values of opcodes for numbers, text, lists, tuples and dicts are put together here; whatever names a
class or a function becomes an `Opaque` with its arguments, which nobody calls. Opcodes that are not
listed here are an error.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

MAX_BYTES = 1_000_000
# Opcodes whose argument is the value.
_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    )
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = ("PROTO", "FRAME", "STOP")
_NUMBER = re.compile(r"[<>|]?[iu][1248]|[<>]?f[48]|b1")
_MARK = object()


class Opaque:
    """What a pickle would import, call or build: `name` of a class or function, `arguments` and
    `state`. Nothing looks at a name but to compare it.
    """

    def __init__(self, name: str, arguments: Any = None):
        self.name, self.arguments, self.state = name, arguments, None


def read_dict(data: bytes) -> dict[str, Any]:
    """The dict of text keys that a pickle holds; values of other kinds are `Opaque`.

    Raises ValueError for anything else, for opcodes that are not of plain values, and for more than
    MAX_BYTES.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data):,} bytes, at most {MAX_BYTES:,}")
    try:
        found = _run(data)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a pickle of plain values ({error!r})") from error
    if not isinstance(found, dict):
        raise ValueError("not a dict")
    return found


def integers(value: Any) -> np.ndarray:
    """A whole number [] or several [n] of `read_dict`: int, list of them, or numpy's scalar or
    array. Raises ValueError for anything else.
    """
    if isinstance(value, Opaque):
        value = _numpy(value)
    elif isinstance(value, (list, tuple)):
        value = [_numpy(one) if isinstance(one, Opaque) else one for one in value]
    plain = value if isinstance(value, (list, tuple)) else np.ravel(value).tolist()
    if not all(isinstance(one, (int, float, np.generic)) and one == int(one) for one in plain):
        raise ValueError("not whole numbers")
    return np.array(value).astype(np.int64)


# ------------------------------------------------------------------ opcodes


def _run(data: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(data):
        _step(opcode.name, argument, stack, memo)
    if len(stack) != 1:
        raise ValueError("not one value")
    return stack[0]


def _step(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    if name in _IGNORED:
        return
    if name in _LITERALS:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _TUPLES:
        count = _TUPLES[name]
        stack.append(tuple(_pop(stack) for _ in range(count))[::-1])
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name == "MARK":
        stack.append(_MARK)
    elif name in _CONTAINERS:
        _CONTAINERS[name](stack)
    elif name == "GLOBAL":
        stack.append(Opaque(argument))
    else:
        raise ValueError(f"has the opcode {name}, which is not of plain values")


def _pop(stack: list[Any]) -> Any:
    if stack[-1] is _MARK:
        raise ValueError("not a pickle: a value is missing")
    return stack.pop()


def _marked(stack: list[Any]) -> list[Any]:
    """The values since the last mark."""
    found = []
    while stack[-1] is not _MARK:
        found.append(stack.pop())
    stack.pop()
    return found[::-1]


def _set(target: Any, pairs: Iterator[tuple[Any, Any]]) -> None:
    for key, value in pairs:
        if not isinstance(target, dict) or not isinstance(key, str):
            raise ValueError("has a dict with keys that are not text")
        target[key] = value


def _set_item(stack: list[Any]) -> None:
    value, key = _pop(stack), _pop(stack)
    _set(stack[-1], iter([(key, value)]))


def _set_items(stack: list[Any]) -> None:
    values = _marked(stack)
    _set(stack[-1], zip(values[::2], values[1::2], strict=True))


def _make_dict(stack: list[Any]) -> None:
    values, found = _marked(stack), {}
    _set(found, zip(values[::2], values[1::2], strict=True))
    stack.append(found)


def _append(stack: list[Any]) -> None:
    value = _pop(stack)
    stack[-1].append(value)


def _appends(stack: list[Any]) -> None:
    values = _marked(stack)
    stack[-1].extend(values)


def _name(stack: list[Any]) -> None:
    attribute, module = _pop(stack), _pop(stack)
    stack.append(Opaque(f"{module} {attribute}" if isinstance(module, str) else ""))


def _call(stack: list[Any]) -> None:
    arguments, function = _pop(stack), _pop(stack)
    stack.append(Opaque(getattr(function, "name", ""), arguments))


def _call_with_names(stack: list[Any]) -> None:
    _pop(stack)
    _call(stack)


def _build(stack: list[Any]) -> None:
    state = _pop(stack)
    if isinstance(stack[-1], Opaque):
        stack[-1].state = state


_CONTAINERS = {
    "EMPTY_DICT": lambda stack: stack.append({}),
    "EMPTY_LIST": lambda stack: stack.append([]),
    "TUPLE": lambda stack: stack.append(tuple(_marked(stack))),
    "LIST": lambda stack: stack.append(_marked(stack)),
    "DICT": _make_dict,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "APPEND": _append,
    "APPENDS": _appends,
    "STACK_GLOBAL": _name,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "NEWOBJ_EX": _call_with_names,
    "BUILD": _build,
}


# ------------------------------------------------------------------ numpy


def _numpy(value: Opaque) -> np.ndarray:
    """The array [] or [n] of the arguments that numpy's own constructors would get."""
    module, _, function = value.name.rpartition(" ")
    if module.split(".")[0] != "numpy":
        raise ValueError("not a number")
    if function == "scalar":
        dtype, data, shape = *value.arguments, ()
    elif function == "_reconstruct" and len(value.state) == 5:
        _, shape, dtype, _, data = value.state
    else:
        raise ValueError("not a number")
    return _array(dtype, data, shape)


def _array(dtype: Any, data: Any, shape: Any) -> np.ndarray:
    kind = dtype.arguments[0] if isinstance(dtype, Opaque) else None
    if not isinstance(kind, str) or not _NUMBER.fullmatch(kind) or not isinstance(data, bytes):
        raise ValueError("not a number")
    order = dtype.state[1] if isinstance(dtype.state, tuple) else "|"
    found = np.frombuffer(data, np.dtype(kind).newbyteorder(order if order in "<>" else "="))
    if len(shape) > 1 or found.size != math.prod(shape):
        raise ValueError("not a number, nor a list of them")
    return found if shape else found[0]
