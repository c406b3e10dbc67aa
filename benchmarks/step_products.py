"""The rate of plain matrix products in XLA and in PyTorch: an upper limit of both steps, and the
part of their ratio that is due to the underlying libraries.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

import jax
import jax.numpy as jnp

from benchmarks.step_race import threads

XLA, PYTORCH = "XLA", "PyTorch"
SIDE, TURNS = 2048, 10


def rates(libraries: Sequence[str]) -> dict[str, float]:
    """{library: FLOP/s of square products}, the best of TURNS, each library in its own process;
    float32 on CPU, bfloat16 on accelerators.
    """
    spawned = multiprocessing.get_context("spawn")
    found = {}
    for library in libraries:
        with ProcessPoolExecutor(1, spawned) as process:
            found[library] = process.submit(_rate, library).result()
    return found


def _rate(library: str) -> float:
    multiply = {XLA: _of_xla, PYTORCH: _of_pytorch}[library]()
    multiply()
    return 2 * SIDE**3 / min(_seconds(multiply) for _ in range(TURNS))


def _seconds(multiply: Callable[[], None]) -> float:
    start = time.perf_counter()
    multiply()
    return time.perf_counter() - start


def _of_xla() -> Callable[[], None]:
    square = jnp.full(
        (SIDE, SIDE),
        1 / math.sqrt(SIDE),
        jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16,
    )
    product = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(square, square))


def _of_pytorch() -> Callable[[], None]:
    import torch

    torch.set_num_threads(threads())
    on_gpu = jax.default_backend() != "cpu"  # where the twins run
    square = torch.full(
        (SIDE, SIDE),
        1 / math.sqrt(SIDE),
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        device="cuda" if on_gpu else "cpu",
    )
    done = torch.cuda.synchronize if on_gpu else lambda: None
    return lambda: (square @ square, done())
