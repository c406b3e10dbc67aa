"""Tests of `eo_jax.augment.masking.random_blocks`, data2vec's block-wise masking (Bao et al. 2022,
algorithm 1).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eo_jax.augment.masking import hidden_count, random_blocks

draw = jax.jit(random_blocks, static_argnums=(2, 3, 4))
SIDE = 14
EVERYWHERE = jnp.ones((200, SIDE * SIDE), bool)


def masks(hidden: int, has_data: jax.Array = EVERYWHERE, seed: int = 0) -> np.ndarray:
    return np.asarray(draw(jax.random.key(seed), has_data, SIDE, SIDE, hidden)).reshape(
        -1, SIDE, SIDE
    )


def neighbours(masked: np.ndarray) -> float:
    """Mean number of pairs of hidden tokens side by side."""
    return float(
        (
            (masked[:, 1:] & masked[:, :-1]).sum((1, 2))
            + (masked[:, :, 1:] & masked[:, :, :-1]).sum((1, 2))
        ).mean()
    )


@pytest.mark.parametrize("hidden", [1, 16, 120, 195])
def test_the_number_hidden_is_the_same_in_every_sample(hidden):
    assert (masks(hidden).sum((1, 2)) == hidden).all()


def test_data2vec_hides_120_of_196():
    assert hidden_count(196, 120 / 196) == 120


def test_hidden_tokens_lie_together():
    """As many at random would have a share of 120/196 x 119/195 of all 364 pairs hidden on both
    sides.
    """
    assert neighbours(masks(120)) > 1.15 * 364 * 120 / 196 * 119 / 195


def test_a_block_has_at_least_16_tokens_and_no_side_beyond_the_aspect_ratio():
    """Of 16 to hide, nearly all lie in one rectangle of 16: at most 7 long, since sqrt(16 / 0.3) is
    7.3.
    """
    for masked in masks(16):
        windows = np.lib.stride_tricks.sliding_window_view(masked, (8, 8)).sum((2, 3))
        assert windows.max() >= 12
    sides = np.array(
        [[np.ptp(np.flatnonzero(masked.any(axis))) + 1 for axis in (0, 1)] for masked in masks(16)]
    )
    assert (sides[:, 0] > sides[:, 1]).mean() == pytest.approx(
        0.5, abs=0.15
    )  # as often wide as high


def test_blocks_are_anywhere_and_differ_from_sample_to_sample():
    found = masks(60)
    assert len(np.unique(found.reshape(len(found), -1), axis=0)) == len(found)
    share = found.mean(0)  # corners are hidden least often, as where a block begins is drawn evenly
    assert share.min() > 0 and share.max() < 0.9
    assert max(np.abs(share - share[::-1]).max(), np.abs(share - share[:, ::-1]).max()) < 0.2


@pytest.mark.parametrize("without", [30, 120, 170])
def test_tokens_without_data_are_hidden_first(without):
    has_data = np.ones((50, SIDE * SIDE), bool)
    for row, empty in zip(
        has_data,
        np.random.default_rng(0).permuted(np.tile(np.arange(SIDE * SIDE), (50, 1)), axis=1)[
            :, :without
        ],
        strict=True,
    ):
        row[empty] = False
    masked = masks(120, jnp.asarray(has_data)).reshape(50, -1)
    assert (masked.sum(1) == 120).all()
    assert ((masked & ~has_data).sum(1) == min(without, 120)).all()
