"""Lists, checks, compares, averages and takes apart checkpoints. No GPU is used.

    python -m eo_jax.checkpoint ls runs/mae
    python -m eo_jax.checkpoint verify runs/mae
    python -m eo_jax.checkpoint diff runs/a runs/b
    python -m eo_jax.checkpoint hash runs/mae
    python -m eo_jax.checkpoint average runs/a runs/b --output=runs/mean
    python -m eo_jax.checkpoint slice runs/mae --paths=params/encoder/ --output=encoder.npz

A checkpoint is WORKDIR/checkpoints/STEP, or WORKDIR for the newest. The exit code is 1 where
something is damaged or differs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import track

from eo_jax import cli
from eo_jax.checkpoint import surgery
from eo_jax.checkpoint.difference import differences
from eo_jax.checkpoint.hashes import leaf_hashes, state_hash
from eo_jax.checkpoint.manifest import Manifest
from eo_jax.checkpoint.retention import Retention
from eo_jax.checkpoint.saved import DamagedError, DeletedError, Saved
from eo_jax.checkpoint.workdir import Checkpoints

_DELETED = "deleted meanwhile, by the run that saved it"
_EITHER = "WORKDIR/checkpoints/STEP, or WORKDIR for the newest"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m eo_jax.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="{ls,verify,diff,hash,average,slice}")

    def add(
        name: str, run: Callable[..., int], example: str, **operands: str
    ) -> argparse.ArgumentParser:
        task = run.__doc__.splitlines()[0]
        command = commands.add_parser(
            name,
            help=task,
            description=run.__doc__,
            epilog=f"example: python -m eo_jax.checkpoint {name} {example}",
        )
        for operand, about in operands.items():
            command.add_argument(operand, type=Path, metavar=operand.upper(), help=about)
        command.set_defaults(run=run)
        return command

    add("ls", ls, "runs/mae", workdir="folder of the run")
    add("verify", verify, "runs/mae", path="WORKDIR for all, or WORKDIR/checkpoints/STEP")
    add("diff", diff, "runs/a runs/b/checkpoints/500", a=_EITHER, b=_EITHER)
    add("hash", print_hashes, "runs/mae", checkpoint=_EITHER)
    averaging = add("average", average, "runs/a/checkpoints/400 runs/a --output=runs/mean")
    averaging.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help=_EITHER)
    averaging.add_argument("--output", type=Path, required=True, help="new workdir")
    slicing = add(
        "slice",
        slice_arrays,
        "runs/mae --paths=params/encoder/ --output=encoder.npz",
        checkpoint=_EITHER,
    )
    slicing.add_argument("--paths", required=True, help="regex on the beginning of paths")
    slicing.add_argument("--output", type=Path, required=True, help="file .npz")
    arguments = vars(parser.parse_args())
    jax.config.update("jax_platforms", "cpu")  # the GPU is busy training
    return arguments.pop("run")(**arguments)


def ls(workdir: Path) -> int:
    """Lists the checkpoints of a run, with size, the rule that keeps it, and scores.

    Arrays are not read.
    """
    manifests, damaged, deleted = {}, {}, {}
    for saved in (checkpoints := _all(workdir)):
        try:
            manifests[saved.step] = saved.manifest
        except DamagedError as error:
            damaged[saved.step] = [f"DAMAGED: {error.reason}"]
        except DeletedError:
            deleted[saved.step] = [_DELETED]
    facts = _facts(manifests) | damaged | deleted
    for saved in checkpoints:
        print("  ".join([f"step {saved.step}", _megabytes(saved.folder), *facts[saved.step]]))
    return 1 if damaged else 0


def _facts(manifests: dict[int, Manifest]) -> dict[int, list[str]]:
    """{step: what `ls` says about it}."""
    if not manifests:
        return {}
    retention = Retention.of_run(manifests[max(manifests)].config["run"])
    kept = retention.reasons({step: about.scores for step, about in manifests.items()})
    return {
        step: [
            f"{len(about.leaves)} arrays",
            f"kept: {', '.join(kept[step]) or 'by no rule'}",
            *(f"{name} {value:.4g}" for name, value in sorted(about.scores.items())),
        ]
        for step, about in manifests.items()
    }


def verify(path: Path) -> int:
    """Reads every array and compares it with its checksum."""
    damaged = False
    for saved in [_find(path)] if _is_step(path) else _all(path):
        try:
            problems = _problems(saved)
        except DeletedError:
            print(f"{saved.folder}: {_DELETED}")
            continue
        for problem in problems:
            print(f"{saved.folder}: DAMAGED: {problem}", flush=True)
        if not problems:
            size = _megabytes(saved.folder)
            print(f"{saved.folder}: {len(saved.manifest.leaves)} arrays are intact, {size}")
        damaged |= bool(problems)
    return 1 if damaged else 0


def _problems(saved: Saved) -> list[str]:
    try:
        total = len(saved.manifest.leaves)
    except DamagedError as error:
        return [error.reason]
    return list(filter(None, _progress(saved.problems(), f"step {saved.step}", total)))


def diff(a: Path, b: Path) -> int:
    """Says which arrays of two checkpoints differ, and by how much."""
    first, second = _find(a), _find(b)
    total = len(first.manifest.leaves.keys() | second.manifest.leaves.keys())
    differing = 0
    for path, difference in _progress(differences(first, second), "diff", total):
        if difference:
            print(f"{path}: {difference}")
            differing += 1
    told = f"{differing} of {total} arrays differ" if differing else f"all {total} arrays are equal"
    print(f"{told}: {first.folder}, {second.folder}")
    return 1 if differing else 0


def print_hashes(checkpoint: Path) -> int:
    """Prints the SHA-256 of every array and of the whole state."""
    saved = _find(checkpoint)
    hashes = leaf_hashes(saved.arrays())
    for path, digest in sorted(hashes.items()):
        print(f"{digest[:16]}  {path}")
    print(f"{state_hash(hashes)}  whole state, step {saved.step}")
    return 0


def average(checkpoints: list[Path], output: Path) -> int:
    """Writes a workdir with the mean of the weights of checkpoints of one network.

    It can be exported, reported, evaluated and trained on. Optimizer and step are the last one's.
    """
    count = surgery.average([_find(path) for path in checkpoints], output)
    print(f"{output}: {count} arrays are the mean of {len(checkpoints)} checkpoints")
    return 0


def slice_arrays(checkpoint: Path, paths: str, output: Path) -> int:
    """Writes some arrays of a checkpoint to an NPZ file, by their paths."""
    found = surgery.extract(_find(checkpoint), paths, output)
    print(f"{output}: {len(found)} arrays, from {found[0]} to {found[-1]}")
    return 0


def _is_step(path: Path) -> bool:
    return path.parent.name == "checkpoints" and path.name.isdecimal()


def _find(path: Path) -> Saved:
    """The checkpoint WORKDIR/checkpoints/STEP, or the newest of a workdir."""
    if _is_step(path):
        return Checkpoints(path.parent.parent).at(int(path.name))
    return Checkpoints(path).newest()


def _all(workdir: Path) -> list[Saved]:
    """The checkpoints of a workdir, of which there must be one."""
    checkpoints = Checkpoints(workdir)
    checkpoints.newest()
    return [checkpoints.at(step) for step in checkpoints.steps()]


def _progress(items: Iterable[Any], title: str, total: int) -> Iterable[Any]:
    """The items, with a bar on a terminal."""
    console = Console(stderr=True)
    hidden = not console.is_terminal
    return track(items, title, total, console=console, transient=True, disable=hidden)


def _megabytes(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e6:.1f} MB"


if __name__ == "__main__":
    cli.run(main)
