"""Compares the record codec with its alternatives: compression ratio, encode and decode time.

    python -m benchmarks.codec /data/stores/spectral_earth --samples 16
    python -m benchmarks.codec --tiles ../shared/data/enmap/potsdam_l2a_tiles --json /tmp/codec.json

All figures come from one run. Times are per patch, in one thread, the best of several passes over
the samples; copying raw pixels in memory is their lower bound. Ratios are over all samples together
and depend on the data alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import blosc2
import numpy as np
from rich.console import Console
from rich.table import Table

from data_prep.archive import open_archive
from data_prep.reader import Files
from data_prep.readers.enmap_tiles import Reader
from eo_jax.data import open_store
from eo_jax.data.store import record
from eo_jax.data.store.files import write_atomically
from eo_jax.schema import Sample

PASSES = 5


@dataclasses.dataclass(frozen=True)
class Codec:
    """One way to turn pixels [c, h, w] into bytes and back."""

    name: str
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes, np.ndarray], np.ndarray]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns 0, or 1 for an error."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.codec", description=__doc__, formatter_class=raw
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "store", type=Path, nargs="?", metavar="STORE", help="a store of converted samples"
    )
    source.add_argument(
        "--tiles",
        type=Path,
        metavar="DIR",
        help="a folder of EnMAP tiles, read as `convert enmap-tiles` does",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=16,
        metavar="N",
        help="at most this many samples, evenly spaced (default: 16)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="also write the figures to this file"
    )
    args = parser.parse_args(arguments)
    try:
        cubes = (
            load(args.tiles, args.samples) if args.tiles else load_store(args.store, args.samples)
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    figures = measure(cubes)
    _print(figures, cubes)
    if args.json:
        write_atomically(args.json, (json.dumps(figures, indent=1) + "\n").encode())
    return 0


def load(tiles: Path, most: int) -> list[np.ndarray]:
    """Pixels [c, h, w] of up to `most` tiles below a folder. Raises ArchiveError."""
    reader = Reader(open_archive(tiles))
    items = reader.items()
    return [
        reader.read(items[i], Files(reader.archive, items[i])).pixels
        for i in _spaced(len(items), most)
    ]


def load_store(path: Path, most: int) -> list[np.ndarray]:
    """Pixels [c, h, w] of up to `most` samples of a store. Raises StoreError."""
    store = open_store(path)
    return [store[i].pixels for i in _spaced(len(store), most)]


def _spaced(count: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, max(1, most)).round().astype(int)).tolist()


# ------------------------------------------------------------------ the codecs


def _blosc(codec: blosc2.Codec, level: int) -> Callable[[np.ndarray], bytes]:
    def encode(pixels: np.ndarray) -> bytes:
        return blosc2.compress2(
            pixels,
            codec=codec,
            clevel=level,
            filters=[blosc2.Filter.BITSHUFFLE],
            typesize=pixels.itemsize,
            nthreads=1,
        )

    return encode


def _unblosc(data: bytes, like: np.ndarray) -> np.ndarray:
    out = np.empty_like(like)
    blosc2.decompress2(data, dst=out, nthreads=1)
    return out


def _difference(pixels: np.ndarray) -> np.ndarray:
    residual = pixels.copy()
    residual[1:] -= pixels[:-1]  # wraps around, and so does the sum
    return residual


def _sum(residual: np.ndarray) -> np.ndarray:
    for band in range(1, len(residual)):
        residual[band] += residual[band - 1]
    return residual


def _record(pixels: np.ndarray) -> bytes:
    return record.encode(Sample(pixels=pixels, sensor="enmap", id="", group=""))


def _zstd_difference(pixels: np.ndarray) -> bytes:
    return _blosc(blosc2.Codec.ZSTD, 1)(_difference(pixels))


def _from_buffer(data: bytes, like: np.ndarray) -> np.ndarray:
    return np.frombuffer(data, like.dtype).reshape(like.shape).copy()


def _unrecord(data: bytes, like: np.ndarray) -> np.ndarray:
    return record.decode(data, "benchmark").pixels


def _deflate(pixels: np.ndarray) -> bytes:
    return zlib.compress(pixels, 6)


def _inflate(data: bytes, like: np.ndarray) -> np.ndarray:
    return _from_buffer(zlib.decompress(data), like)


CODECS = (
    Codec("eo_jax record: difference, LZ4", _record, _unrecord),
    Codec("difference, zstd 1", _zstd_difference, lambda data, like: _sum(_unblosc(data, like))),
    Codec("no difference, LZ4", _blosc(blosc2.Codec.LZ4, 9), _unblosc),
    Codec("deflate 6, as in GeoTIFF", _deflate, _inflate),
    Codec("raw copy (lower bound)", lambda pixels: pixels.tobytes(), _from_buffer),
)


# ------------------------------------------------------------------ measuring


def measure(cubes: Sequence[np.ndarray]) -> list[dict]:
    """{"codec", "ratio", "encode_ms", "decode_ms"} of each codec, times per patch. Raises
    AssertionError if a codec loses a value.
    """
    return [_measure(codec, cubes) for codec in CODECS]


def _measure(codec: Codec, cubes: Sequence[np.ndarray]) -> dict:
    encoded = [codec.encode(cube) for cube in cubes]
    for data, cube in zip(encoded, cubes, strict=True):
        assert np.array_equal(codec.decode(data, cube), cube), f"{codec.name} loses values"
    return {
        "codec": codec.name,
        "ratio": sum(cube.nbytes for cube in cubes) / sum(map(len, encoded)),
        "encode_ms": _best_ms(lambda: [codec.encode(cube) for cube in cubes]) / len(cubes),
        "decode_ms": _best_ms(
            lambda: [codec.decode(data, cube) for data, cube in zip(encoded, cubes, strict=True)]
        )
        / len(cubes),
    }


def _best_ms(work: Callable[[], list]) -> float:
    times = []
    for _ in range(PASSES):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times) * 1000


def _print(figures: Sequence[dict], cubes: Sequence[np.ndarray]) -> None:
    shape = " x ".join(map(str, cubes[0].shape))
    title = f"{len(cubes)} patches, the first {shape} {cubes[0].dtype}; times per patch"
    table = Table("ratio", "encode ms", "decode ms", "codec", title=title, title_justify="left")
    for row in figures:
        table.add_row(
            f"{row['ratio']:.2f}",
            f"{row['encode_ms']:.2f}",
            f"{row['decode_ms']:.2f}",
            row["codec"],
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
