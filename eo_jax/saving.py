"""Saves the state of a run, on time and before an error ends it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from eo_jax import cli
from eo_jax.checkpoint import Checkpoints
from eo_jax.data.pipeline import Pipeline
from eo_jax.data.store.record import RecordError
from eo_jax.monitor.run_log import RunLog
from eo_jax.schema import TrainState


class Saving:
    """The saves of a run.

    Args:
        config: stored with each checkpoint, and since when it holds, see `Manifest.origin`.
        first: the step that the run started at, which is saved already unless it is 0.
        alone: whether the run has one process. Several agree on a step before they save because of
            an error; see `Peers.announce`.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        config: dict,
        pipeline: Pipeline,
        log: RunLog,
        first: int,
        origin: int,
        alone: bool,
    ):
        self._checkpoints, self._config, self._pipeline = checkpoints, config, pipeline
        self._log, self._first, self._origin, self._alone = log, first, origin, alone

    def save(self, step: int, state: TrainState, scores: Mapping[str, Any]) -> None:
        """Starts saving. Raises RecordError, when that is done, where too many records have been
        skipped by then.
        """
        bad = self._start(step, state, scores)
        try:
            self._pipeline.bad.check(bad)
        except RecordError as error:  # in every process
            with cli.noted(error):
                self._checkpoints.wait()
            raise

    @contextlib.contextmanager
    def before_errors(
        self, step: int, state: TrainState, scores: Mapping[str, Any]
    ) -> Iterator[None]:
        """Saves before an error of the block ends a run of one process, with the scores so far."""
        try:
            yield
        except (ValueError, OSError) as error:
            if step > self._first and self._alone:
                with cli.noted(error):
                    self._start(step, state, scores)
                    self._checkpoints.wait()
                    self._log.say(f"step {step}: state saved; the same command resumes from there")
            raise

    def _start(self, step: int, state: TrainState, scores: Mapping[str, Any]) -> dict:
        """Starts saving; returns the bad records so far."""
        self._log.flush()
        self._log.enter("checkpoint")
        bad = self._pipeline.skipped_before(step)  # batch `step` is not taken yet: a resume does
        self._checkpoints.save(step, state, self._config, bad, scores, self._origin)
        return bad
