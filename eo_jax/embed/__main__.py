"""Features for GeoTIFFs, by a trained encoder.

python -m eo_jax.embed --weights=encoder.safetensors --input=chips --output=features.npz
python -m eo_jax.embed --mode=dense --workdir=runs/se --input=scene.tif --output=map.tif
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from eo_jax import cli

# "gpu" would make jax insist on ROCm, too.
_PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m eo_jax.embed",
        description="Writes the features of GeoTIFFs: pooled ones in a table, or dense maps, one "
        "pixel per token. The same command resumes.",
        epilog="example: python -m eo_jax.embed --mode=dense --weights=encoder.safetensors "
        "--input=scene.tif --output=map.tif",
    )
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--weights", type=Path, help="file of `python -m eo_jax.export`")
    weights.add_argument("--workdir", type=Path, help="folder of a run")
    parser.add_argument(
        "--encoder", default="", help="of the run, e.g. enmap.teacher (default: its first)"
    )
    parser.add_argument(
        "--input", type=Path, required=True, help="GeoTIFF, or a folder, zip or tar of them"
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="table (.npz, .parquet), or map (.tif, .zarr); a folder of maps, unless --input is "
        "one GeoTIFF",
    )
    parser.add_argument("--mode", choices=("pooled", "dense"), default="pooled")
    parser.add_argument(
        "--format",
        choices=("npz", "parquet", "cog", "zarr"),
        help="of the output (default: by the ending of --output; cog for a folder of maps)",
    )
    parser.add_argument(
        "--larger",
        choices=("refuse", "centre", "tiles"),
        help="pooled features of files that are larger than a view: an error, those of the view in "
        "the middle, or the mean over adjacent views with data (default: refuse)",
    )
    parser.add_argument(
        "--view",
        type=int,
        default=0,
        metavar="PIXELS",
        help="side of the views that the encoder sees (default: that of training)",
    )
    parser.add_argument(
        "--overlap",
        type=int,
        metavar="PIXELS",
        help="of neighbouring views of a map, a multiple of the patch (default: a quarter of the "
        "view)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "int8"),
        help="of maps; int8 has a scale per channel (default: float32)",
    )
    parser.add_argument(
        "--average",
        type=int,
        metavar="TOKENS",
        help="side of a window, odd: each token of a map becomes the mean of those that are like "
        "it in the window, which takes noise off maps of pixels (default: 1, as it is)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=0,
        metavar="VIEWS",
        help="views that are encoded at a time (default: as many as 64 MB of pixels have, at most "
        "64)",
    )
    parser.add_argument(
        "--device",
        choices=tuple(_PLATFORMS),
        help="to compute on (default: JAX_PLATFORMS, or the fastest that there is)",
    )
    parser.add_argument(
        "--bands-are-in-order",
        action="store_true",
        help="files that do not say which band is which have those of the weights, in their order",
    )
    parser.add_argument(
        "--reorder",
        action="store_true",
        help="put bands in the order of the weights by their names or wavelengths",
    )
    parser.add_argument(
        "--harmonised",
        action="store_true",
        help="the +1000 of Sentinel-2 baselines from 04.00 is already subtracted from the files",
    )
    return parser


def main() -> int:
    """The command."""
    arguments = parser().parse_args()
    if arguments.device:
        os.environ["JAX_PLATFORMS"] = _PLATFORMS[arguments.device]
    try:
        import rasterio  # noqa: F401
    except ImportError as error:
        raise ValueError("GeoTIFFs need rasterio: pip install 'eo_jax[prep]'") from error
    from eo_jax.embed import command  # imports jax, which reads JAX_PLATFORMS

    return command.run(arguments)


if __name__ == "__main__":
    cli.run(main)
