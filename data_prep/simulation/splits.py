"""Which simulated locations are held out; that does not depend on how many there are."""

from __future__ import annotations

from data_prep.simulation.acquisition import SPLIT, stream

HELD_OUT_EVERY = 5  # one in this many locations is for validation


def is_validation(seed: int, index: int) -> bool:
    """Whether a location is for validation.

    One in every HELD_OUT_EVERY is, however many locations there are, and exactly one of the first
    two.
    """
    return _place_in_block(seed, index) == 0


def split_of(seed: int, index: int) -> str:
    """ "train", "val" or "test", for archives with all three: one in HELD_OUT_EVERY locations each
    for validation and test, both among the first five.
    """
    return {0: "val", 1: "test"}.get(_place_in_block(seed, index), "train")


def _place_in_block(seed: int, index: int) -> int:
    """Position in its block of HELD_OUT_EVERY locations, counted from the one for validation."""
    block, position = divmod(index, HELD_OUT_EVERY)
    drawn = stream(seed, SPLIT, block).integers(2 if block == 0 else HELD_OUT_EVERY)
    return int((position - drawn) % HELD_OUT_EVERY)
