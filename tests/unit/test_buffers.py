"""A buffer is reused as soon as nobody has it and never before, with JAX's aliases and steps."""

from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eo_jax.data.store.buffers import BufferPool, Scratch


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def pool(size: int = 1024, max_free: int = 4) -> BufferPool:
    return BufferPool((2, size), np.int16, max_free)


def filled(pool: BufferPool, value: int) -> np.ndarray:
    array = pool.take()
    array[:] = value
    return array


def wait_until(reached) -> bool:
    """Whether it is reached within 2 s: JAX releases arrays with a delay."""
    for _ in range(200):
        if reached():
            return True
        gc.collect()
        time.sleep(0.01)
    return False


# ----------------------------------------------------------------------------------------- the pool


def test_an_array_is_as_asked_for_writable_and_aligned():
    for array in [pool().take() for _ in range(8)]:
        assert (
            (array.shape, array.dtype) == ((2, 1024), np.int16)
            and array.flags.writeable
            and array.flags.c_contiguous
        )
        assert address(array) % 64 == 0


def test_a_buffer_is_used_again_when_its_array_is_gone():
    buffers = pool()
    first = address(buffers.take())
    assert [address(buffers.take()) for _ in range(5)] == [first] * 5


def test_an_empty_pool_allocates():
    buffers = pool(max_free=1)
    held = [filled(buffers, value) for value in range(10)]
    assert len({address(array) for array in held}) == 10
    assert all((array == value).all() for value, array in enumerate(held))


VIEWS = {
    "row": lambda array: array[1],
    "view of a view": lambda array: array[1:][:, 5:].reshape(-1)[3:],
    "other type": lambda array: array.view(np.uint8)[..., 7:],
    "broadcast": lambda array: np.broadcast_to(array, (3, 2, 1024)),
    "memoryview": lambda array: memoryview(array)[1:],
    "array of a memoryview": lambda array: np.asarray(memoryview(array)),
    "dlpack": lambda array: np.from_dlpack(array),
    "jax": lambda array: jax.device_put(array),
    "jax through dlpack": lambda array: jnp.from_dlpack(array),
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_alone_keeps_the_buffer_from_being_used_again(view: str):
    buffers = pool()
    kept = VIEWS[view](filled(buffers, 7))
    before = np.array(kept)
    others = [filled(buffers, value) for value in (1, 2, 3)]
    np.testing.assert_array_equal(np.array(kept), before)
    del others, kept
    assert wait_until(lambda: len(buffers._free) == 4)


def test_a_torch_tensor_alone_keeps_the_buffer():
    torch = pytest.importorskip("torch")
    buffers = pool()
    kept = torch.from_numpy(filled(buffers, 7))[1]
    assert (filled(buffers, 1) == 1).all() and (kept == 7).all()


def test_at_most_max_free_buffers_are_kept():
    buffers = pool(max_free=2)
    held = [buffers.take() for _ in range(6)]
    del held
    assert len(buffers._free) == 2


def test_threads_never_share_a_buffer():
    buffers = pool(max_free=3)

    def work(value: int) -> bool:
        for _ in range(300):
            array = filled(buffers, value)
            time.sleep(0)
            if not (array == value).all():
                return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(4)))
    assert len(buffers._free) == 3


# ---------------------------------------------------------------------------------------------- jax


def test_jax_takes_the_buffer_as_it_is_and_gives_it_back():
    """The reason for the alignment; without an alias, the tests below would prove nothing."""
    buffers = pool()
    array = filled(buffers, 7)
    where, placed = address(array), jax.device_put(array)
    assert placed.unsafe_buffer_pointer() == where
    del array
    assert address(filled(buffers, 1)) != where and (placed == 7).all()
    del placed
    assert wait_until(lambda: where in {address(free) for free in buffers._free})


def test_a_step_under_way_reads_what_it_was_given():
    """The caller drops its batch at once, while the device has hardly started."""
    buffers = BufferPool((512, 512), np.float32, 4)
    step = jax.jit(lambda x: jax.lax.fori_loop(0, 30, lambda _, y: x @ y / 512, x))
    step(jnp.ones((512, 512))).block_until_ready()
    results = []
    for value in range(1, 6):
        results.append(step(jax.device_put(filled(buffers, value)))[0, 0])
        filled(buffers, -1000)
    np.testing.assert_allclose(results, [float(value) ** 31 for value in range(1, 6)], rtol=1e-4)


def test_batches_cut_over_eight_devices_stay_as_they_were(eight_devices):
    assert eight_devices("held_batches") == {"aliased": True, "same": True, "buffers_bounded": True}


# ------------------------------------------------------------------------------------------ scratch


def test_scratch_grows_and_is_of_its_thread_alone():
    scratch = Scratch()
    small, large = scratch.take(10), scratch.take(1000)
    assert (len(small), len(large), len(scratch.take(5))) == (10, 1000, 5)
    assert address(scratch.take(5)) == address(large)
    with ThreadPoolExecutor(1) as thread:
        assert address(thread.submit(scratch.take, 5).result()) != address(large)
