"""A toy run of two components: "pair", a source with its paired source, and "single", another one.

"pair" has two dates; a record of "single" may be bad. As a command it trains until a step and then
kills itself, while the next batches are read and a checkpoint is saved:

    python tests/mixed_run.py CONFIG.json WORKDIR KILL_AT
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import pytest
import tiny_run
from toy_objective import Toy

from eo_jax import doctor, train
from eo_jax.config import parse_section
from eo_jax.experiment import Experiment, make_experiment
from eo_jax.monitor import writers

SAVE_EVERY = 6


class Mixed(Toy):
    """The toy on the mean over the sources of a batch, with one encoder for all."""

    def encoders(self, params, carry):
        return {"s2": {"source": "s2", "params": params, "statistics": {}}}

    def loss(self, params, carry, views, key, progress):
        shown = [view for name, view in sorted(views.items()) if name.endswith("/global")]
        return super().loss(
            params, carry, {"enmap/global": jnp.stack(shown).mean(0)}, key, progress
        )


def config_of(store: Path, paired: Path, single: Path, **values) -> dict:
    """The config of the run; `values` as in `tiny_run.config_of`."""
    small = {
        "run.steps": 20,
        "run.save_every": SAVE_EVERY,
        "data.threads": 3,
        "data.prefetch": 2,
        "sharding.rules": ((".*", ()),),
    }
    config = tiny_run.config_of(store, **small | values) | {"evals": {}}
    source = config["data"]["sources"]["enmap"] | {"dates": 2}
    sources = {
        "s2": source,
        "s1": source | {"store": str(paired), "paired_with": "s2"},
        "x": source | {"store": str(single), "dates": 1},
    }
    components = {
        "pair": {"sources": ("s1", "s2"), "weight": 2.0},
        "single": {"sources": ("x",), "weight": 1.0},
    }
    config["data"] |= {"sources": sources, "mixture": components}
    return config


@contextlib.contextmanager
def training_the_mixture() -> Iterator[None]:
    """Every config trains `Mixed`; signal handlers are restored."""
    inner, handler = make_experiment, signal.getsignal(signal.SIGTERM)

    def experiment(config: dict) -> Experiment:
        data = parse_section(config, "data")
        made = inner(
            config
            | {
                "data": config["data"]
                | {"sources": {"enmap": config["data"]["sources"]["s2"]}, "mixture": {}}
            }
        )
        return dataclasses.replace(
            made,
            data=data,
            objective=Mixed(202),
            encoders=dict.fromkeys(data.sources, made.encoders["enmap"]),
        )

    with pytest.MonkeyPatch.context() as patch:
        for command in (train, doctor):
            patch.setattr(command, "make_experiment", experiment)
        yield
    signal.signal(signal.SIGTERM, handler)


def main(config: Path, workdir: Path, kill_at: int) -> None:
    write = writers.Writer.write

    def killing(writer: writers.Writer, step: int, values: dict) -> None:
        write(writer, step, values)
        while step == kill_at:
            # There is a checkpoint to resume from.
            if any(path.name.isdigit() for path in workdir.glob("checkpoints/*")):
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.01)

    writers.Writer.write = killing
    with training_the_mixture():
        train.train(json.loads(config.read_text()), workdir)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
