"""Training of the PyTorch twins (`step_twins`) with our weights, for `benchmarks.step_race`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.step_twin_base import Twin
from benchmarks.step_twins import TWINS
from benchmarks.step_twins_masked import AllPixelsMAE
from eo_jax.experiment import Experiment


class Peer:
    """A twin in training: forward, backward, AdamW, teacher.

    Args:
        module: its parameters are trained; `after_step()` is called after each update.
        loss: inputs -> scalar: the module, or its torch.compile version.
        inputs: on the device, the same for every step.
        optim: our config, a constant AdamW without clipping.
    """

    def __init__(
        self, module: Twin, loss: Callable[..., Tensor], inputs: Sequence[Tensor], optim: Any
    ):
        self._module, self._loss, self._inputs = module, loss, inputs
        self._device = inputs[0].device.type
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        betas = (optim.beta1, optim.beta2)
        self._optimizer = torch.optim.AdamW(
            trained, optim.lr, betas, optim.epsilon, optim.weight_decay, fused=True
        )

    def run(self, steps: int) -> float:
        """Runs `steps` steps to their end; the last one's loss."""
        for _ in range(steps):
            loss = self._step()
        return loss.item()  # waits for the device, which works in order

    def _step(self) -> Tensor:
        self._optimizer.zero_grad()
        with torch.autocast(self._device, torch.bfloat16, enabled=self._device == "cuda"):
            loss = self._loss(*self._inputs)
        loss.backward()
        self._optimizer.step()
        self._module.after_step()
        return loss.detach()


def make(
    objective: str,
    way: str,
    experiment: Experiment,
    params: Mapping[str, Any],
    inputs: Mapping[str, np.ndarray],
    device: str,
) -> Peer:
    """A twin with these weights.

    Args:
        objective: a key of `TWINS`.
        way: "eager", "compiled" (torch.compile) or, MAE only, "all pixels": the adapter on every
            pixel, as in SpectralEarth's code.
        params: our weights; under "teacher" the teacher's.
        inputs: {"global": [b, v, H, W, c], "local"?: ..., "noise"?: [b, n]}: views, and the noise
            by which MAE orders tokens.
    """
    twin = (AllPixelsMAE if way == "all pixels" else TWINS[objective])(experiment)
    load(twin, params)
    return start(twin, way, experiment.optim, inputs, device)


def start(twin: Twin, way: str, optim: Any, inputs: Mapping[str, np.ndarray], device: str) -> Peer:
    """A twin with the weights it has; arguments as in `make`."""
    twin.to(device).train()
    placed = [
        tensor.to(device)
        for tensor in twin.inputs(
            {name: torch.tensor(np.asarray(array)) for name, array in inputs.items()}
        )
    ]
    return Peer(twin, torch.compile(twin) if way == "compiled" else twin, placed, optim)


# ------------------------------------------------------------------ weights


def load(module: nn.Module, params: Mapping[str, Any]) -> None:
    """Copies our weights into a twin. Raises ValueError if the two have different ones."""
    ours, theirs = dict(_named(params)), dict(module.named_parameters())
    if set(ours) != set(theirs):
        raise ValueError(
            f"twin with other weights: {sorted(set(ours) ^ set(theirs))[:6]} are on one side only; "
            "apply the change of eo_jax to its twin"
        )
    with torch.no_grad():
        for name, parameter in theirs.items():
            parameter.copy_(torch.tensor(_reshaped(*ours[name], parameter.shape)))


def _named(
    params: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, tuple[str, np.ndarray]]]:
    """(PyTorch's name, (our last name, array)) of each weight; stacked layers one by one."""
    names = {"kernel": "weight", "scale": "weight", "qkv": "qkv.weight", "qkv_bias": "qkv.bias"}
    for key, value in params.items():
        if key == "layers":
            stacked = list(_named(value))
            for i in range(len(stacked[0][1][1])):
                yield from (
                    (f"{prefix}{i}.{name}", (leaf, array[i])) for name, (leaf, array) in stacked
                )
        elif isinstance(value, Mapping):
            yield from _named(value, f"{prefix}{key}.")
        else:
            yield prefix + names.get(key, key), (key, np.asarray(value))


def _reshaped(leaf: str, array: np.ndarray, shape: torch.Size) -> np.ndarray:
    """One of our arrays with the axes of a PyTorch weight."""
    # A patch embedding becomes a convolution: row, column, band -> out.
    if leaf == "kernel" and len(shape) == 4:
        _, channels, rows, columns = shape
        return array.reshape(rows, columns, channels, -1).transpose(3, 2, 0, 1)
    if leaf == "qkv":
        array = array.reshape(len(array), -1)
    return np.ascontiguousarray(array.T if leaf in ("kernel", "qkv") else array).reshape(shape)
