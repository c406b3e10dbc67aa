"""Untrusted scenes in ENVI and .mat files: headers are enforced, and false claims are refused."""

from __future__ import annotations

import contextlib
import gzip
import resource
import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tiny_archives
from layouts import read_all, reject
from layouts.hsi_scene import BANDS_OF_OWN as BANDS
from layouts.hsi_scene import CUBE, own, save, save_7_3, write_envi
from scipy.io import savemat

from data_prep.archive import ArchiveError
from data_prep.formats import matfile

HSI = "hsi-scene"


def envi(tmp_path: Path, **fields: Any) -> dict[str, Any]:
    return own(tmp_path, **fields) | {"image": "scene.hdr"}


# ------------------------------------------------------------------ ENVI


@pytest.mark.parametrize("interleave", ["bsq", "bil", "bip"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_envi_interleave_and_byte_order(tmp_path: Path, interleave: str, order: str) -> None:
    write_envi(tmp_path / "a", CUBE.astype(f"{order}u2"), interleave)
    samples = read_all(HSI, tmp_path / "a", **envi(tmp_path), patch_size=10)
    np.testing.assert_array_equal(samples[0].pixels, CUBE[:, :10, :10])
    np.testing.assert_array_equal(samples[3].pixels, CUBE[:, 10:, 10:])


def test_envi_offset_and_comments(tmp_path: Path) -> None:
    path = write_envi(tmp_path / "a", header_offset=16, description="{two\nlines}")
    path.write_text(path.read_text().replace("ENVI\n", "ENVI\n; a comment\n\n", 1))
    path.with_suffix(".dat").write_bytes(bytes(16) + CUBE.tobytes())
    np.testing.assert_array_equal(read_all(HSI, path.parent, **envi(tmp_path))[0].pixels, CUBE)


NM = [400.0, 410.0, 420.0, 430.0, 440.0]


@pytest.mark.parametrize(
    ("fields", "wavelengths"),
    [
        ({"wavelength": "{400, 410,\n 420, 430, 440}", "wavelength_units": "Nanometers"}, NM),
        ({"wavelength": "{0.4, 0.41, 0.42, 0.43, 0.44}", "wavelength_units": "Micrometers"}, NM),
        (
            {
                "band_names": "{a (400 Nanometers), b (410 Nanometers), c (420 Nanometers), d (430 "
                "Nanometers), e (440 Nanometers)}"
            },
            NM,
        ),
        ({"band_names": "{a, b, c, d, e}"}, None),
        ({}, None),
    ],
)
def test_envi_wavelengths(tmp_path: Path, fields: dict, wavelengths: list[float] | None) -> None:
    write_envi(tmp_path / "a", **fields)
    for centres in (
        [None] * BANDS,
        NM,
    ):  # a table without wavelengths takes those of the file; a table with wavelengths must agree
        (sample,) = read_all(HSI, tmp_path / "a", **envi(tmp_path, centre_nm=centres))
        assert (
            sample.wavelengths_nm is None
            if wavelengths is None
            else sample.wavelengths_nm.tolist() == pytest.approx(wavelengths)
        )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"samples": 17}, ("2340 bytes", "2210")),
        ({"samples": 10**12}, ("its header needs",)),
        ({"samples": "18.5"}, ("samples is '18.5'",)),
        ({"lines": 0}, ("lines is '0'",)),
        ({"bands": None}, ("no field 'bands'",)),
        ({"bands": 4, "header_offset": 468}, ("4 bands, expected the 5",)),
        ({"header_offset": 1}, ("its header needs 2341",)),
        ({"header_offset": -1}, ("header offset",)),
        ({"data_type": 6}, ("data type is 6",)),
        ({"interleave": "bsx"}, ("'bsx'",)),
        ({"byte_order": 2}, ("byte order",)),
        ({"bbl": "{1, 0}"}, ("bbl has 2 values for 5 bands",)),
        ({"bbl": "{1, 0, 2, 1, 1}"}, ("bbl has values other than 0",)),
        ({"bbl": "{1, 0, 1, 1, 1}"}, ("bad-band list (bbl)", "band 1", "--drop-bad-bands")),
        ({"data_gain_values": "{1, 2, 1, 1, 1}"}, ("data gain value of band 2 is 2",)),
        ({"data_offset_values": "{0, 0, 0, 0, 5}"}, ("data offset value of band 5 is 5",)),
        ({"band_names": "{a, b}"}, ("2 band names for 5 bands",)),
        ({"acquisition_time": "yesterday"}, ("acquisition time is 'yesterday'", "ISO")),
        ({"file_compression": 1}, ("gzip",)),
        ({"data_ignore_value": 3}, ("data ignore value is 3", "None")),
        ({"data_ignore_value": "none"}, ("data ignore value is 'none'",)),
        ({"reflectance_scale_factor": 10000}, ("reflectance scale factor is 10000",)),
        ({"reflectance_scale_factor": 0}, ("reflectance scale factor is 0",)),
        ({"wavelength": "{1, 2, 3}"}, ("3 wavelengths for 5 bands",)),
        ({"wavelength": "{1, 2, 3, 4, x}"}, ("not a number",)),
        ({"wavelength": "{1, 2, 3, 4, 5}", "wavelength_units": "Wavenumber"}, ("'wavenumber'",)),
        ({"wavelength": "{1, 2, 3, 4, 5}"}, ("no unit",)),
        ({"wavelength": "{1, 2, 3, 4, nan}", "wavelength_units": "nm"}, ("not numbers",)),
        ({"description": "{never ends"}, ("'description'", "no closing brace")),
        ({"Samples ": 18}, ("second samples",)),
        ({"map_info": "{UTM, 1, 1, 3e5, 5e6, 30, 30, 33, Nörd}"}, ("map info", "ASCII")),
    ],
)
def test_invalid_envi_headers(tmp_path: Path, fields: dict, words: tuple[str, ...]) -> None:
    write_envi(tmp_path / "a", **fields)
    reject(HSI, tmp_path / "a", "scene.", *words, **envi(tmp_path))


def test_envi_wavelengths_of_another_sensor(tmp_path: Path) -> None:
    write_envi(
        tmp_path / "a", wavelength="{400, 410, 420, 440, 430}", wavelength_units="Nanometers"
    )
    reject(
        HSI,
        tmp_path / "a",
        "scene.hdr",
        "band 4 has 440 nm",
        "expected 430",
        **envi(tmp_path, centre_nm=NM),
    )


def test_envi_scale_and_no_data_of_the_table(tmp_path: Path) -> None:
    write_envi(tmp_path / "a", data_ignore_value=7, reflectance_scale_factor=10000)
    (sample,) = read_all(
        HSI, tmp_path / "a", **envi(tmp_path, nodata=7, scale=1e-4, units="reflectance")
    )
    np.testing.assert_array_equal(sample.pixels, CUBE)


def test_envi_without_its_pair(tmp_path: Path) -> None:
    path = write_envi(tmp_path / "a")
    path.with_suffix(".dat").rename(path.with_suffix(".raw"))
    assert len(read_all(HSI, path.parent, **envi(tmp_path))) == 1
    path.with_suffix(".bsq").touch()
    reject(HSI, path.parent, "scene.hdr", "scene.bsq and scene.raw", **envi(tmp_path))
    path.with_suffix(".bsq").unlink()
    path.with_suffix(".raw").unlink()
    reject(HSI, path.parent, "scene.hdr", "no data file", **envi(tmp_path))


def test_envi_bomb_is_unpacked_to_the_size_of_its_header_at_most(tmp_path: Path) -> None:
    path = write_envi(tmp_path / "a", file_compression=1)
    path.with_suffix(".dat").write_bytes(gzip.compress(bytes(200_000_000), 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reject(HSI, path.parent, "scene.dat", "2341 bytes", "needs 2340", **envi(tmp_path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    path.with_suffix(".dat").write_bytes(gzip.compress(CUBE.tobytes())[:-20])
    reject(HSI, path.parent, "scene.dat", "cannot be unpacked", **envi(tmp_path))


# ------------------------------------------------------------------ .mat files that are untrusted


def element(
    shape: tuple[int, ...], values: bytes, name: bytes = b"scene", claimed: int | None = None
) -> bytes:
    """A uint16 variable of MATLAB 5, which may claim more bytes than it has."""
    dims = struct.pack(f"<II{len(shape)}i", 5, 4 * len(shape), *shape) + bytes(-4 * len(shape) % 8)
    body = (
        struct.pack("<IIII", 6, 8, 11, 0)
        + dims
        + struct.pack("<II", 1, len(name))
        + name
        + bytes(-len(name) % 8)
    )
    body += struct.pack("<II", 4, len(values) if claimed is None else claimed) + values
    return struct.pack("<II", 14, len(body)) + body


def mat_5(path: Path, *elements: bytes) -> Path:
    """A file of compressed variables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = [zlib.compress(plain, 1) for plain in elements]
    path.write_bytes(
        b"MATLAB 5.0".ljust(124)
        + b"\0\1IM"
        + b"".join(struct.pack("<II", 15, len(one)) + one for one in packed)
    )
    return path


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ([element((4, 5, 6), bytes(240))], ("6 bands",)),
        ([element((40000, 40000, 5), bytes(8))], ("claims 8,000 MB",)),
        (
            [element((13, 18, 5), bytes(100_000_000), claimed=2**31)],
            ("its shape (13, 18, 5) needs 2340",),
        ),
        ([element((13, 18, 5), bytes(8), claimed=2**31)], ("its shape (13, 18, 5) needs 2340",)),
        ([element((13, 18, 5), bytes(2340), name=b"x" * 50_000)], ("cannot be read as .mat",)),
        ([], ("no numeric arrays",)),
    ],
    ids=["shape", "claims", "bomb", "lies", "name", "empty"],
)
def test_mat_5_with_false_claims(
    tmp_path: Path, elements: list[bytes], words: tuple[str, ...]
) -> None:
    path = mat_5(tmp_path / "a" / "scene.mat", *elements)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reject(HSI, path.parent, "scene.mat", *words, **own(tmp_path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_damaged_numbers_are_seen_by_their_checksum(tmp_path: Path) -> None:
    path = save(tmp_path / "a" / "scene.mat", scene=CUBE.transpose(1, 2, 0))
    for position in (-2, -700, -1500):
        data = bytearray(path.read_bytes())
        tiny_archives.flip(path, position)
        reject(HSI, path.parent, "scene.mat", "cannot be read as .mat", **own(tmp_path))
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (12, "nRow x nCol is 12 x 18"),
        (13.5, "nRow is not a single integer"),
        (np.nan, "nRow is not"),
    ],
)
def test_matrix_of_spectra_that_does_not_fit(tmp_path: Path, rows: float, words: str) -> None:
    path = save(tmp_path / "a" / "scene.mat", Y=CUBE.reshape(BANDS, -1), nRow=rows, nCol=18)
    reject(HSI, path.parent, "scene.mat", words, **own(tmp_path))


def test_other_variables_are_not_read(tmp_path: Path) -> None:
    objects = np.empty((2, 2, 2), object)
    objects[:] = "text"
    path = save(
        tmp_path / "a" / "scene.mat",
        cells=objects,
        info={"a": 1},
        text="text",
        scene=CUBE.transpose(1, 2, 0),
        empty=np.zeros((0, 3, 3)),
    )
    np.testing.assert_array_equal(read_all(HSI, path.parent, **own(tmp_path))[0].pixels, CUBE)
    assert matfile.shapes("scene.mat", path) == {"scene": (13, 18, 5)}


def test_untrusted_matlab_7_3(tmp_path: Path) -> None:
    folder, options, stored = tmp_path / "a", own(tmp_path), CUBE.transpose(0, 2, 1)
    save_7_3(folder / "other.mat", stored)
    with h5py.File(save_7_3(folder / "scene.mat", stored), "r+") as file:
        del file["scene"]
        file["scene"] = h5py.ExternalLink("other.mat", "/scene")
    reject(HSI, folder, "scene.mat", "no numeric arrays", **options)
    save_7_3(folder / "scene.mat", stored, kind=b"cell")
    reject(HSI, folder, "scene.mat", "no numeric arrays", **options)
    save_7_3(folder / "scene.mat", stored, compression="lzf")
    reject(HSI, folder, "scene.mat", "HDF5 filters [32000]", **options)
    (folder / "raw").write_bytes(stored.tobytes())
    save_7_3(folder / "scene.mat", stored, external=[(str(folder / "raw"), 0, stored.nbytes)])
    reject(HSI, folder, "scene.mat", "scene has its data in other files", **options)
    save_7_3(folder / "scene.mat", stored[:, :9])
    with h5py.File(folder / "scene.mat", "r+") as file:
        del file["scene"]
        layout_of = h5py.VirtualLayout((5, 9, 13), "u2")
        layout_of[:] = h5py.VirtualSource("other.mat", "scene", (5, 18, 13))[:, :9]
        file.create_virtual_dataset("scene", layout_of).attrs["MATLAB_class"] = np.bytes_(b"uint16")
    reject(HSI, folder, "scene.mat", "scene has its data in other files", **options)


def test_matlab_7_3_that_claims_too_much(tmp_path: Path) -> None:
    path = save_7_3(tmp_path / "a" / "scene.mat", CUBE[:1, :2, :2])
    with h5py.File(path, "r+") as file:
        del file["scene"]
        file.create_dataset("scene", (5, 40000, 40000), "u2", chunks=(1, 100, 100)).attrs[
            "MATLAB_class"
        ] = np.bytes_(b"uint16")
    reject(HSI, path.parent, "scene.mat", "claims 8,000 MB", **own(tmp_path), patch_size=1)


@pytest.mark.parametrize("size", [2_349, 500_000, 100_000_000])
def test_matlab_7_3_bomb_in_a_chunk(tmp_path: Path, size: int) -> None:
    path = save_7_3(
        tmp_path / "a" / "scene.mat",
        CUBE.transpose(0, 2, 1),
        compression="gzip",
        chunks=(5, 18, 13),
    )
    with h5py.File(path, "r+") as file:
        file["scene"].id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(size), 9))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reject(
        HSI,
        path.parent,
        "scene.mat",
        "the chunk of scene at [0, 0, 0]",
        "expected 2340",
        **own(tmp_path),
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_matlab_7_3_bomb_in_a_bomb(tmp_path: Path) -> None:
    path = save_7_3(tmp_path / "a" / "scene.mat", CUBE.transpose(0, 2, 1))
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((5, 18, 13))
    created.set_deflate(9)
    created.set_deflate(9)
    with h5py.File(path, "r+") as file:
        del file["scene"]
        space = h5py.h5s.create_simple((5, 18, 13))
        h5py.h5d.create(file.id, b"scene", h5py.h5t.STD_U16LE, space, created).write_direct_chunk(
            (0, 0, 0), zlib.compress(zlib.compress(bytes(200_000_000), 9), 9)
        )
        file["scene"].attrs["MATLAB_class"] = np.bytes_(b"uint16")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reject(HSI, path.parent, "scene.mat", "HDF5 filters [1, 1]", **own(tmp_path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_matlab_7_3_with_more_chunks_than_fit_the_memory(tmp_path: Path) -> None:
    path = save_7_3(tmp_path / "a" / "scene.mat", CUBE[:1, :2, :2])
    with h5py.File(path, "r+") as file:
        del file["scene"]
        file.create_dataset("scene", (5, 1000, 1000), "u1", chunks=(1, 1, 1)).attrs[
            "MATLAB_class"
        ] = np.bytes_(b"uint8")
    reject(HSI, path.parent, "scene.mat", "5,000,000 chunks", **own(tmp_path, dtype="uint8"))


@pytest.mark.parametrize(
    "layout",
    [
        {"fletcher32": True},
        {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": True},
    ],
)
def test_matlab_7_3_as_hdf5_packs_it(tmp_path: Path, layout: dict) -> None:
    noise = np.random.default_rng(0).integers(0, 2**16, (5, 200, 130), np.uint16)  # incompressible
    path = save_7_3(tmp_path / "a" / "scene.mat", noise, **layout)
    np.testing.assert_array_equal(
        read_all(HSI, path.parent, **own(tmp_path))[0].pixels, noise.transpose(0, 2, 1)
    )


def test_old_and_foreign_files(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for data in (b"", b"MATLAB", bytes(200), b"\x89HDF\r\n\x1a\n" + bytes(200)):
        (folder / "scene.mat").write_bytes(data)
        reject(HSI, folder, "scene.mat", "not .mat of version 5 or 7.3", **own(tmp_path))
    savemat(folder / "scene.mat", {"scene": np.ones((3, 4))}, format="4")
    reject(HSI, folder, "scene.mat", "not .mat of version 5 or 7.3", "save -v7", **own(tmp_path))


@pytest.mark.parametrize("kind", ["5", "5 plain", "7.3", "envi"])
def test_damage_gives_an_error_or_a_sample(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "a"
    if kind == "envi":
        place = {
            "map_info": "{UTM, 1, 1, 383472.37, 5818302.35, 30, 30, 33, North, WGS-84, "
            "units=Meters}"
        }
        path, options = (
            write_envi(
                folder, wavelength="{400, 410, 420, 430, 440}", wavelength_units="nm", **place
            ),
            envi(tmp_path),
        )
    elif kind == "7.3":
        path, options = (
            save_7_3(
                folder / "scene.mat", CUBE.transpose(0, 2, 1), compression="gzip", chunks=(5, 6, 5)
            ),
            own(tmp_path),
        )
    else:
        path, options = (
            save(folder / "scene.mat", kind == "5", scene=CUBE.transpose(1, 2, 0)),
            own(tmp_path),
        )
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for case in range(80):
        damaged = bytearray(data)
        if case % 4 == 0:
            damaged = damaged[: rng.integers(len(damaged))]
        for position in rng.integers(0, max(1, min(len(damaged), 1500)), 3 if damaged else 0):
            damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with contextlib.suppress(ArchiveError):
            for sample in read_all(HSI, folder, **options):
                assert sample.pixels.shape[0] == BANDS
