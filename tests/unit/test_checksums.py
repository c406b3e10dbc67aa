"""The checksum of an array is that of its parts, and changes with every bit."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from eo_jax.checkpoint.checksums import of_array, of_leaves, of_part

RNG = np.random.default_rng(0)


def array_of(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(RNG.normal(size=shape) * 100).astype(jnp.dtype(dtype))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "int8", "bool", "uint32"])
@pytest.mark.parametrize(
    "cuts", [(2, 1, 1), (1, 2, 1), (1, 1, 4), (2, 3, 1), (1, 3, 2), (4, 1, 2), (2, 3, 4)]
)
def test_parts_add_up_to_the_whole_however_it_is_cut(dtype, cuts):
    whole = array_of(dtype, (4, 6, 8))
    sizes = [size // cut for size, cut in zip(whole.shape, cuts, strict=True)]
    total = 0
    for index in np.ndindex(*cuts):
        start = [n * size for n, size in zip(index, sizes, strict=True)]
        slices = tuple(slice(at, at + size) for at, size in zip(start, sizes, strict=True))
        total += of_part(whole[slices], start, whole.shape)
    assert total % 2**32 == of_array(whole)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "int8", "bool"])
def test_every_single_bit_counts(dtype):
    array = array_of(dtype, (3, 5))
    sums = {of_array(array)}
    for bit in range(array.nbytes * 8):
        damaged = bytearray(array.tobytes())
        damaged[bit // 8] ^= 1 << bit % 8
        sums.add(of_array(np.frombuffer(damaged, array.dtype).reshape(array.shape)))
    assert len(sums) == array.nbytes * 8 + 1


def test_exchanged_rows_and_two_flipped_signs_are_seen():
    """Sums without a hash of each word would miss these."""
    array = array_of("float32", (64, 32))
    exchanged, negated = array[::-1], array.copy()
    negated[3:5, 7:9] *= -1
    assert len({of_array(array), of_array(exchanged), of_array(negated)}) == 3


def test_blocks_larger_than_the_cache_are_no_seam():
    array = array_of("float32", (3, 1 << 16))
    halves = array[:, : 1 << 15], array[:, 1 << 15 :]
    parts = [of_part(half, (0, k << 15), array.shape) for k, half in enumerate(halves)]
    assert sum(parts) % 2**32 == of_array(array) == of_array(array.reshape(-1))


def test_leaves_on_a_device_have_the_checksums_of_their_arrays():
    leaves = {"scalar": jnp.int32(5), "empty": jnp.zeros((0, 3)), "moment": jnp.ones(7, "bfloat16")}
    expected = {name: of_array(np.asarray(leaf)) for name, leaf in leaves.items()}
    assert of_leaves(leaves) == expected and expected["empty"] == 0
