"""What the times of a plan are of: the config where it fits, else the first settings that do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from eo_jax.plan import planning, search
from eo_jax.plan.planning import Choice

ASKED, LEAST = Choice(64, "cheap", 120.0, True), Choice(64, "block", 90.0, True)


class Bench:
    """Compiles what fits into 100 bytes: 1 per sample, 30 more with remat "cheap"."""

    target = SimpleNamespace(limit=100.0)
    first = SimpleNamespace(smallest=8, mesh=SimpleNamespace(shape={"fsdp": 2}))

    def __init__(self, *compiled, fixed=0.0):
        self.programs, self.fixed = {choice: f"program {choice}" for choice in compiled}, fixed

    def measure(self, batch, remat):
        size = self.fixed + batch + (30 if remat == "cheap" else 0)
        if size <= 100:
            self.programs[batch, remat] = SimpleNamespace(memory=SimpleNamespace(total=size))
        return size


def used(bench, asked, least, batch):
    return planning._used(bench, asked, least, search.Largest(batch, 99.0, False), "block")


def test_the_config_where_it_fits():
    fits = Choice(64, "cheap", 94.0, True)
    bench = Bench((64, "cheap"))
    assert used(bench, fits, fits, 70) == (fits, "program (64, 'cheap')")


def test_not_a_program_that_is_too_large():
    """A compiler for CPU devices makes one all the same."""
    bench = Bench((64, "cheap"), (64, "block"))
    assert used(bench, ASKED, LEAST, 96)[0] == LEAST


def test_what_is_only_predicted_is_compiled():
    choice, program = used(Bench((64, "cheap")), ASKED, None, 88)
    assert (choice.batch, choice.remat, choice.bytes) == (88, "block", 88)
    assert program.memory.total == 88


def test_at_least_the_smallest_batch():
    choice, _ = used(Bench(), ASKED, None, 0)
    assert (choice.batch, choice.verified) == (8, True)


def test_nothing_fits():
    with pytest.raises(ValueError, match=r"fsdp: 2; not even one sample per device fits"):
        used(Bench(fixed=200.0), ASKED, None, 0)
