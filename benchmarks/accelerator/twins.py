"""The same steps in PyTorch, by torch.compile: forward, backward, fused AdamW and the teacher's
moving average, in bfloat16 by autocast, attention by SDPA.

Tests compare the losses of the twins with ours; here they have weights and inputs of their own.
Their views are given, while our steps make them, so the ratio is to our disadvantage.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from benchmarks import step_peers
from benchmarks.accelerator.cases import experiment_of
from benchmarks.accelerator.scale import Scale
from eo_jax.experiment import Experiment

_DRAWN = 8  # rows of an input that differ


def compiled_twin(scale: Scale, case: str) -> Iterator[dict[str, Any]]:
    """The figures of the twin of a case."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    experiment = experiment_of(case, scale)
    size = experiment.data.batch_size
    twin = step_peers.TWINS[experiment.objective_name](experiment)
    peer = step_peers.start(twin, "compiled", experiment.optim, _inputs_of(experiment), device)
    start = time.perf_counter()
    loss = peer.run(1)
    yield {"batch": size, "compile_s": time.perf_counter() - start, "first_loss": loss}
    timed = scale.step_s(peer.run)
    yield {**timed, "samples_per_s": size / timed["step_s"], "pytorch_device": device}
    if device == "cuda":
        name, peak = torch.cuda.get_device_name(), torch.cuda.max_memory_allocated()
        yield {"pytorch_device": name, "peak_gb": peak / 1e9}


def _inputs_of(experiment: Experiment) -> dict[str, np.ndarray]:
    """Random views [b, v, H, W, c], and what the objective draws itself."""
    random, size = np.random.default_rng(0), experiment.data.batch_size
    bands = len(experiment.objective.encoder.sensor.bands)
    inputs = {}
    for name, (count, side) in experiment.views.items():
        drawn = random.standard_normal((_DRAWN, count, side, side, bands), np.float32)
        inputs[name.removeprefix("eo/")] = np.resize(drawn, (size, *drawn.shape[1:]))
    if experiment.objective_name == "mae":
        _, side = experiment.views["eo/global"]
        tokens = (side // experiment.objective.encoder.patch) ** 2
        inputs["noise"] = random.random((size, tokens), np.float32)
    if experiment.objective_name == "moco":
        config = experiment.objective.config
        keys = random.standard_normal((config.queue_size, config.projector[-1]), np.float32)
        inputs["queue"] = keys / np.linalg.norm(keys, axis=1, keepdims=True)
        inputs["order"] = random.permutation(size)
    return inputs
