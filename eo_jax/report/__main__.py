"""Writes one self-contained HTML page of a run: numbers, curves, pictures, configuration, data.

python -m eo_jax.report --workdir=runs/demo            # writes runs/demo/report.html
"""

from __future__ import annotations

import argparse
from pathlib import Path

from eo_jax import cli, compile_cache
from eo_jax.data.store.files import write_atomically
from eo_jax.report.collect import collect
from eo_jax.report.page import render


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m eo_jax.report",
        description="Writes WORKDIR/report.html: metrics, reconstructions, spectra, "
        "configuration, data.",
        epilog="example: python -m eo_jax.report --workdir=runs/demo",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--split",
        default="",
        help="split of the samples that are drawn (default: val, or train where there is no val)",
    )
    arguments = parser.parse_args()
    compile_cache.enable()
    path = arguments.workdir / "report.html"
    write_atomically(path, render(collect(arguments.workdir, arguments.split)).encode())
    print(path)
    return 0


if __name__ == "__main__":
    cli.run(main)
