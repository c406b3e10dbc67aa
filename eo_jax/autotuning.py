"""On NVIDIA GPUs XLA times kernels and takes the fastest, so two starts of a run may take different
ones, whose results differ in the last bits. A workdir keeps the choice for later starts.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

import jax


@contextlib.contextmanager
def kept_in(workdir: Path) -> Iterator[dict[str, str] | None]:
    """Yields compiler options for the train step: to load what an earlier start chose, and to write
    all choices to WORKDIR/autotuning-<version of jaxlib>.pb. None on other devices.

    XLA refuses the file of another version, which may compile to other kernels anyway. With several
    processes, the first one's file is kept.
    """
    if jax.default_backend() != "gpu":
        yield None
        return
    file = workdir / f"autotuning-{importlib.metadata.version('jaxlib')}.pb"
    # The same name at each start: options are part of the key in JAX' cache of compiled functions.
    written = file.with_name(f".{file.name}.{jax.process_index()}.partial")
    options = {"xla_gpu_dump_autotune_results_to": str(written)}
    if file.exists():
        options["xla_gpu_load_autotune_results_from"] = str(file)
    try:
        yield options
        # Nothing is written where the compiled step comes from that cache.
        if written.exists() and jax.process_index() == 0:
            os.replace(written, file)
    finally:
        written.unlink(missing_ok=True)
