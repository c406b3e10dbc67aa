"""Stores over the network: the same samples and batches as from a disk, or a clear error.

s3:// is read from moto's S3, and, like http:// and gs://, from a small server that fails on
request. No Google server is used: tensorstore's driver for gs:// sends its requests to the address
in TENSORSTORE_GCS_HTTP_URL.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from object_server import SHARD, ObjectServer, assert_same_samples, spans, url_of
from tiny_store import PER_SHARD, write_tiny_store

from data_prep.__main__ import main as data_prep
from eo_jax import run
from eo_jax.data import Store, open_store
from eo_jax.data.pipeline import Config, Pipeline, SourceConfig
from eo_jax.data.store import manifest, remote
from eo_jax.data.store.files import StoreError
from eo_jax.data.store.manifest import content_sha256
from eo_jax.data.store.reader import FORMATS, begin_reading
from eo_jax.data.store.record import RecordError
from eo_jax.data.store.remote import RemoteError, RemotePath, Retries

pytest_plugins = ["served"]
pytestmark = pytest.mark.usefixtures("cache", "slept")

SCHEMES = ("http", "s3", "gs")
PIXELS = "/c/1/0/0/0"  # of the second shard


def batches(store: str | Path) -> list[dict[str, np.ndarray]]:
    source = SourceConfig(str(store), "enmap", label="landuse", dates=2)
    return [
        batch["enmap"]
        for batch in Pipeline(Config({"enmap": source}, batch_size=4, crop=6), seed=3).batches(0, 4)
    ]


def assert_same_batches(found: str, expected: Path) -> None:
    for one, other in zip(batches(found), batches(expected), strict=True):
        assert one.keys() == other.keys()
        for field in other:
            np.testing.assert_array_equal(one[field], other[field], strict=True)


# ------------------------------------------------------------------------------------ the same data


@pytest.fixture(scope="module")
def moto(folder: Path) -> Iterator[str]:
    """Endpoint of moto's S3 with everything in `folder`."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="bucket")
    for file in (folder / "bucket").rglob("*"):
        if file.is_file():
            client.upload_file(str(file), "bucket", f"deep/{file.relative_to(folder / 'bucket')}")
    yield endpoint
    server.stop()


@pytest.mark.parametrize("format", FORMATS)
def test_s3_gives_the_same_samples_and_batches(
    moto: str, folder: Path, format: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    there, here = f"s3://bucket/deep/{format}", folder / "bucket" / format
    assert_same_samples(open_store(there), open_store(here))
    assert_same_batches(there, here)


def test_a_wrong_bucket_is_said_to_be_absent(
    moto: str, slept: list[float], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    with pytest.raises(
        StoreError,
        match=r"s3://other/deep/zarr/manifest.json: no such file; check bucket and path",
    ):
        open_store("s3://other/deep/zarr")
    assert slept == []


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_gives_the_same_samples_and_batches(
    server: ObjectServer, folder: Path, scheme: str, format: str
):
    there, here = url_of(server, scheme, format), folder / "bucket" / format
    assert_same_samples(open_store(f"{there}/"), open_store(here))
    assert_same_batches(there, here)


def test_public_buckets_need_no_credentials(server: ObjectServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    assert len(open_store("s3://bucket/zarr")) == 12


@pytest.mark.parametrize("format", ["zarr", "zarr-raw"])
@pytest.mark.parametrize(
    "bands", [slice(None), slice(40, 45), [201, 3, 3, 100], np.array([5]), []], ids=str
)
def test_parts_of_pixels(server: ObjectServer, folder: Path, format: str, bands):
    there, here = open_store(url_of(server, "http", format)), open_store(folder / "bucket" / format)
    for rows, columns in ((slice(None), slice(None)), (slice(1, 5), slice(2, 7))):
        np.testing.assert_array_equal(
            there.pixels(7, bands, rows, columns), here.pixels(7, bands, rows, columns), strict=True
        )
    out = np.empty((202, 4, 5), np.float32)  # another dtype than the archive's
    there.read_into(7, out, slice(1, 5), slice(2, 7))
    np.testing.assert_array_equal(out, here.pixels(7, rows=slice(1, 5), columns=slice(2, 7)))


def test_only_wanted_chunks_are_read_and_neighbours_with_one_request(server: ObjectServer):
    store = open_store(url_of(server, "http", "zarr"))
    store.pixels(0, bands=[0])  # reads the index of the shard, too
    server.requests.clear()
    store.pixels(0)
    (whole,) = spans(server)
    server.requests.clear()
    store.pixels(0, bands=[0, 40])
    (two,) = spans(server)
    server.requests.clear()
    store.pixels(0, bands=[0, 201])
    first, last = spans(server)
    assert first < two < whole / 2 and last < whole / 2
    assert not any("array_record" in request.file for request in server.requests)


def test_requests_of_announced_samples_run_side_by_side(server: ObjectServer, folder: Path):
    there, here = (
        open_store(url_of(server, "s3", "zarr-raw")),
        open_store(folder / "bucket" / "zarr-raw"),
    )
    server.latency = 0.05
    server.most_at_once = 0
    numbers = [*range(12), 3]
    begin_reading((store, i) for i in numbers for store in (there, here))
    for i in [11, 3, *numbers]:  # another order than announced
        np.testing.assert_array_equal(there.pixels(i), here.pixels(i), strict=True)
    assert server.most_at_once > 4


def test_a_store_crosses_to_another_process(server: ObjectServer, folder: Path):
    store = open_store(url_of(server, "http", "zarr"))
    assert_same_samples(pickle.loads(pickle.dumps(store)), open_store(folder / "bucket" / "zarr"))


def test_many_threads(server: ObjectServer, folder: Path):
    for format in FORMATS:
        there, here = (
            open_store(url_of(server, "http", format)),
            open_store(folder / "bucket" / format),
        )
        server.fail("503", times=4, on=f"{format}/")  # one more would be too many for one request
        with ThreadPoolExecutor(8) as pool:
            for i, sample in enumerate(pool.map(there.__getitem__, range(12))):
                np.testing.assert_array_equal(sample.pixels, here[i].pixels, strict=True)


def test_local_stores_do_without_tensorstore(folder: Path):
    code = (
        "import sys; from eo_jax.data import open_store; open_store(sys.argv[1])[0]; assert "
        "'tensorstore' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "bucket" / "zarr")], check=True)


# -------------------------------------------------------------------------------- transient errors


READ_FILES = {
    "manifest.json": "zarr",
    "index.npz": "zarr",
    PIXELS: "zarr",
    f"x8{PIXELS}": "zarr-raw",
    SHARD: "array-record",
}
TRANSIENT = ("503", "429", "500", "reset", "truncated", "flipped")


@pytest.mark.parametrize(
    "on, fault",
    [
        pair
        for pair in itertools.product(READ_FILES, TRANSIENT)
        if pair != ("manifest.json", "flipped")
    ],
)
def test_two_failures_are_retried(
    server: ObjectServer, folder: Path, slept: list[float], on: str, fault: str
):
    format = READ_FILES[on]
    server.fail(fault, times=2, on=on)
    assert_same_samples(
        open_store(url_of(server, "http", format)), open_store(folder / "bucket" / format)
    )
    # The transport itself reopens a used connection that is reset.
    assert slept == [0.2, 0.4] or fault == "reset"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_way_out_of_a_lasting_failure(server: ObjectServer, scheme: str, slept: list[float]):
    store = open_store(url_of(server, scheme, "zarr-raw"))
    server.requests.clear()
    server.fail("503", times=99, on=PIXELS)
    with pytest.raises(RemoteError) as caught:
        store.pixels(7)
    assert len(server.requests) == 5 and slept == [0.2, 0.4, 0.8, 1.6]
    for part in (str(store.path), PIXELS, "5 attempts", "503", "run the same command again"):
        assert part in str(caught.value)


def test_delays_double_up_to_the_most():
    assert Retries(attempts=9).delays() == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]


def test_no_answer_counts_as_a_failure(
    server: ObjectServer, folder: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]
):
    store = open_store(url_of(server, "http", "zarr-raw"))
    monkeypatch.setattr(remote, "RETRIES", Retries(attempts=2, timeout_s=0.2, sleep=slept.append))
    server.fail("hang", on=PIXELS)
    np.testing.assert_array_equal(
        store.pixels(7), open_store(folder / "bucket" / "zarr-raw").pixels(7)
    )
    assert slept == [0.2]
    server.fail("hang", times=2, on=PIXELS)
    with pytest.raises(RemoteError, match=r"in 2 attempts; the last: no answer in 0\.2 seconds"):
        store.pixels(7)


@pytest.mark.parametrize("format", FORMATS)
def test_what_always_comes_damaged_is_a_bad_record(
    server: ObjectServer, slept: list[float], format: str
):
    store = open_store(url_of(server, "http", format))
    server.fail("flipped", times=99, on="/1/0/0/0" if "zarr" in format else SHARD)
    with pytest.raises(RecordError, match=r"(checksum|SHA-256).* in 5 attempts"):
        store.pixels(7)
    assert slept == [0.2, 0.4, 0.8, 1.6]
    store.pixels(0)  # the rest is fine


def test_a_manifest_that_comes_damaged_is_refused(server: ObjectServer):
    server.fail("flipped", on="manifest.json")
    with pytest.raises(
        StoreError, match=r"manifest\.json: (not a manifest|content_sha256|store_format)"
    ):
        open_store(url_of(server, "http", "zarr"))


def test_nobody_listens(slept: list[float]):
    with pytest.raises(
        RemoteError,
        match=r"http://127\.0\.0\.1:1/x/manifest.json: cannot be read in 5 attempts; the last: "
        r".*[Cc]onnect",
    ):
        open_store("http://127.0.0.1:1/x")
    assert len(slept) == 4


# ----------------------------------------------------------------------------------- final errors


@pytest.mark.parametrize(
    "status, says",
    [("403", "check credentials"), ("401", "check credentials"), ("404", "no such file")],
)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_refusals_are_final(
    server: ObjectServer, scheme: str, status: str, says: str, slept: list[float]
):
    store = open_store(url_of(server, scheme, "zarr-raw"))
    server.requests.clear()
    server.fail(status, on=PIXELS)
    with pytest.raises(StoreError, match=rf"bucket/zarr-raw/.*{PIXELS}: .*{says}"):
        store.pixels(7)
    assert len(server.requests) == 1 and slept == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_shorter_file_than_the_manifest_says(folder: Path, tmp_path: Path, format: str):
    store = Path(shutil.copytree(folder / "bucket" / format, tmp_path / "bucket" / "x"))
    for file in [*store.glob("pixels/*/c/1/0/0/0"), store / f"{SHARD}.array_record"]:
        os.truncate(file, file.stat().st_size // 2)
    with (
        ObjectServer(tmp_path) as server,
        pytest.raises(RecordError, match=r"bytes from byte \d+ are not there, in 5 attempts"),
    ):
        open_store(f"{server.url}/bucket/x").pixels(9)


def change_manifest(store: Path, change) -> None:
    manifest = json.loads((store / "manifest.json").read_text())
    change(manifest)
    manifest["content_sha256"] = content_sha256(manifest)
    (store / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "field, value, says",
    [
        ("file", "../../secret", "outside the store"),
        ("file", "/etc/passwd", "outside the store"),
        ("bytes", "many", r"'shards\[1\].bytes' is 'many', expected a whole number from 1"),
        ("bytes", -1, r"'shards\[1\].bytes' is -1, expected a whole number from 1"),
        ("bytes", 10**18, "expected a whole number from 1"),
        ("bytes", 10**15, "does not fit into EO_JAX_CACHE_GB=50"),
        ("sha256", "../../../x", "convert the archive again"),
    ],
)
def test_a_hostile_manifest(
    folder: Path, tmp_path: Path, cache: Path, field: str, value, says: str
):
    store = Path(shutil.copytree(folder / "bucket" / "array-record", tmp_path / "bucket" / "x"))
    change_manifest(store, lambda manifest: manifest["shards"][1].update({field: value}))
    with (
        ObjectServer(tmp_path) as server,
        pytest.raises(StoreError, match=says),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        open_store(f"{server.url}/bucket/x").read(7)
    assert not list(cache.rglob("*.partial"))


@pytest.mark.parametrize(
    "byte_range", [(0, 2**63), (2**64 - 1, 2**64 - 1), (2**62, 8), (0, 3)], ids=str
)
def test_hostile_byte_ranges_in_a_shard_index_are_not_believed(
    folder: Path, tmp_path: Path, byte_range: tuple[int, int]
):
    store = Path(shutil.copytree(folder / "bucket" / "zarr-raw", tmp_path / "bucket" / "x"))
    (file,) = store.glob("pixels/*/c/1/0/0/0")
    index = struct.pack("<2Q", *byte_range) * PER_SHARD
    checksum = struct.pack("<I", google_crc32c.value(index))
    file.write_bytes(file.read_bytes()[: -len(index) - 4] + index + checksum)
    with ObjectServer(tmp_path) as server:
        opened = open_store(f"{server.url}/bucket/x")
        with pytest.raises(RecordError, match=r"cannot be in a file|were not written"):
            opened.pixels(7)
        asked = {request.range for request in server.requests if PIXELS in request.file}
        length = file.stat().st_size
        assert asked == {f"bytes={length - len(index) - 4}-{length - 1}"}  # the index alone


def test_small_files_are_bounded(server: ObjectServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(manifest, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(StoreError, match=r"manifest.json: has more than 100 bytes"):
        open_store(url_of(server, "http", "zarr"))
    # A request of the previous test may still arrive.
    assert "bytes=100-100" in [request.range for request in server.requests]


def test_a_store_that_changed_since_the_run_began_is_refused(
    server: ObjectServer, folder: Path, tmp_path: Path
):
    def fingerprint(store: Store) -> dict:
        return {"enmap": {"store": store.path.name, "content_sha256": store.content_hash}}

    shutil.copytree(folder / "bucket" / "zarr", folder / "bucket" / "changing")
    url = url_of(server, "s3", "changing")
    (tmp_path / "data.json").write_text(json.dumps(fingerprint(open_store(url))))
    # The path of a store may change.
    run.check_same_data(tmp_path, fingerprint(open_store(folder / "bucket" / "changing")))
    shutil.rmtree(folder / "bucket" / "changing")
    write_tiny_store(folder / "bucket" / "changing", size=8, seed=1)
    with pytest.raises(ValueError, match="store changing now holds"):
        run.check_same_data(tmp_path, fingerprint(open_store(url)))


@pytest.mark.parametrize(
    "url, says",
    [
        ("s3://", "names no bucket"),
        ("gs:///x", "names no bucket"),
        (
            "az://bucket/x?signature=secret",
            "expected s3://, gs://, http://, https:// or a local folder",
        ),
        ("http:///x", "expected http://host/path"),
        ("https://me:secret@host/x", "without user name"),
    ],
)
def test_urls_that_cannot_be_stores(url: str, says: str):
    with pytest.raises(StoreError, match=says) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("command", ["verify", "inspect", "stats"])
def test_data_prep_says_that_it_reads_local_stores(command: str, capfd: pytest.CaptureFixture):
    assert data_prep([command, "s3://bucket/zarr"]) == 1
    said = capfd.readouterr()
    assert (
        "s3:/bucket/zarr: this needs a store in a local folder; copy it first"
        in said.out + said.err
    )


# --------------------------------------------------------------------------------------------- URLs


def test_what_tensorstore_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    gcs = {
        "driver": "gcs",
        "bucket": "b",
        "path": "deep/er/",
        "context": {"gcs_request_retries": {"max_retries": 0}},
    }
    assert remote.kvstore_spec("gs://b/deep/er") == remote.kvstore_spec("gs://b/deep/er/") == gcs
    s3 = {
        "driver": "s3",
        "bucket": "b",
        "path": "",
        "context": {"s3_request_retries": {"max_retries": 0}},
    }
    assert remote.kvstore_spec("s3://b") == remote.kvstore_spec("s3://b/") == s3
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    assert remote.kvstore_spec("s3://b") == s3 | {
        "endpoint": "http://minio:9000",
        "aws_region": "us-east-1",
    }
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert remote.kvstore_spec("s3://b")["aws_region"] == "eu-central-1"
    assert remote.kvstore_spec("https://h:8/a/b?sig=x")["base_url"] == "https://h:8/a/b/?sig=x"


@pytest.mark.parametrize("fault", ["503", "403", "404", "reset", "truncated"])
def test_messages_show_urls_without_what_may_be_secret(server: ObjectServer, fault: str):
    server.fail(fault, times=99)
    with pytest.raises((StoreError, RemoteError), match=r"bucket/zarr/manifest.json") as caught:
        open_store(f"{url_of(server, 'http', 'zarr')}?signature=secret")
    assert "secret" not in str(caught.value)


def test_names_of_urls():
    file = RemotePath("https://host/store/?signature=secret") / "shards/00000.array_record"
    assert str(file) == "https://host/store/shards/00000.array_record"
    assert str(RemotePath("s3://bucket/store/")) == "s3://bucket/store"
    assert (RemotePath("s3://bucket/store/").name, RemotePath("gs://bucket").name) == (
        "store",
        "bucket",
    )
