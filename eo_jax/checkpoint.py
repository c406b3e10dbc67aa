"""Saves, restores and hashes {state, data position, config}. Only this module imports Orbax.

python -m eo_jax.checkpoint hash --workdir=runs/mae    # SHA-256 of each leaf and of the state
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from eo_jax import cli, rules
from eo_jax.schema import Carry, Params

# Orbax logs every phase of every save, and a traceback where a command ends before its clean-up
# thread; real errors are exceptions.
logging.getLogger("absl").setLevel(logging.CRITICAL)


class Checkpoints:
    """The checkpoints of a workdir: WORKDIR/checkpoints/STEP/{state, data, config}.

    Saving is asynchronous; an interrupted save is never listed.

    Args:
        keep: how many of the latest to keep; None opens them read-only, so that a run that is still
            saving is not disturbed.
    """

    def __init__(self, workdir: Path, keep: int | None = None):
        self._folder = (workdir / "checkpoints").absolute()
        options = (
            ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
            if keep
            else ocp.CheckpointManagerOptions(read_only=True)
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """The newest saved step."""
        return self._manager.latest_step()

    def save(
        self,
        step: int,
        state: Any,
        next_batch: int,
        config: dict,
        bad_records: Mapping[str, list[int]] | None = None,
    ) -> None:
        """Starts saving; returns as soon as the arrays are copied.

        `bad_records` is {source: samples skipped so far}. A full disk is an OSError, here or in
        `wait`.
        """
        if step == self.latest():
            return
        data = {"next_batch": next_batch, "bad_records": bad_records or {}}
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave(data),
            config=ocp.args.JsonSave(config),
        )
        with _save_errors(self._folder / str(step)):
            self._manager.save(step, args=items)

    def wait(self) -> None:
        """Waits until every save is on the disk."""
        with _save_errors(self._folder):
            self._manager.wait_until_finished()

    def restore(self, like: Any) -> tuple[Any, int]:
        """(state, number of the next batch) of the newest checkpoint.

        `like` gives shapes and shardings, on any mesh.
        """
        step = self.latest()
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()
        )
        with _restore_errors(self._folder / str(step)):
            restored = self._manager.restore(step, args=items)
        return restored.state, restored.data["next_batch"]

    def config(self) -> dict:
        """The config of the newest checkpoint."""
        return self._json("config")

    def bad_records(self) -> dict[str, list[int]]:
        """{source: samples skipped} before the newest checkpoint."""
        return self._json("data").get("bad_records", {})  # absent from older checkpoints

    def _json(self, item: str) -> dict:
        step = self.latest()
        items = ocp.args.Composite(**{item: ocp.args.JsonRestore()})
        with _restore_errors(self._folder / str(step)):
            return self._manager.restore(step, args=items)[item]

    def arrays(self) -> dict:
        """The state of the newest checkpoint as nested dicts of numpy arrays.

        It needs neither the model nor the mesh of the run.
        """
        path = self._folder / str(self.latest()) / "state"
        with _restore_errors(path):
            handler = ocp.PyTreeCheckpointer()
            tree = handler.metadata(path).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return handler.restore(path, restore_args=as_numpy)


def load(workdir: Path) -> tuple[dict, int, Params, Carry]:
    """(config, step, params, carry) of the newest checkpoint of a workdir, as numpy arrays.

    Raises ValueError where there is none.
    """
    checkpoints = _existing(workdir)
    state = checkpoints.arrays()
    return checkpoints.config(), checkpoints.latest(), state["params"], state.get("carry", {})


def _existing(workdir: Path) -> Checkpoints:
    if (
        not (workdir / "checkpoints").is_dir()
        or (checkpoints := Checkpoints(workdir)).latest() is None
    ):
        raise ValueError(
            f"{workdir}: no checkpoint there; train first: python -m eo_jax.train --config=... "
            f"--workdir={workdir}"
        )
    return checkpoints


def leaf_hashes(state: Any) -> dict[str, str]:
    """SHA-256 of every leaf (dtype, shape, bytes) by path."""
    hashes = {}
    for path, leaf in rules.paths(state):
        array = np.ascontiguousarray(leaf)
        digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
        hashes[path] = digest.hexdigest()
    return hashes


def state_hash(hashes: dict[str, str]) -> str:
    """One SHA-256 over the hashes of all leaves."""
    return hashlib.sha256(
        "\n".join(f"{path} {digest}" for path, digest in sorted(hashes.items())).encode()
    ).hexdigest()


def _save_errors(path: Path) -> contextlib.AbstractContextManager[None]:
    return _os_errors(path, "saved", "free space on that disk, then run the same command again")


def _restore_errors(path: Path) -> contextlib.AbstractContextManager[None]:
    return _os_errors(path, "restored", "delete that folder to go back to the checkpoint before it")


@contextlib.contextmanager
def _os_errors(path: Path, verb: str, cure: str) -> Iterator[None]:
    """Turns any error of Orbax and tensorstore into an OSError with the path and the way out."""
    try:
        yield
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(f"{path}: checkpoint cannot be {verb} ({first_line}); {cure}") from error


def main() -> int:
    """The `hash` command."""
    parser = argparse.ArgumentParser(
        prog="python -m eo_jax.checkpoint",
        description="Inspects checkpoints.",
        epilog="example: python -m eo_jax.checkpoint hash --workdir=runs/mae",
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser(
        "hash",
        help="print the SHA-256 of every leaf of the newest checkpoint, and of the whole state",
    )
    command.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    arguments = parser.parse_args()
    checkpoints = _existing(arguments.workdir)
    hashes = leaf_hashes(checkpoints.arrays())
    for path, digest in sorted(hashes.items()):
        print(f"{digest[:16]}  {path}")
    print(f"{state_hash(hashes)}  whole state, step {checkpoints.latest()}")
    return 0


if __name__ == "__main__":
    cli.run(main)
