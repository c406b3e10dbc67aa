"""Tests of `eo_jax.exchange`: every layout in both directions, and what a file may not be."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from exchanged import ENCODERS, SIZE, to_ours, to_torch, weighted

from eo_jax.exchange.bounds import check_bounds
from eo_jax.exchange.contract import architecture_of
from eo_jax.exchange.layout import section
from eo_jax.exchange.layouts import LAYOUTS


def test_every_layout_has_an_encoder_here_and_a_row_in_the_guide():
    assert ENCODERS.keys() == LAYOUTS.keys()
    guide = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
    section = guide.partition("## Layouts\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section, re.MULTILINE)
    assert set(re.findall(r"\w+", " ".join(rows))) == LAYOUTS.keys()


def test_the_guide_says_of_every_layout_which_releases_have_it():
    guide = (Path(__file__).parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
    table = guide.partition("| release | files | `--layout` |\n")[2].partition("\n\n")[0]
    named = {
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[3])
    }
    assert named == LAYOUTS.keys()


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "spec_resnet" else [])
        for name in LAYOUTS
    ],
)
def test_weights_come_back_bit_for_bit_within_the_bounds_of_a_contract(layout):
    encoder, params, statistics = weighted(layout)
    exported = to_torch(encoder, params, statistics, SIZE, layout)
    contract = {
        "architecture": architecture_of(encoder, SIZE),
        "stem": section(encoder.stem),
        "trunk": section(encoder.trunk),
        "mean": [0.0] * len(encoder.sensor.bands),
        "image_size": SIZE,
    }
    check_bounds(contract, exported, layout)
    back = to_ours(encoder, exported, SIZE, layout)
    jax.tree.map(np.testing.assert_array_equal, back, (params, statistics))
    again = to_torch(encoder, *back, SIZE, layout)
    assert again.keys() == exported.keys()
    for key, tensor in exported.items():
        np.testing.assert_array_equal(again[key], tensor)
