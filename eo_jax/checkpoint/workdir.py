"""The checkpoints of a run: saves them, and deletes those that need not be kept."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from eo_jax.checkpoint import arrays
from eo_jax.checkpoint.manifest import Manifest, empty_dicts, leaves_of
from eo_jax.checkpoint.retention import Retention, Scores
from eo_jax.checkpoint.saved import DamagedError, Saved, first_line
from eo_jax.schema import Carry, Params


class Checkpoints:
    """The checkpoints of a workdir: WORKDIR/checkpoints/STEP/{state, manifest}.

    Saving is asynchronous, and an interrupted save is never listed. Reading changes nothing on the
    disk, so that a run that is still saving is not disturbed.

    Args:
        retention: which of them stay when another is saved; None for all.
    """

    def __init__(self, workdir: Path, retention: Retention | None = None):
        self._folder = (workdir / "checkpoints").absolute()
        self._retention = retention
        self._last: int | None = None

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

    def restore(self, like: Any) -> tuple[Any, int]:
        """(state, number of the next batch) of the newest checkpoint; see `Saved.restore`."""
        saved = self.newest()
        return saved.restore(like), saved.manifest.next_batch

    # -------------------------------------------------------------------------------------- saving

    def save(
        self,
        step: int,
        state: Any,
        next_batch: int,
        config: dict,
        bad_records: Mapping[str, list[int]] | None = None,
        scores: Scores | None = None,
    ) -> None:
        """Starts saving; returns as soon as the arrays are copied and their checksums known.

        With several processes, all have to call it. A full disk is an OSError, here or in `wait`.

        Args:
            state: a tree of jax.Arrays.
            bad_records: {source: samples skipped so far}.
            scores: {"eval/<evaluator>/<metric>": value} of these weights.
        """
        if step == self._last:
            return
        self.wait()  # so that an error in the last save is not told of this step
        about = Manifest(
            step=step,
            next_batch=next_batch,
            bad_records=dict(bad_records or {}),
            config=config,
            scores=dict(scores or {}),
            leaves=leaves_of(state),
            empty=empty_dicts(state),
        )
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(arrays.flatten(state)),
            manifest=ocp.args.JsonSave(about.to_json()),
        )
        with _saving(self._folder / str(step)):
            self._scores[step] = about.scores
            self._manager.save(step, args=items, force=True)
        self._last = step

    def wait(self) -> None:
        """Waits until every save is on the disk."""
        if self._last is not None:
            with _saving(self._folder / str(self._last)):
                self._manager.wait_until_finished()

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            cleanup_tmp_directories=True, preservation_policy=_Policy(self._retention, self._scores)
        )
        items = {"state": arrays.handler(), "manifest": ocp.JsonCheckpointHandler()}
        return ocp.CheckpointManager(self._folder, options=options, item_handlers=items)

    @functools.cached_property
    def _scores(self) -> dict[int, Scores]:
        """{step: scores} of the checkpoints whose manifest is intact."""
        scores = {}
        for step in self.steps():
            with contextlib.suppress(DamagedError):
                scores[step] = self.at(step).manifest.scores
        return scores


class _Policy:
    """What Orbax asks, while it saves, about checkpoints to delete. `scores` is {step: scores}."""

    def __init__(self, retention: Retention | None, scores: Mapping[int, Scores]):
        self._retention, self._scores = retention, scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether each of the checkpoints stays."""
        if self._retention is None:
            return [True] * len(checkpoints)
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = self._retention.reasons({step: self._scores.get(step, {}) for step in steps})
        return [bool(kept[step]) for step in steps]


@contextlib.contextmanager
def _saving(path: Path) -> Iterator[None]:
    """Turns any error of Orbax and tensorstore into an OSError with the path and the way out."""
    try:
        yield
    except Exception as error:
        raise OSError(
            f"{path}: checkpoint cannot be saved ({first_line(error)}); free space on that disk, "
            "then run the same command again"
        ) from error


def load(workdir: Path) -> tuple[dict, int, Params, Carry]:
    """(config, step, params, carry) of the newest checkpoint of a workdir, as numpy arrays.

    Raises ValueError where there is none, DamagedError where it is not what was saved.
    """
    saved = Checkpoints(workdir).newest()
    state = saved.arrays("params/", "carry/")
    return saved.manifest.config, saved.step, state["params"], state.get("carry", {})
