"""What `benchmarks.step_race` lets run against us: PyTorch twins of our train step (`step_twins`),
with our weights.
"""

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
        module: its parameters are trained; `after_step()` follows each update.
        loss: what makes a scalar of the inputs: the module, or what torch.compile made of it.
        inputs: on the device, the same for every step.
        optim: ours, a constant AdamW without clipping.
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
        """So many steps, to their end; the last one's loss."""
        for _ in range(steps):
            loss = self._step()
        return loss.item()  # waits for the device, whose work is done in order

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
            pixel, as SpectralEarth's code has it.
        params: ours; under "teacher" the teacher's.
        inputs: {"global": [b, v, H, W, c], "local"?: ..., "noise"?: [b, n]}: views, and what MAE
            orders tokens by.
    """
    twin = (AllPixelsMAE if way == "all pixels" else TWINS[objective])(experiment)
    load(twin, params)
    twin.to(device).train()
    placed = [
        tensor.to(device)
        for tensor in twin.inputs(
            {name: torch.tensor(np.asarray(array)) for name, array in inputs.items()}
        )
    ]
    return Peer(twin, torch.compile(twin) if way == "compiled" else twin, placed, experiment.optim)


# ------------------------------------------------------------------ weights


def load(module: nn.Module, params: Mapping[str, Any]) -> None:
    """Copies our weights into a twin. Raises ValueError where the two do not have the same ones."""
    ours, theirs = dict(_named(params)), dict(module.named_parameters())
    if set(ours) != set(theirs):
        raise ValueError(
            f"a twin of other weights: {sorted(set(ours) ^ set(theirs))[:6]} are on one side only; "
            "copy the change of eo_jax to its twin"
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
    """An array of ours in the axes of a PyTorch weight."""
    if (
        leaf == "kernel" and len(shape) == 4
    ):  # a patch embedding as a convolution: row, column, band -> out
        _, channels, rows, columns = shape
        return array.reshape(rows, columns, channels, -1).transpose(3, 2, 0, 1)
    if leaf == "qkv":
        array = array.reshape(len(array), -1)
    return np.ascontiguousarray(array.T if leaf in ("kernel", "qkv") else array).reshape(shape)
