"""`make demo`: prints and runs every command of the README in order, then prints the results.

    python -m launch.demo                       # a simulated archive
    python -m launch.demo --data DIR            # your own folder of EnMAP L2A tiles

Finished commands are not run again.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from eo_jax import cli
from eo_jax.data import open_store
from eo_jax.monitor.writers import read_metrics
from eo_jax.report.collect import headline

# Sides of a token and of a crop in configs/mae_demo.py; smaller tiles get a smaller crop.
_PATCH, _CROP = 4, 32


def main() -> int:
    """Runs the demo; returns 0, or ends with the exit code of the command that failed."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.demo",
        description="Simulate (or take --data), convert, pretrain, evaluate, export, report.",
        epilog="example: python -m launch.demo --data ~/enmap_tiles",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of EnMAP L2A GeoTIFF tiles; the default is a simulated archive",
    )
    arguments = parser.parse_args()
    if arguments.data:
        name, config, overrides = _own_tiles(arguments.data)
    else:
        name, config, overrides = _simulated()
    workdir = Path("runs") / name
    weights = workdir / "encoder.safetensors"
    _run("eo_jax.train", f"--config={config}", f"--workdir={workdir}", *overrides)
    _run("eo_jax.export", f"--workdir={workdir}", f"--output={weights}")
    _run("eo_jax.report", f"--workdir={workdir}")
    _summary(workdir, weights)
    return 0


def _simulated() -> tuple[str, str, list[str]]:
    """Simulates and converts an archive; returns (name of the run, config, overrides)."""
    _run("data_prep", "simulate", "--output", "archives/demo")
    _run(
        "data_prep",
        "convert",
        "spectral-earth",
        "--input",
        "archives/demo",
        "--output",
        "stores/demo",
        "--labels",
        "landuse",
    )
    return "demo", "configs/mae_demo.py", []


def _own_tiles(data: Path) -> tuple[str, str, list[str]]:
    """Converts a user's tiles; returns (name of the run, config, overrides).

    The crop is at most the smallest tile; the probe runs if the tiles have labels.
    """
    name = f"demo_{data.resolve().name}"
    store_path = f"stores/{name}"
    _run(
        "data_prep",
        "convert",
        "enmap-tiles",
        "--input",
        str(data),
        "--output",
        store_path,
        "--val-fraction",
        "0.2",
    )
    store = open_store(store_path)
    crop = min(int(store.index["shape"][:, 1:].min()) // _PATCH * _PATCH, _CROP)
    variant = "tiles,probe" if "landcover" in store.manifest["labels"] else "tiles"
    sizes = [f"--config.data.crop={crop}", f'--config.augment.crops["global"].size={crop}']
    return (
        name,
        f"configs/mae_demo.py:{variant}",
        [f"--config.data.sources.enmap.store={store_path}", *sizes],
    )


def _run(module: str, *arguments: str) -> None:
    command = ["python", "-m", module, *arguments]
    print(f"\n$ {shlex.join(command)}", flush=True)
    code = subprocess.run([sys.executable, *command[1:]]).returncode
    if code:
        sys.exit(code)


def _summary(workdir: Path, weights: Path) -> None:
    print("\nResults")
    for card in headline(read_metrics(workdir)):
        print(f"  {card.label:<30} {card.value:<20} {card.note}")
    print(f"  {'Weights for PyTorch':<30} {weights}")
    print(f"  {'Report':<30} {workdir / 'report.html'}")


if __name__ == "__main__":
    cli.run(main)
