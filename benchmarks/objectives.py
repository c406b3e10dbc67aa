"""Measures what every objective has to hold, each cell in this run: parity with the papers' losses, eight devices against one, resume, learning.

    python -m benchmarks.objectives --fast
    python -m benchmarks.objectives --objectives mae,simclr --step-json /tmp/step.json --json /tmp/objectives.json

Run it on the CPU from a checkout, with the extra `test`: the measurements are those of `tests/`, whose tests assert the same limits.

Loss and gradient: largest deviation from the numpy references, in float64, over the inputs of `tests/test_losses.py`, relative to the largest value;
both are of the objective, whatever the backbone. 8 devices: largest relative difference of three losses from those on one device. Resume: whether
every array is equal to the bit after a checkpoint in between. Learns: points of accuracy of a linear probe after 200 steps over the untrained
encoder / over band means and standard deviations, the smallest of three seeds (`tests/learning.py`; minutes an objective, `--fast` leaves it out).
Speed is that of `python -m benchmarks.step --json`, whose file `--step-json` names, and its ratio to the PyTorch twin that runs as it is. '-' is what
does not exist, was left out, or was not measured there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eo_jax.data.stores import write_atomically

TESTS = Path(__file__).parents[1] / "tests"
# {column: (title, the limit in words, whether a figure is within)}
LIMITS = {
    "loss": ("loss", "<= 1e-05", lambda x: x <= 1e-5),
    "gradient": ("gradient", "<= 0.0001", lambda x: x <= 1e-4),
    "eight_devices": ("8 devices", "< 2e-05", lambda x: x < 2e-5),
    "resume": ("resume", "bit-exact", lambda x: x),
    "over_untrained": ("over untrained", ">= 3 points", lambda x: x >= 3),
    "over_moments": ("over mean + std", ">= 3 points", lambda x: x >= 3),
}
