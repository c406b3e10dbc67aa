"""Values are read out of pickles as pickle would load them, and nothing in a pickle runs."""

from __future__ import annotations

import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.formats.pickled import MAX_BYTES, Opaque, integers, read_dict


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


PLAIN = {
    "label": 7,
    "large": 2**70,
    "negative": -3,
    "number": 0.25,
    "text": "Grün",
    "bytes": b"\x00\xff",
    "none": None,
    "yes": True,
    "pair": (1, "a"),
    "four": (1, 2, 3, 4),
    "list": [1, [2, 3], {}],
    "deeper": {"a": {"b": [()]}},
}


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_those_that_pickle_loads(protocol):
    assert read_dict(pickle.dumps(PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize(
    "label",
    [
        *(3, [0, 1, 1], np.int64(5), np.uint8(200), np.array([0, 1, 0]), np.array([1.0, 0.0])),
        *(np.array([1, 0], ">i2"), [np.int64(1), np.int32(0)], np.array(4)),
        np.array([True, False]),
    ],
)
@pytest.mark.parametrize("protocol", [3, 4])
def test_whole_numbers_are_read_in_every_form(label, protocol):
    found = integers(read_dict(pickle.dumps({"label": label}, protocol))["label"])
    np.testing.assert_array_equal(found, label)
    assert found.dtype == np.int64


def test_nothing_of_a_pickle_runs_or_is_imported(tmp_path):
    data = pickle.dumps({"label": 3, "bomb": Touch(tmp_path / "executed")})
    before = set(sys.modules)
    found = read_dict(data)
    assert found["label"] == 3 and isinstance(found["bomb"], Opaque)
    missing = b"\x80\x04}(\x8c\x05label\x8c\x0bno_such_mod\x8c\x01f\x93)Ru."
    assert isinstance(read_dict(missing)["label"], Opaque)
    assert set(sys.modules) == before and not (tmp_path / "executed").exists()
    with pytest.raises(ValueError, match="not a number"):
        integers(found["bomb"])


def text(length: int) -> bytes:
    return b"X" + struct.pack("<I", length)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "pickle exhausted"),
        (b"\x80\x04.", "not one value"),
        (b"\x80\x04K\x01.", "not a dict"),
        (b"\x80\x04}K\x01K\x02s.", "keys that are not text"),
        (b"\x80\x04}(u(.", "not one value"),
        (b"\x80\x04}e.", "plain values"),
        (b"\x80\x04h\x05.", "plain values"),
        (b"\x80\x04" + text(2**31) + b"abc.", "expected 2147483648 bytes"),
        (b"\x80\x04Pid\n.", "PERSID"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"cos\nsystem\n(S'true'\ntR.", "not a dict"),
        (b"\x80\x04" + b"(" * 1000 + b".", "not one value"),
        (b"\x80\x04" + b")\x85" * (MAX_BYTES // 2), "at most"),
    ],
)
def test_damage_is_an_error(data, words):
    with pytest.raises(ValueError, match=words):
        read_dict(data)


@pytest.mark.parametrize("value", ["3", 2.5, None, {}, [[1]], np.zeros((2, 2), int), [1, "a"]])
def test_other_labels_are_refused(value):
    with pytest.raises((ValueError, TypeError)):
        integers(read_dict(pickle.dumps({"label": value}))["label"])


def test_any_byte_may_be_wrong():
    """As in a damaged file: an error, or a dict, and nothing else."""
    data, rng = pickle.dumps(PLAIN | {"a": np.arange(3)}), np.random.default_rng(0)
    for _ in range(500):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] = rng.integers(256)
        try:
            assert isinstance(read_dict(bytes(damaged)), dict)
        except ValueError:
            continue
