"""Every fault of an archive is one clear error, in bounded time and memory."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import socket
import stat
import tarfile
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_archives import FILES, add, contents, extracted, one, packed, tar_of

from data_prep.archive import ArchiveError, access, containers, open_archive, tar_index, zip_index


def made(build) -> bytes:
    """The bytes of a tar that `build` adds members to."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        build(tar)
    return buffer.getvalue()


def zipped(files: dict[str, bytes], change=lambda file: None) -> bytes:
    """The bytes of a zip whose list of members `change` has altered before it is written."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
        change(file)
    return buffer.getvalue()


def refused(archive, message: str) -> str:
    with pytest.raises(ArchiveError, match=message) as error:
        archive.entries()
    return str(error.value)


# ------------------------------------------------------------------ names

BAD_NAMES = {
    "/etc/passwd": "absolute",
    "../x": "leads out",
    "a/../../x": "leads out",
    "C:/x": "absolute",
    "a\\b": "backslash",
    "a\nb": "control",
    "a\u2028b": "control",
    "a\x7fb": "control",
    "n/" * 2500 + "x": "5,001 bytes",
}


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_names_that_escape_or_break_lists(tmp_path, kind, name):
    text = refused(
        one(tmp_path, f"x.{kind}", packed(kind, {"good.tif": b"", name: b"x"})), BAD_NAMES[name]
    )
    assert text.startswith(f"x.{kind}: ") and len(text) < 500


def test_a_name_that_is_not_utf_8(tmp_path):
    refused(
        one(tmp_path, "x.tar", tar_of({"caf\udce9.tif": b"x"}, tarfile.GNU_FORMAT)), "not UTF-8"
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "caf\udce9.tif").write_bytes(b"x")
    refused(open_archive(tmp_path / "folder"), "not UTF-8")


def test_a_zip_name_with_nul(tmp_path):
    refused(one(tmp_path, "x.zip", zipped({"aXb": b"x"}).replace(b"aXb", b"a\0b")), "control")


# ------------------------------------------------------------------ kinds of members


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.SYMTYPE, "is a symbolic link"),
        (tarfile.LNKTYPE, "is a hard link"),
        (tarfile.CHRTYPE, "is a character device"),
        (tarfile.BLKTYPE, "is a block device"),
        (tarfile.FIFOTYPE, "is a FIFO"),
        (tarfile.GNUTYPE_SPARSE, "is a sparse file"),
        (b"M", "of the unknown kind"),
    ],
)
def test_tar_members_that_are_not_files(tmp_path, kind, message):
    data = made(lambda tar: add(tar, "a/link.tif", type=kind, linkname="/etc/passwd"))
    assert refused(one(tmp_path, "x.tar", data), message).startswith("x.tar/a/link.tif: ")
    assert "extract" in refused(one(tmp_path, "y.tar.gz", gzip.compress(data)), message)


def test_a_sparse_file_of_pax(tmp_path):
    records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "99"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        add(tar, "a.tif", data=b"x", pax_headers=records)
    refused(one(tmp_path, "x.tar", buffer.getvalue()), "sparse file")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_zip_members_that_are_not_files(tmp_path, kind):
    def change(file: zipfile.ZipFile) -> None:
        file.getinfo("a.tif").external_attr = (kind | 0o777) << 16

    refused(
        one(tmp_path, "x.zip", zipped({"a.tif": b"/etc/passwd"}, change)),
        r"^x.zip/a.tif: is a link or device",
    )


def test_special_files_of_a_folder_are_never_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo.tif")
    with pytest.raises(ArchiveError, match=r"^fifo.tif: is a FIFO"):
        open_archive(tmp_path).read("fifo.tif")  # a plain open would wait forever
    refused(open_archive(tmp_path), r"^fifo.tif: is a FIFO")
    (tmp_path / "fifo.tif").unlink()
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.tif")
        refused(open_archive(tmp_path), r"^socket.tif: is a socket")


def test_a_file_exchanged_for_a_fifo_while_it_is_opened_does_not_hang(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(
        containers, "regular_status", lambda path, name: None
    )  # it was a file when it was checked
    with pytest.raises(ArchiveError, match="is a FIFO"):
        containers.open_regular(tmp_path / "fifo", "fifo")


# ------------------------------------------------------------------ links in a folder


@pytest.fixture
def linked(tmp_path) -> Path:
    extracted(tmp_path / "outside", {"x.tif": b"outside"})
    return extracted(tmp_path / "root", {"a/x.tif": b"inside"})


@pytest.mark.parametrize("target", ["../outside/x.tif", "../outside", "/etc/passwd", "/etc"])
def test_links_out_of_the_folder(linked, target):
    (linked / "link").symlink_to(target)
    assert "--input" in refused(open_archive(linked), r"^link: is a link to /.*outside the archive")
    with pytest.raises(ArchiveError, match="outside the archive"):
        open_archive(linked).read("link")
    with pytest.raises(ArchiveError, match="outside the archive"):
        open_archive(linked).read("link/x.tif" if target.endswith("outside") else "link")


def test_links_within_the_folder(linked, tmp_path):
    (linked / "b.tif").symlink_to("a/x.tif")
    (tmp_path / "elsewhere").symlink_to(linked)
    assert contents(open_archive(tmp_path / "elsewhere")) == {
        "a/x.tif": b"inside",
        "b.tif": b"inside",
    }
    (linked / "a" / "loop").symlink_to("../a")
    refused(open_archive(linked), r"^a/loop: is a link to the folder .*read twice")
    (linked / "a" / "loop").unlink()
    (linked / "gone.tif").symlink_to("nothing")
    refused(open_archive(linked), r"^gone.tif: is a link to .*does not exist")


# ------------------------------------------------------------------ what changes under one's hands


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "zip"])
def test_files_that_vanish(tmp_path, kind):
    path = (
        extracted(tmp_path, {"a.tif": b"x"}) / "a.tif"
        if kind == "folder"
        else tmp_path / f"x.{kind}"
    )
    if kind != "folder":
        path.write_bytes(packed(kind, {"a.tif": b"x"}))
    archive, again = open_archive(tmp_path), open_archive(tmp_path)
    archive.entries(), again.entries()
    path.unlink()
    with pytest.raises(ArchiveError, match=r"vanished|no such file"):
        pickle.loads(pickle.dumps(again)).read("a.tif")  # as in another process
    with pytest.raises(ArchiveError, match="vanished"):
        archive.read("a.tif")


def test_a_file_that_grows_and_a_tar_that_shrinks(tmp_path, monkeypatch):
    (tmp_path / "a.tif").write_bytes(b"12345")
    status = os.stat(tmp_path / "a.tif")
    archive = one(tmp_path, "x.tar", tar_of({"b.tif": bytes(5000)}))
    archive.entries()
    os.truncate(tmp_path / "x.tar", 3000)
    with pytest.raises(ArchiveError, match="download it again"):
        archive.read("b.tif")
    (tmp_path / "a.tif").write_bytes(b"123456789")
    archive = open_archive(tmp_path / "a.tif")
    with (
        monkeypatch.context() as patch,
        pytest.raises(ArchiveError, match="changed while it was being read"),
    ):
        patch.setattr(os, "fstat", lambda number: status)
        archive.read("a.tif")


# ------------------------------------------------------------------ truncation, damage, lies


def test_every_truncation_of_a_tar_and_a_tar_gz_is_found(tmp_path):
    files = {"a.tif": b"x" * 700, "b.tif": b"y" * 100}
    end = len(
        made(lambda tar: [add(tar, name, data=data) for name, data in files.items()]).rstrip(b"\0")
    )
    data = tar_of(files, tarfile.GNU_FORMAT)
    for cut in (0, 100, 512, 1024, 1536, 2048, end, -(-end // 512) * 512):
        refused(one(tmp_path, "x.tar", data[:cut]), "without the end mark|no tar header")
    data = gzip.compress(data)
    for cut in range(2, len(data), 7):
        refused(one(tmp_path, "x.tar.gz", data[:cut]), "download it again")
    refused(one(tmp_path, "x.tar.gz", data[:-1]), "download it again")


def test_a_damaged_header_does_not_end_the_list(tmp_path):
    """tarfile mistakes it for the end, and returns the members before it."""
    data = bytearray(tar_of({"a.tif": b"x", "b.tif": b"y", "c.tif": b"z"}, tarfile.GNU_FORMAT))
    data[1024] ^= 1
    refused(one(tmp_path, "x.tar", bytes(data)), "no tar header at byte 1,024")


@pytest.mark.parametrize("size", [-512, -1, 2**62 + 1, 2**70])
def test_impossible_sizes(tmp_path, size):
    info = tarfile.TarInfo("a.tif")
    info.size = size
    refused(
        one(tmp_path, "x.tar", info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)), "download it again"
    )


@pytest.mark.parametrize(
    "kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK]
)
def test_a_huge_extended_header_takes_no_memory(tmp_path, kind):
    info = tarfile.TarInfo("a.tif")
    info.size, info.type = 10 * 2**30, kind
    with open(tmp_path / "x.tar", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(11 * 2**30)  # sparse on the disk
    tracemalloc.start()
    refused(open_archive(tmp_path / "x.tar"), "extended header of 10,737,418,240 bytes")
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


BAD_RECORDS = (
    b"99 path=x\n",
    b"9 path=xx",
    b"x path=x\n",
    b"0 path=x\n",
    b"2 path=x\n",
    b"9 size=-\n",
    b"15 mtime=1e999\n",
    b"9" * 99,
)


@pytest.mark.parametrize("records", BAD_RECORDS)
def test_damaged_pax_records(tmp_path, records):
    info = tarfile.TarInfo("pax")
    info.size, info.type = len(records), tarfile.XHDTYPE
    data = (
        info.tobuf(tarfile.GNU_FORMAT)
        + records
        + bytes(512 - len(records))
        + tar_of({"a.tif": b"x"})
    )
    refused(one(tmp_path, "x.tar", data), "PAX record")


def test_very_many_extended_headers_before_one_file(tmp_path):
    """tarfile recurses for each."""
    info = tarfile.TarInfo("pax")
    info.type = tarfile.XHDTYPE
    assert contents(
        one(tmp_path, "x.tar", info.tobuf(tarfile.GNU_FORMAT) * 5000 + tar_of({"a.tif": b"x"}))
    ) == {"a.tif": b"x"}


def test_a_gzip_bomb_is_listed_and_refused_in_little_memory(tmp_path):
    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb", compresslevel=1) as file:
        info = tarfile.TarInfo("bomb.tif")
        info.size = 200 * 2**20
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(200):
            file.write(bytes(2**20))
        file.write(bytes(1024))
    tracemalloc.start()
    archive = one(tmp_path, "x.tar.gz", bomb.getvalue())
    assert archive.entries()["bomb.tif"].size == 200 * 2**20
    with pytest.raises(ArchiveError, match=r"has 209.7 MB, at most 100.0 MB"):
        archive.read("bomb.tif", 100_000_000)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def lie(**fields: int):
    """Alters the list of members of a zip."""

    def change(file: zipfile.ZipFile) -> None:
        for field, value in fields.items():
            setattr(file.getinfo("b.tif"), field, value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lie(file_size=10**12), "claims 1,000,000,000,000 bytes"),
        (lie(header_offset=0), "overlaps the next member"),
        (lie(compress_size=10**6), "overlaps the next member"),
        (lie(flag_bits=1), "is encrypted"),
        (lie(compress_type=zipfile.ZIP_LZMA), "method 14"),
    ],
)
def test_zip_files_with_false_claims(tmp_path, change, message):
    assert "x.zip/" in refused(
        one(tmp_path, "x.zip", zipped({"a.tif": b"x" * 100, "b.tif": b"y" * 100}, change)), message
    )


@pytest.mark.parametrize(
    ("size", "message"), [(99, "CRC"), (101, "early|CRC"), (5000, "early|CRC")]
)
def test_a_zip_member_of_another_size_than_declared(tmp_path, size, message):
    archive = one(
        tmp_path, "x.zip", zipped({"a.tif": b"x", "b.tif": b"y" * 100}, lie(file_size=size))
    )
    with pytest.raises(ArchiveError, match=message):
        archive.read("b.tif")


def test_a_zip_list_too_large_to_be_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(zip_index, "MAX_DIRECTORY", 70_000)
    refused(
        one(tmp_path, "x.zip", zipped({f"{number:0100}": b"" for number in range(500)})),
        "list of members has .* at most 70,000",
    )


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_too_many_members(tmp_path, monkeypatch, kind):
    for module in (access, tar_index, zip_index):
        monkeypatch.setattr(module, "MAX_MEMBERS", 5)
    if kind == "folder":
        refused(open_archive(extracted(tmp_path)), "more than 5 files")
    else:
        refused(one(tmp_path, f"x.{kind}", packed(kind)), "members")


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_files_that_are_not_containers(tmp_path, kind):
    for data in (b"", b"<html>404</html>", b"\x1f\x8b", b"PK\x03\x04", b"\xfd7zXZ\0" + bytes(600)):
        refused(one(tmp_path, f"x.{kind}", data), "download it again")


# ------------------------------------------------------------------ any damage

FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4)
PACKED = {kind: packed(kind) for kind in ("tar", "tar.gz", "zip")}


@pytest.mark.parametrize("kind", PACKED)
def test_any_damage_is_an_error_or_does_no_harm(kind):
    @settings(max_examples=60, deadline=None)
    @given(flips=FLIPS, kept=st.one_of(st.just(1.0), st.floats(0, 1)))
    def check(flips: list[tuple[float, int]], kept: float) -> None:
        data = bytearray(PACKED[kind])
        for place, change in flips:
            data[int(place * len(data))] ^= change
        with tempfile.TemporaryDirectory() as folder:
            archive = one(Path(folder), f"x.{kind}", bytes(data[: int(kept * len(data))]))
            try:
                entries = archive.entries()
            except ArchiveError:
                return
            for name, entry in entries.items():
                try:
                    found = archive.read(name)
                except ArchiveError:
                    continue
                # An uncompressed tar has no checksum of contents, and a zip none of its list.
                assert len(found) == entry.size if kind == "tar" else found in FILES.values()
            if kind == "tar.gz":
                assert contents(archive) == FILES

    check()
