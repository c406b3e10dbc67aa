"""Stores of simulated EnMAP patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.stores import write_linked_store
from eo_jax.schema import Sample
from eo_jax.sensors import ENMAP

_LOCATIONS = 4096  # at least: Grain's shuffle of fewer is slow
_MATERIALS = 6


def write_store(path: Path, format: str, patches: int, side: int) -> float:
    """Writes a store of patches that compress like real ones: smooth mixtures of smooth
    spectra, and noise. Returns their compression ratio.
    """
    random = np.random.default_rng(0)
    spectra = _smooth(random.standard_normal((_MATERIALS, len(ENMAP.bands))), 100)
    samples = [
        Sample(_patch(random, spectra, side), ENMAP.id, f"{i:04d}", f"{i:04d}")
        for i in range(patches)
    ]
    write_linked_store(path, format, samples, -(-_LOCATIONS // patches))
    size = sum(file.stat().st_size for file in _first_files(path))
    return sum(sample.pixels.nbytes for sample in samples) / size


def _patch(random: np.random.Generator, spectra: np.ndarray, side: int) -> np.ndarray:
    """int16 [c, side, side]"""
    maps = _smooth(random.standard_normal((_MATERIALS, side * side)), side)
    values = 2500 + 100 * np.einsum("mc,mp->cp", spectra, maps)
    values += 10 * random.standard_normal(values.shape, np.float32)
    return np.clip(values, 1, 10_000).astype(np.int16).reshape(-1, side, side)


def _smooth(rows: np.ndarray, width: int) -> np.ndarray:
    """Moving means along each row, with standard deviation 1; float32."""
    kernel = np.ones(width) / width
    smooth = np.stack([np.convolve(row, kernel, "same") for row in rows])
    return (smooth / smooth.std(1, keepdims=True)).astype(np.float32)


def _first_files(store: Path) -> list[Path]:
    """The files of the first shard, which has every patch."""
    pixels = [path for path in store.glob("pixels/*/c/0/**/*") if path.is_file()]
    return pixels or [store / "shards" / "00000.array_record"]
