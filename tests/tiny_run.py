"""The smallest run of the real thing: MAE of one block on a tiny store, a few seconds on
two cores.
"""

from __future__ import annotations

from pathlib import Path

import golden_text

CONFIG = "configs/mae_demo.py:smoke"
STEPS, SAVE_EVERY = 30, 5
SMALL = {
    "data.crop": 16,
    "data.batch_size": 4,
    "augment.crops.global.size": 16,
    "objective.decoder_width": 32,
    "objective.decoder_heads": 2,
    "optim.lr": 1e-3,
    "run.steps": STEPS,
    "run.save_every": SAVE_EVERY,
    "run.log_every": 1,
}


def config_of(store: Path, **values) -> dict:
    """The config, with more values overridden: {"optim.lr": 1}."""
    config = golden_text.load("mae_demo")["get_config"]("smoke")
    config.data.sources.enmap.store = str(store)
    config.update_from_flattened_dict(SMALL | values)
    return config.to_dict()


def arguments(store: Path, workdir: Path) -> list[str]:
    """The same as arguments of `python -m eo_jax.train`."""
    return [
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        f"--config.data.sources.enmap.store={store}",
        *overrides(),
    ]


def overrides() -> list[str]:
    """What makes it small, as arguments."""

    def path(key):
        return key.replace(".global.", '["global"].')

    return [f"--config.{path(key)}={value}" for key, value in SMALL.items()]
