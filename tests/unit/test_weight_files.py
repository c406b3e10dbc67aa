"""Files of weights that claim what they do not have, in each format: one line says what is wrong,
before much memory is taken.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from exported import IMAGE, exported, tiny_encoder
from safetensors.numpy import save_file

from eo_jax.exchange.contract import to_header
from eo_jax.exchange.reading import read_tensors
from eo_jax.exchange.sealing import sealed
from eo_jax.exchange.writing import write_safetensors
from eo_jax.load import load


def safetensors(path: Path, dtype: str, values: bytes) -> Path:
    row = {"dtype": dtype, "shape": [2], "data_offsets": [0, len(values)]}
    header = json.dumps({"w": row}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + values)
    return path


def test_half_precision_is_read_exactly(tmp_path):
    values = np.array([-1.5, 3.0], np.float32)
    upper = (values.view("<u4") >> 16).astype("<u2").tobytes()
    found = read_tensors(safetensors(tmp_path / "b.safetensors", "BF16", upper))["w"]
    np.testing.assert_array_equal(found, values, strict=True)
    half = values.astype("<f2")
    found = read_tensors(safetensors(tmp_path / "h.safetensors", "F16", half.tobytes()))["w"]
    np.testing.assert_array_equal(found, half, strict=True)


def test_a_type_that_numpy_lacks_is_refused_by_name(tmp_path):
    path = safetensors(tmp_path / "f8.safetensors", "F8_E4M3", b"12")
    with pytest.raises(ValueError, match=r"w has type F8_E4M3; expected .*float\(\)"):
        read_tensors(path)


def npy(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    """The header of an array."""
    buffer = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def npz(path: Path, member: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", member)


def damaged(path: Path) -> None:
    np.savez_compressed(path, w=np.random.default_rng(0).random(10_000))
    data = bytearray(path.read_bytes())
    data[200:260] = b"\xff" * 60
    path.write_bytes(data)


def of_strings(path: Path) -> None:
    np.savez(path, w=np.array(["a"]))


def bomb(path: Path) -> None:
    """A megabyte that says it is a terabyte."""
    npz(path, npy((2**18,)) + bytes(2**20))
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (2**32 - 2).to_bytes(4, "little")  # its unpacked size
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(npy((1,)) + bytes(4)), "zip"),
        (lambda path: npz(path, npy((10**11,))), r"claims shape \(100000000000,\)"),
        (lambda path: npz(path, npy((-1,)) + bytes(4)), r"claims shape \(-1,\)"),
        (lambda path: npz(path, b"\x93NUMPY"), ""),
        (damaged, ""),
        (of_strings, "has type <U1"),
        (bomb, r"unpack to 4,295 MB, at most 268 MB"),
    ],
)
def test_an_npz_that_is_not_what_it_claims_is_refused(tmp_path, write, message):
    write(tmp_path / "w.npz")
    with pytest.raises(ValueError, match=rf"w\.npz: not an NPZ .*{message}"):
        read_tensors(tmp_path / "w.npz")


def test_an_npz_gives_its_arrays(tmp_path):
    arrays = {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.int64(3)}
    np.savez_compressed(tmp_path / "w.npz", **arrays)
    found = read_tensors(tmp_path / "w.npz")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"w": "a", "b": "a", "gone": "a"}, r"a\.safetensors lacks gone"),
        ({"w": "a"}, r"a\.safetensors has, without the index saying so, b"),
        ({"w": "../a"}, r"names '\.\./a\.safetensors'"),
    ],
)
def test_an_index_that_is_not_that_of_its_files_is_refused(tmp_path, files, message):
    save_file({"w": np.ones(1), "b": np.ones(1)}, tmp_path / "a.safetensors")
    path = tmp_path / "m.safetensors.index.json"
    weight_map = {key: f"{name}.safetensors" for key, name in files.items()}
    path.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=message):
        read_tensors(path)


def test_an_index_that_names_a_tensor_twice_is_refused(tmp_path):
    path = tmp_path / "m.safetensors.index.json"
    path.write_text('{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}')
    with pytest.raises(ValueError, match="'w' is there twice"):
        read_tensors(path)


def changed(contract: dict, path: str, value: object) -> dict:
    *parents, name = path.split(".")
    inner = contract = json.loads(json.dumps(contract))
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    return contract


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 10**9),
        ("image_size", 0),
        ("architecture.tokens", 10**18),
        ("architecture.patch", 0),
        ("architecture", {}),
        ("trunk.depth", 10**9),
        ("trunk.registers", 1e9),
        ("stem.patch", -1),
        ("encoder", {}),
        ("std", [0.0] * 12),
        ("sensor.bands", []),
    ],
)
def test_a_contract_with_numbers_that_no_tensor_has_is_refused(tmp_path, field, value):
    tensors, contract = exported(tiny_encoder(), IMAGE)
    path = tmp_path / "crafted.safetensors"
    crafted = sealed(changed(contract, field, value), tensors)  # so that all checksums are right
    write_safetensors(path, tensors, to_header(crafted))
    with pytest.raises(ValueError, match=field.split(".")[-1]):
        load(path)
