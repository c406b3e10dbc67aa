"""An archive reads the same extracted or not, complete or split, in this process and in another."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gzip
import io
import multiprocessing
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packed_archives import (
    FILES,
    HIDDEN,
    PARTS,
    add,
    contents,
    extracted,
    in_parts,
    one,
    packed,
    tar_of,
    zip_of,
)

from data_prep.archive import ArchiveError, access, open_archive, tar_index
from data_prep.archive.containers import group_parts

# ------------------------------------------------------- the archives as their publishers pack them


@pytest.mark.parametrize(
    "path",
    [
        "ssl4eo/l/ssl4eo_l_tm_toa.tar.gzaa",
        "ssl4eo/s12/s1_grd.tar.gz.partaa",
        "l7irish/austral.tar.gz",
        "hyspecnet/hyspecnet-11k-01.tar.gz",
        "eurosat/EuroSATallBands.zip",
    ],
)
def test_published_containers_read_as_the_standard_library_reads_them(sample_data, tmp_path, path):
    path = sample_data / "torchgeo_fixtures_SYNTHETIC" / path
    whole = io.BytesIO(
        b"".join(
            part.read_bytes()
            for part in sorted(path.parent.glob(f"{path.name.removesuffix('aa')}*"))
        )
    )
    if path.suffix == ".zip":
        with zipfile.ZipFile(whole) as file:
            expected = {
                info.filename: file.read(info) for info in file.infolist() if not info.is_dir()
            }
    else:
        with tarfile.open(fileobj=whole) as tar:
            expected = {info.name: tar.extractfile(info).read() for info in tar if info.isfile()}
    assert len(expected) >= 2
    assert contents(open_archive(path, tmp_path)) == expected


def test_a_published_folder_reads_the_same_with_and_without_its_extracted_files(
    sample_data, tmp_path
):
    folder = sample_data / "torchgeo_fixtures_SYNTHETIC" / "ssl4eo" / "l"
    for part in folder.glob("*.tar.gz*"):
        (tmp_path / part.name).symlink_to(part)
    with pytest.raises(ArchiveError, match="outside the archive"):
        open_archive(tmp_path).entries()
    for part in folder.glob("*.tar.gz*"):
        (tmp_path / part.name).unlink()
        (tmp_path / part.name).write_bytes(part.read_bytes())
    packed, both = open_archive(tmp_path), open_archive(folder)
    assert len(packed.entries()) == 40 and contents(packed) == contents(both)
    assert packed.folders() == both.folders() and packed.folders("ssl4eo_l_tm_toa") == [
        "0000002",
        "0000005",
    ]


# ------------------------------------------------------------------ all kinds look the same


@pytest.fixture(
    params=[
        "folder",
        "tar",
        "gnu tar",
        "tar.gz",
        "tgz",
        "zip",
        "tar parts",
        "tar.gz parts",
        "zip parts",
    ]
)
def root(request, tmp_path: Path) -> Path:
    """A folder with FILES and hidden files below `set`, extracted or in a container."""
    files, kind, folder = FILES | dict.fromkeys(HIDDEN, b"hidden"), request.param, tmp_path / "set"
    folder.mkdir()
    if kind == "folder":
        extracted(folder, files)
    elif kind.endswith("parts"):
        kind = kind.removesuffix(" parts")
        in_parts(folder / f"x.{kind}", packed(kind, files), tuple(f".part{part}" for part in PARTS))
    else:
        data = tar_of(files, tarfile.GNU_FORMAT) if kind == "gnu tar" else packed(kind, files)
        (folder / f"x.{kind.removeprefix('gnu ')}").write_bytes(data)
    return tmp_path


def test_every_kind_gives_the_same_names_and_bytes(root):
    archive = open_archive(root)
    assert contents(archive) == {f"set/{name}": data for name, data in FILES.items()}
    assert list(archive.entries()) == sorted(archive.entries())
    assert {name: entry.size for name, entry in archive.entries().items()} == {
        f"set/{name}": len(data) for name, data in FILES.items()
    }
    assert archive.names((".tif",)) == sorted(
        f"set/{name}" for name in FILES if name.lower().endswith(".tif")
    )
    assert (
        archive.exists("set/empty.txt")
        and not archive.exists("set/a")
        and not archive.exists("set/a/.DS_Store")
    )
    assert (
        archive.folders() == ["set"]
        and archive.folders("set") == ["a", "a-b", "b"]
        and archive.folders("set/a") == ["0001", "0002"]
    )
    assert all(archive.entry(name) == entry for name, entry in archive.entries().items())


def test_every_kind_gives_a_local_path(root):
    archive, name = open_archive(root), "set/a/0001/all_bands.tif"
    with archive.local(name) as first, archive.local("set/a-b/x.tif") as other:
        assert (
            first.read_bytes() == FILES["a/0001/all_bands.tif"] and other.read_bytes() == b"beside"
        )
        assert first.suffix == ".tif"
    with archive.local(name) as again:
        assert again == first  # consecutive windows do not unpack again
    del archive
    assert first.is_relative_to(root) or not first.exists()


def test_every_kind_works_in_a_spawned_process(root, tmp_path_factory):
    archive = open_archive(root, tmp_path_factory.mktemp("index"))
    archive.entries()
    archive.read("set/a/0001/all_bands.tif")  # handles are open
    assert contents(pickle.loads(pickle.dumps(archive))) == contents(archive)
    if (root / "set" / "x.tar.gz").exists():  # starting one process is slow enough
        with concurrent.futures.ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn")
        ) as pool:
            assert (
                pool.submit(archive.read, "set/a/0001/all_bands.tif").result()
                == FILES["a/0001/all_bands.tif"]
            )


def test_every_kind_says_what_is_not_there(root):
    archive = open_archive(root)
    for name in ("set/none.tif", "set", "set/a/.DS_Store", "", "set//a-b/x.tif"):
        with pytest.raises(ArchiveError, match=r"no such file|is a folder"):
            archive.read(name)
    for name in ("../x", "/etc/passwd", "set/../../x"):
        with pytest.raises(ArchiveError, match=r"leads out|absolute"):
            archive.read(name)


def test_every_kind_refuses_more_than_the_limit_before_it_reads(root):
    with pytest.raises(ArchiveError, match=r"at most 0.0 MB"):
        open_archive(root).read("set/a/0001/all_bands.tif", 2999)
    assert len(open_archive(root).read("set/a/0001/all_bands.tif", 3000)) == 3000


# ------------------------------------------------------------------ what stands beside what


def test_an_extracted_file_is_preferred_to_the_member(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar_of({"a.tif": b"packed", "b.tif": b"packed"}))
    (tmp_path / "a.tif").write_bytes(b"extracted")
    archive = open_archive(tmp_path)
    assert contents(archive) == {"a.tif": b"extracted", "b.tif": b"packed"}
    assert archive.entry("a.tif").size == 9


def test_a_name_in_two_containers_is_an_error_that_names_both_unless_it_is_extracted(tmp_path):
    (tmp_path / "x.tar").write_bytes(tar_of({"a.tif": b"x"}))
    (tmp_path / "y.zip").write_bytes(zip_of({"a.tif": b"y"}))
    with pytest.raises(ArchiveError, match=r"^a.tif: is in x.tar and in y.zip"):
        open_archive(tmp_path).entries()
    (tmp_path / "a.tif").write_bytes(b"extracted")
    assert contents(open_archive(tmp_path)) == {"a.tif": b"extracted"}
    with pytest.raises(ArchiveError, match="no such file"):
        open_archive(tmp_path).read("x.tar")  # its members are listed, not the container itself


@pytest.mark.parametrize("again", ["a.tif", "./a.tif", "b/../a.tif"])
def test_a_name_twice_in_one_container_is_an_error(tmp_path, again):
    with pytest.warns(UserWarning) if again == "a.tif" else contextlib.nullcontext():
        pairs = io.BytesIO()
        with zipfile.ZipFile(pairs, "w") as file:
            file.writestr("a.tif", b"1")
            file.writestr(again, b"2")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, "a.tif", data=b"1")
        add(tar, again, data=b"2")
    for archive in (
        one(tmp_path, "x.tar", buffer.getvalue()),
        one(tmp_path, "x.zip", pairs.getvalue()),
    ):
        with pytest.raises(ArchiveError, match=r"occurs twice|leads out"):
            archive.entries()


def test_a_whole_file_is_preferred_to_its_parts_but_not_when_it_is_incomplete(tmp_path):
    data = packed("tar.gz")
    in_parts(tmp_path / "x.tar.gz", data, PARTS)
    (tmp_path / "x.tar.gz").write_bytes(data)
    assert contents(open_archive(tmp_path)) == FILES
    (tmp_path / "x.tar.gz").write_bytes(data[:100])
    with pytest.raises(ArchiveError, match=r"^x.tar.gz: has 100 bytes, but its parts next to it"):
        open_archive(tmp_path).entries()


@pytest.mark.parametrize(
    "names",
    [
        PARTS,
        (".aa", ".ab"),
        (".partaa", ".partab"),
        ("_00", "_01"),
        (".001", ".002"),
        (".part1", ".part2"),
        (".part-9", ".part-10"),
    ],
)
def test_the_usual_ways_to_number_parts(tmp_path, names):
    if names[0] == ".part-9":
        names = tuple(f".part-{number}" for number in range(1, 12))  # 10 after 9, not after 1
    in_parts(tmp_path / "x.tar.gz", packed("tar.gz"), names)
    assert (
        contents(open_archive(tmp_path))
        == contents(open_archive(Path(f"{tmp_path / 'x.tar.gz'}{names[0]}")))
        == FILES
    )
    with pytest.raises(ArchiveError, match=f"give x.tar.gz{names[0]}, or the folder"):
        open_archive(Path(f"{tmp_path / 'x.tar.gz'}{names[1]}"))


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ("ab ac", "part 1 is missing"),
        ("aa ac ad", "part 2 is missing"),
        ("aa ab ac", "truncated"),
        ("aa 01", "two kinds"),
    ],
)
def test_a_missing_part_is_an_error(tmp_path, there, message):
    in_parts(tmp_path / "x.tar.gz", packed("tar.gz"), PARTS)
    for part in set(PARTS) - set(there.split()):
        (tmp_path / f"x.tar.gz{part}").unlink()
    (tmp_path / "x.tar.gz01").write_bytes(b"") if "01" in there else None
    with pytest.raises(ArchiveError, match=message):
        open_archive(tmp_path).entries()


def test_names_that_only_look_like_containers():
    names = (
        "x.zarr.zip",
        "x.tar.gz.md5",
        "x.zip.txt",
        "x.tif",
        "tar",
        "x.tar.xz",
        "x.tar.gz.sha256",
        "zip.tif",
        "x.part.zip.csv",
    )
    assert group_parts(dict.fromkeys(names, 1)) == {}


def test_a_zarr_store_in_a_zip_and_a_single_file_are_left_to_their_readers(tmp_path):
    assert contents(one(tmp_path, "cube.zarr.zip", zip_of(FILES))) == {
        "cube.zarr.zip": zip_of(FILES)
    }
    archive = one(tmp_path, "scene.mat", b"MATLAB")
    assert contents(archive) == {"scene.mat": b"MATLAB"}
    assert list(open_archive(tmp_path).entries()) == ["cube.zarr.zip", "scene.mat"]
    with pytest.raises(ArchiveError, match="no such file"):
        archive.read("cube.zarr.zip")


@pytest.mark.parametrize(
    "name", ["x.tar.zst", "x.tar.xz", "x.tar.bz2", "x.7z", "x.rar", "x.tar.xz.partaa"]
)
def test_containers_that_cannot_be_read_in_place(tmp_path, name):
    with pytest.raises(ArchiveError, match=f"{name}: .*extract it with"):
        one(tmp_path, name, b"?")
    with pytest.raises(ArchiveError, match=f"^{name}: .*extract it with"):
        open_archive(tmp_path).entries()
    (tmp_path / "x.tif").write_bytes(b"extracted")
    assert open_archive(tmp_path).read("x.tif") == b"extracted"


def test_a_gzip_named_tar_and_a_tar_named_tar_gz(tmp_path):
    assert (
        contents(one(tmp_path, "x.tar", packed("tar.gz")))
        == contents(one(tmp_path, "y.tar.gz", packed("tar")))
        == FILES
    )


def test_paths_that_are_not_archives(tmp_path):
    os.mkfifo(tmp_path / "fifo.tar")
    for path, message in (
        (Path("/vsizip/x.zip"), "GDAL"),
        (tmp_path / "none", "no such folder"),
        (tmp_path / "fifo.tar", "is a FIFO"),
    ):
        with pytest.raises(ArchiveError, match=message):
            open_archive(path)


# ------------------------------------------------------------------ the index of a tar


@pytest.fixture
def far_apart(tmp_path, monkeypatch) -> dict[str, bytes]:
    """Files of a tar.gz with seek points between them: 64 KB apart here, 4 MB in a real archive."""
    monkeypatch.setattr(tar_index, "SPACING", 2**16)
    monkeypatch.setattr(tar_index, "STEP", 2**18)
    files = {
        f"{number:02}.tif": np.random.default_rng(number).bytes(50_000 + number)
        for number in range(20)
    }
    (tmp_path / "x.tar.gz").write_bytes(packed("tar.gz", files))
    return files


def test_members_of_a_tar_gz_are_read_in_any_order_and_in_chunks(far_apart, tmp_path, monkeypatch):
    monkeypatch.setattr(tar_index, "CHUNK", 7_000)
    archive = open_archive(tmp_path, tmp_path / ".index")
    for name in reversed(far_apart):
        assert archive.read(name) == far_apart[name]
    assert len(list(archive._containers[0][1]._stream.seek_points())) > 10
    assert contents(open_archive(tmp_path, tmp_path / ".index")) == far_apart


def test_many_containers_hold_neither_files_nor_seek_points(tmp_path, monkeypatch):
    files = {f"{number:02}.tif": bytes([number]) * 100 for number in range(40)}
    for number, (name, data) in enumerate(files.items()):
        kind = ("tar.gz", "zip", "tar")[number % 3]
        (tmp_path / f"{name}.{kind}").write_bytes(packed(kind, {name: data}))
    before = len(os.listdir("/dev/fd"))
    archive = open_archive(tmp_path, tmp_path / ".index")
    assert contents(archive) == contents(archive) == files
    assert len(os.listdir("/dev/fd")) == before
    assert (
        sum("_stream" in container.__dict__ for _, container in archive._containers)
        <= access.MAX_OPEN
    )


def test_the_pass_over_a_tar_gz_is_made_once(far_apart, tmp_path, monkeypatch):
    first = contents(open_archive(tmp_path, tmp_path / ".index"))
    monkeypatch.setattr(gzip, "GzipFile", None)
    assert contents(open_archive(tmp_path, tmp_path / ".index")) == first
    os.utime(tmp_path / "x.tar.gz", (1, 1))  # as if it were another file
    with pytest.raises(TypeError):
        contents(open_archive(tmp_path, tmp_path / ".index"))


def test_the_index_is_the_same_bytes_every_time_and_nothing_else_is_left(far_apart, tmp_path):
    for folder in ("one", "two"):
        open_archive(tmp_path / "x.tar.gz", tmp_path / folder).entries()
    (one,), (two,) = (list((tmp_path / folder).iterdir()) for folder in ("one", "two"))
    assert one.name == two.name and one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"{}\n",
        lambda data: data[:500] + b"?" + data[501:],
    ],
)
def test_a_damaged_index_is_made_again(far_apart, tmp_path, damage):
    open_archive(tmp_path / "x.tar.gz", tmp_path / "index").entries()
    (index,) = (tmp_path / "index").iterdir()
    good = index.read_bytes()
    index.write_bytes(damage(good))
    assert contents(open_archive(tmp_path / "x.tar.gz", tmp_path / "index")) == far_apart
    assert index.read_bytes() == good


def test_a_tar_gz_that_was_damaged_after_the_pass_is_found_out(far_apart, tmp_path):
    path = tmp_path / "x.tar.gz"
    open_archive(path, tmp_path / "index").entries()
    data, status = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    archive, bad = open_archive(path, tmp_path / "index"), 0
    for name in archive.entries():
        try:
            assert archive.read(name) == far_apart[name]
        except ArchiveError as error:
            assert "download it again" in str(error)
            bad += 1
    assert bad >= 1


def test_tar_extensions_read_as_tarfile_reads_them(tmp_path):
    """Names and sizes from PAX headers of one file and of all, GNU long names, ustar prefixes, old
    directories.
    """
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer,
        mode="w",
        format=tarfile.PAX_FORMAT,
        pax_headers={"comment": "of all files", "mtime": "7"},
    ) as tar:
        add(tar, "short", data=b"1", pax_headers={"path": "from/pax", "mtime": "1600000000.5"})
        add(tar, "x/", type=tarfile.AREGTYPE)
        add(tar, "x", type=tarfile.DIRTYPE)
        add(tar, "c", data=b"2" * 600, type=tarfile.CONTTYPE)
        tar.format = tarfile.USTAR_FORMAT
        add(tar, f"{'u' * 90}/{'v' * 90}", data=b"3")
        tar.format = tarfile.GNU_FORMAT
        add(tar, "g" * 300, data=b"4")
    archive = one(tmp_path, "x.tar", buffer.getvalue())
    with tarfile.open(tmp_path / "x.tar") as tar:
        expected = {
            info.name: (tar.extractfile(info).read(), int(info.mtime) * 10**9)
            for info in tar
            if info.isfile()
        }
    assert {
        name: (archive.read(name), entry.stamp) for name, entry in archive.entries().items()
    } == expected
    assert set(expected) == {"from/pax", "c", f"{'u' * 90}/{'v' * 90}", "g" * 300}


# ------------------------------------------------------------------ temporary files


@pytest.mark.parametrize(("limit", "kept"), [(0, access.MAX_SPOOLED), (7, 7), (100, 9)])
def test_temporary_files_are_few_or_small_and_go_with_the_archive(
    tmp_path, monkeypatch, limit: int, kept: int
):
    monkeypatch.setattr(access, "MAX_SPOOLED_BYTES", limit)
    monkeypatch.setattr(access.tempfile, "tempdir", str(tmp_path / "spool"))
    (tmp_path / "spool").mkdir()
    archive = one(tmp_path, "x.tar", tar_of({f"{number}.tif": b"x" for number in range(9)}))
    with archive.local("0.tif") as held:
        for number in range(1, 9):
            with archive.local(f"{number}.tif"):
                pass
        assert held.read_bytes() == b"x"  # still in use
    del held
    assert len(list((tmp_path / "spool").iterdir())) == kept
    del archive
    assert not list((tmp_path / "spool").iterdir())


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(access.tempfile, "tempdir", str(tmp_path / "spool"))
    (tmp_path / "spool").mkdir()
    archive = one(tmp_path, "x.tar", tar_of({"a.tif": b"x"}))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tar_index.Tar, "chunks", full)
    with (
        pytest.raises(
            ArchiveError, match=r"a.tif: cannot be unpacked to .*No space left on device.*TMPDIR"
        ),
        archive.local("a.tif"),
    ):
        pass
    assert not list((tmp_path / "spool").iterdir())
