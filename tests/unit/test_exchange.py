"""Tests of `eo_jax.exchange`: every layout in both directions, and what a file may not be."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from exchanged import ENCODERS, SIZE, to_ours, to_torch, weighted

from eo_jax.exchange.layouts import LAYOUTS


def test_every_layout_has_an_encoder_here():
    assert ENCODERS.keys() == LAYOUTS.keys()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_come_back_bit_for_bit(layout):
    encoder, params, statistics = weighted(layout)
    exported = to_torch(encoder, params, statistics, SIZE, layout)
    back = to_ours(encoder, exported, SIZE, layout)
    jax.tree.map(np.testing.assert_array_equal, back, (params, statistics))
    again = to_torch(encoder, *back, SIZE, layout)
    assert again.keys() == exported.keys()
    for key, tensor in exported.items():
        np.testing.assert_array_equal(again[key], tensor)
