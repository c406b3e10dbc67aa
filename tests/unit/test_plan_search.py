"""The largest batch and the least recomputation, with a compiler that is a formula."""

from __future__ import annotations

import pytest

from eo_jax.plan import search


class Compiler:
    def __init__(self, bytes_of):
        self.bytes_of, self.asked = bytes_of, []

    def __call__(self, batch):
        self.asked.append(batch)
        return self.bytes_of(batch)


def largest(compiler, *, slope, limit=1000.0, compiles=4, start=8):
    known = {start: compiler.bytes_of(start)}
    return search.largest_batch(known, slope, limit, 8, compiler, compiles)


def test_a_right_slope_needs_one_compilation_to_be_sure():
    compiler = Compiler(lambda batch: 100 + 5 * batch)
    found = largest(compiler, slope=5)
    assert found == search.Largest(176, 980, True)
    assert compiler.asked == [176]


@pytest.mark.parametrize("slope", [2.5, 10.0])
def test_a_wrong_slope_is_corrected_by_what_was_compiled(slope):
    compiler = Compiler(lambda batch: 100 + 5 * batch)
    found = largest(compiler, slope=slope)
    assert found == search.Largest(176, 980, True)
    assert len(compiler.asked) <= 2


def test_bytes_that_jump_still_end_below_the_limit():
    compiler = Compiler(lambda batch: 100 + 5 * batch + (200 if batch > 100 else 0))
    found = largest(compiler, slope=5, compiles=6)
    assert found.batch % 8 == 0 and found.verified
    assert compiler.bytes_of(found.batch) <= 1000


def test_without_compilations_it_is_a_prediction():
    compiler = Compiler(lambda batch: 100 + 5 * batch)
    assert largest(compiler, slope=5, compiles=0) == search.Largest(176, 980, False)
    assert not compiler.asked


def test_nothing_fits():
    compiler = Compiler(lambda batch: 2000 + 5 * batch)
    assert largest(compiler, slope=5).batch == 0


def test_the_least_recomputation_that_fits():
    bytes_of = {"none": 30.0, "cheap": 20.0, "block": 10.0}
    assert search.least_remat(bytes_of, 25.0) == "cheap"
    assert search.least_remat(bytes_of, 40.0) == "none"
    assert search.least_remat(bytes_of, 5.0) == ""
    assert search.least_remat({"none": 30.0, "block": 10.0}, 25.0) == "block"
