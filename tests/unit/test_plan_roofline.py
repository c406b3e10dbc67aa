"""Times of a step from FLOP, bytes and exchanges, on chips with round numbers."""

from __future__ import annotations

import dataclasses

import pytest

from eo_jax.plan import roofline
from eo_jax.plan.collectives import Collective
from eo_jax.plan.costs import Cost
from eo_jax.plan.roofline import StepTime
from eo_jax.plan.topologies import Chip, Topology

CHIP = Chip("TPU", "tpu", 1e10, 1e14, 1e12, 1e11, 1e10, 4, axes=2, wraps=4)
TORUS = Topology("t:4x4", CHIP, (4, 4), 1)
NODES = Topology("g:4x2", dataclasses.replace(CHIP, platform="gpu", axes=0, wraps=0), (4,), 2)


def exchange(kind, members, size=8_000_000, times=1):
    return Collective(kind, "f32", (size // 4,), size, tuple(members), times, times != 1, "")


@pytest.mark.parametrize(
    ("kind", "moved"),
    [
        ("all-gather", 3 / 4),
        ("reduce-scatter", 3 / 4),
        ("all-to-all", 3 / 4),
        ("all-reduce", 3 / 2),
        ("collective-permute", 1),
    ],
)
def test_bytes_that_leave_a_device_on_a_ring(kind, moved):
    links, network = roofline.exchange_seconds(exchange(kind, range(4)), TORUS)
    assert network == 0
    assert links == pytest.approx(moved * 8e6 / 2e11)  # both ways of one axis


def test_a_group_that_spans_two_axes_has_their_links_and_an_open_axis_half():
    whole = exchange("all-gather", range(16))
    assert roofline.exchange_seconds(whole, TORUS)[0] == pytest.approx(15 / 16 * 8e6 / 4e11)
    cut = dataclasses.replace(TORUS, shape=(2, 2))
    some = exchange("all-gather", range(2))
    assert roofline.exchange_seconds(some, cut)[0] == pytest.approx(1 / 2 * 8e6 / 1e11)


def test_between_nodes_each_device_carries_its_part():
    links, network = roofline.exchange_seconds(exchange("all-reduce", range(8)), NODES)
    assert links == pytest.approx(2 * 3 / 4 * 8e6 / 1e11)
    assert network == pytest.approx(2 * 1 / 2 * (8e6 / 4) / 1e10)
    across = exchange("all-reduce", (0, 4))
    assert roofline.exchange_seconds(across, NODES) == pytest.approx((0, 8e6 / 1e10))


def test_turns_of_a_loop_count_and_unknown_ones_as_one():
    once, _ = roofline.exchange_seconds(exchange("all-gather", range(4)), TORUS)
    many, _ = roofline.exchange_seconds(exchange("all-gather", range(4), times=24), TORUS)
    unknown, _ = roofline.exchange_seconds(exchange("all-gather", range(4), times=None), TORUS)
    assert many == pytest.approx(24 * once) and unknown == once


def test_the_slower_of_products_and_memory_counts_and_exchanges_come_on_top():
    cost = Cost(flops=1e12, bytes=9e12, main_bytes=8e9)
    time = roofline.step_time(cost, [exchange("all-gather", range(4))], TORUS)
    assert (time.products, time.memory) == (0.01, 0.008)
    assert time.device == pytest.approx(0.01 / roofline.PRODUCTS)
    assert time.likely == pytest.approx(time.device + time.links / roofline.RATES)
    assert time.best == 0.01 and time.bound_by == "products"


def test_more_slices_add_their_mean_gradient():
    one = StepTime(0.01, 0.008, 0.0, 0.0)
    four = roofline.with_slices(one, 16e9, TORUS.with_slices(4))
    assert four.network == pytest.approx(2 * 3 / 4 * 1e9 / 1e10)
    assert roofline.with_slices(one, 16e9, TORUS) == one
