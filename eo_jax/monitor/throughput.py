"""Samples and model FLOPs per second, against the peak of the devices."""

from __future__ import annotations

import time

import jax

# Dense bf16 peak in FLOP/s of one device, from the vendors' data sheets, by the beginning of jax's
# device_kind.
_PEAK_FLOPS = {
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


def peak_flops() -> float | None:
    """Peak FLOP/s of all devices together; None for a device that is not in the table (CPUs)."""
    kind = jax.devices()[0].device_kind
    known = [peak for name, peak in _PEAK_FLOPS.items() if kind.startswith(name)]
    return known[0] * jax.device_count() if known else None


class Throughput:
    """Samples and model FLOPs per second, from when the metrics of steps arrive.

    Pauses (compiling, evaluation, saving) do not count. Of the collapse metrics of logged steps,
    the time counts and the FLOPs do not.

    Args:
        batch_size: samples per step.
        sample_flops: of loss and gradient per sample; see `eo_jax.monitor.flops`.
    """

    def __init__(self, batch_size: int, sample_flops: float):
        self._batch_size, self._flops = batch_size, sample_flops
        self._last: float | None = None
        self._steps, self._seconds = 0, 0.0

    def arrived(self) -> None:
        """One more step is done, since its metrics are here. The first after a pause only starts
        the clock.
        """
        now = time.perf_counter()
        if self._last is not None:
            self._steps, self._seconds = self._steps + 1, self._seconds + now - self._last
        self._last = now

    def pause(self) -> None:
        """The time until the next step is not training time."""
        self._last = None

    def take(self) -> dict[str, float]:
        """{"samples_per_s", "flops_per_s", "mfu"?} since the last call; {} where nothing was
        timed.
        """
        if not self._steps:
            return {}
        rate = self._steps * self._batch_size / self._seconds
        self._steps, self._seconds = 0, 0.0
        rates = {"samples_per_s": rate, "flops_per_s": rate * self._flops}
        peak = peak_flops()
        return rates | ({"mfu": rate * self._flops / peak} if peak else {})
