"""The checkpoints of a run: saves them, and deletes those that need not be kept."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp

from eo_jax import cli
from eo_jax.checkpoint import arrays
from eo_jax.checkpoint.manifest import Manifest, empty_dicts, leaves_of
from eo_jax.checkpoint.retention import Retention, Scores, finite
from eo_jax.checkpoint.saved import MANIFEST, DamagedError, Saved
from eo_jax.checkpoint.writing import delete, remove_leftovers, saving
from eo_jax.data.store.files import write_atomically
from eo_jax.schema import Carry, Params


class Checkpoints:
    """The checkpoints of a workdir: WORKDIR/checkpoints/STEP/{state, manifest}.

    Saving is asynchronous, and an interrupted save is never listed: save inside a `with` block,
    which waits for the save under way, whatever ends it. Reading changes nothing on the disk, so
    that a run that is still saving is not disturbed.

    Args:
        retention: which of them stay when another is saved; None for all.
    """

    def __init__(self, workdir: Path, retention: Retention | None = None):
        self._folder = (workdir / "checkpoints").absolute()
        self._retention = retention
        self._last: int | None = None
        self._thread, self._finishing = ThreadPoolExecutor(1, "checkpoints"), Future()

    def steps(self) -> list[int]:
        """The saved steps, oldest first."""
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def latest(self) -> int | None:
        """The newest saved step."""
        return max(self.steps(), default=None)

    def at(self, step: int) -> Saved:
        """The checkpoint of a step. Raises ValueError where there is none."""
        if step not in (steps := self.steps()):
            listed = f"there are {', '.join(map(str, steps))}" if steps else "there is none"
            raise ValueError(f"{self._folder}: no checkpoint of step {step}; {listed}")
        return Saved(self._folder / str(step))

    def newest(self) -> Saved:
        """The newest checkpoint. Raises ValueError where there is none."""
        step = self.latest()
        if step is None:
            workdir = self._folder.parent
            raise ValueError(
                f"{workdir}: no checkpoint there; train first: python -m eo_jax.train --config=... "
                f"--workdir={workdir}"
            )
        return self.at(step)

    # -------------------------------------------------------------------------------------- saving

    def save(
        self,
        step: int,
        state: Any,
        config: dict,
        bad_records: Mapping[str, list[int]] | None = None,
        scores: Scores | None = None,
        origin: int = 0,
    ) -> None:
        """Starts saving; returns as soon as the arrays are copied and their checksums known.

        With several processes, all have to call it. A full disk is an OSError, here, in `check`
        or in `wait`.

        Args:
            state: a tree of jax.Arrays.
            bad_records: {source: samples skipped so far}.
            scores: {"eval/<evaluator>/<metric>": value} of these weights.
            origin: see `Manifest`.
        """
        if step == self._last:
            return
        self.wait()  # so that an error in the last save is not told of this step
        about = Manifest(
            step=step,
            bad_records=dict(bad_records or {}),
            config=config,
            scores=finite(scores or {}),
            leaves=leaves_of(state),
            empty=empty_dicts(state),
            origin=origin,
        )
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(arrays.flatten(state)),
            manifest=ocp.args.JsonSave(about.to_json()),
        )
        folder = self._folder / str(step)
        with saving(folder):
            if self._last is not None and not self._folder.parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._scores[step] = about.scores
            self._checkpointer.save(folder, items)
        self._finishing = self._thread.submit(self._finish, folder)
        self._last = step

    def add_scores(self, step: int, scores: Scores) -> None:
        """Adds scores to a saved checkpoint: those of an evaluation that a stop had cut short."""
        about = self.at(step).manifest
        complete = dataclasses.replace(about, scores=about.scores | finite(scores))
        self._scores[step] = complete.scores
        if complete != about and jax.process_index() == 0:
            text = json.dumps(complete.to_json())
            write_atomically(self._folder / str(step) / MANIFEST, text.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        """Waits as `wait` does. When Python ends, Orbax can no longer finish a save.

        After an error in one of several processes nothing is waited for: the others may be gone.
        """
        if error is None:
            self.wait()
        elif jax.process_count() == 1:
            with cli.noted(error):
                self.wait()

    def check(self) -> None:
        """Raises the OSError of a save that has failed meanwhile. Takes microseconds."""
        if self._finishing.done():
            self._finishing.result()

    def wait(self) -> None:
        """Waits until every save is on the disk. Raises the OSError of one that has failed."""
        if self._last is not None:
            self._finishing.result()

    def _finish(self, folder: Path) -> None:
        """Waits for the save under way, then deletes what no rule keeps."""
        with saving(folder):
            self._checkpointer.wait_until_finished()
        if self._retention is None or jax.process_index() > 0:
            return
        kept = self._retention.reasons({step: self._scores.get(step, {}) for step in self.steps()})
        for step, rules in kept.items():
            if not rules:
                delete(self._folder / str(step))

    @functools.cached_property
    def _checkpointer(self) -> ocp.AsyncCheckpointer:
        """Not Orbax' CheckpointManager: where a save fails in one of several processes, that waits
        for the others, which wait for the save, before it tells of the error.
        """
        if jax.process_index() == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self._folder)
        items = {"state": arrays.handler(), "manifest": ocp.JsonCheckpointHandler()}
        # Threads that wait for folders that cannot be made would hold up the end for minutes.
        at_once = ocp.AsyncOptions(create_directories_asynchronously=False)
        handler = ocp.CompositeCheckpointHandler(**items)
        return ocp.AsyncCheckpointer(handler, async_options=at_once)

    @functools.cached_property
    def _scores(self) -> dict[int, Scores]:
        """{step: scores} of the checkpoints whose manifest is intact."""
        scores = {}
        for step in self.steps():
            with contextlib.suppress(DamagedError):
                scores[step] = self.at(step).manifest.scores
        return scores


def load(workdir: Path) -> tuple[dict, int, Params, Carry]:
    """(config, step, params, carry) of the newest checkpoint of a workdir, as numpy arrays.

    Raises ValueError where there is none, DamagedError where it is not what was saved.
    """
    saved = Checkpoints(workdir).newest()
    state = saved.arrays("params/", "carry/")
    return saved.manifest.config, saved.step, state["params"], state.get("carry", {})
