"""Files of a store in an object store or on a web server: small ones whole, large ones by byte
ranges, with a bounded number of attempts.

    s3://bucket/path         credentials as every AWS tool has them: AWS_ACCESS_KEY_ID and
    AWS_SECRET_ACCESS_KEY, AWS_PROFILE, the machine's role;
                             AWS_NO_SIGN_REQUEST=YES for public buckets; AWS_ENDPOINT_URL (and
                             AWS_REGION) for MinIO and others
    gs://bucket/path         GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default
    login`, or the machine's role http(s)://host/path      the server has to serve byte ranges; a
    query string, such as a signature, is sent with every request

tensorstore does the transport, asked to try once. It is imported here alone, and only when
something is read: a process that has used it cannot fork. Attempts are counted here: what may pass
(no answer in time, no connection, a body cut short, 408, 429, 5xx, a checksum that does not match)
is tried again after 0.2, 0.4, 0.8 and 1.6 seconds, anything else is an error at once. So a request
that is refused five times fails after 3 seconds, and one that a server takes and never answers
after 5 minutes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from eo_jax.data.store.files import StoreError

_SCHEMES = ("s3", "gs", "http", "https")
_SMALL_BYTES = 2**32  # the most of a manifest or an index, which takes about 200 bytes a sample
# requests of one thread under way: enough to hide 50 ms of latency, and 100 MB of the largest
# patches
_AHEAD = 16
_STATUS = re.compile(r"([A-Z_]+): ")
_TRANSIENT_STATUS = (
    "ABORTED",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "INTERNAL",
    "UNKNOWN",
    "CANCELLED",
    "DATA_LOSS",
    "OUT_OF_RANGE",
)
_CURES = {
    "PERMISSION_DENIED": "check credentials and path; a bucket that may not be listed says the "
    "same of files that are not there",
    "UNAUTHENTICATED": "check credentials",
    "FAILED_PRECONDITION": "check region and endpoint; a web server has to serve byte ranges",
}

T = TypeVar("T")


class RemoteError(OSError):
    """The network or the far end failed, again and again; the data may be well. The message says
    what to do.
    """


class _TransientError(Exception):
    """A failure after which another attempt makes sense."""


@dataclass(frozen=True)
class Retries:
    """How often and how long.

    Attributes:
        attempts: of one request, the first one counted.
        first_s, most_s: seconds before the second attempt; they double from attempt to attempt up
            to the most.
        timeout_s: seconds for the answer to one attempt.
        sleep: what waits.
    """

    attempts: int = 5
    first_s: float = 0.2
    most_s: float = 10.0
    timeout_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def delays(self) -> list[float]:
        """Seconds before the second, third ... attempt."""
        return [min(self.first_s * 2**number, self.most_s) for number in range(self.attempts - 1)]


RETRIES = Retries()


def is_url(path: str | os.PathLike) -> bool:
    """Whether a store's path is a URL. Raises StoreError for a URL that went through pathlib, which
    takes slashes away.
    """
    if isinstance(path, os.PathLike) and re.match(rf"({'|'.join(_SCHEMES)}):/", os.fspath(path)):
        raise StoreError(
            f"{path}: this needs a store in a local folder; copy it first, such as with `aws s3 "
            "sync`, `gcloud storage rsync` or `wget`"
        )
    return isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


@dataclass(frozen=True)
class RemotePath:
    """A folder or file at a URL, with those methods of pathlib.Path that a store needs.

    Attributes:
        root: URL of the store.
        file: below it, with "/"; "" for the root itself.
    """

    root: str
    file: str = ""

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.root, f"{self.file}/{name}" if self.file else name)

    def __str__(self) -> str:
        """Without a query string, which may be a secret."""
        root = self.root.partition("?")[0] if self.root.startswith("http") else self.root
        return f"{root.rstrip('/')}/{self.file}".rstrip("/")

    @property
    def name(self) -> str:
        """The last part."""
        return str(self).rpartition("/")[2]

    def read_bytes(self) -> bytes:
        """A whole small file. Raises StoreError where it is absent, refused or larger than 4 GiB,
        RemoteError.
        """
        if self._is_there_at(_SMALL_BYTES):
            raise StoreError(
                f"{self}: more than {_SMALL_BYTES} bytes, so it is no part of a store; check the "
                "URL"
            )
        return retrying(self, lambda: _result(self, _open(self.root).read(self.file)))

    def read_checked(self, sha256: str) -> bytes:
        """The same, with this SHA-256. Raises StoreError where it has another in every attempt."""

        def attempt() -> bytes:
            data = self.read_bytes()
            if hashlib.sha256(data).hexdigest() != sha256:
                raise ValueError("its SHA-256 is not the manifest's")
            return data

        try:
            return retrying(self, attempt)
        except StoreError:
            raise
        except ValueError as error:
            raise StoreError(f"{self}: {error}; copy the store there again") from error

    def _is_there_at(self, offset: int) -> bool:
        """Whether the file has a byte there."""

        def probe() -> bool:
            try:
                return bool(
                    _result(
                        self, _open(self.root).read(self.file, byte_range=slice(offset, offset + 1))
                    )
                )
            except _TransientError as error:
                if _status(error) == "OUT_OF_RANGE":
                    return False
                raise

        return retrying(self, probe)


class Range(NamedTuple):
    """Bytes of a file."""

    file: RemotePath
    offset: int
    length: int


def fetch(wanted: Range) -> bytes:
    """One attempt to get the bytes, for `retrying`; those that were announced may be here already.

    Raises StoreError where they are refused, ValueError where the file ends before them.
    """
    try:
        return _result(wanted.file, _ahead.take(wanted))
    except _TransientError as error:
        if _status(error) == "OUT_OF_RANGE":
            raise ValueError(
                f"{wanted.length} bytes from byte {wanted.offset} are not there"
            ) from error
        raise


def announce(ranges: Iterable[Range]) -> None:
    """Says what this thread will `fetch` next, in this order: the first 16 are asked for at once.
    What was announced before is forgotten.
    """
    _ahead.announce(ranges)


def retrying(file: RemotePath, attempt: Callable[[], T]) -> T:
    """The result of `attempt`, called until it succeeds; a ValueError of it means that bytes came
    damaged.

    Raises RemoteError after the last attempt, the ValueError where bytes always came damaged, and
    at once any other error, StoreError too.
    """
    delays = iter(RETRIES.delays())
    while True:
        try:
            return attempt()
        except StoreError:
            raise
        except (_TransientError, ValueError) as error:
            if (delay := next(delays, None)) is None:
                raise _final(file, error) from error
        RETRIES.sleep(delay)


def _final(file: RemotePath, error: Exception) -> Exception:
    if isinstance(error, ValueError):
        return ValueError(f"{error}, in {RETRIES.attempts} attempts")
    cure = (
        "mend the network or the server, then run the same command again; training goes on from "
        "its last checkpoint"
    )
    return RemoteError(
        f"{file}: cannot be read in {RETRIES.attempts} attempts; the last: {error}; {cure}"
    )


# -------------------------------------------------------------------------------------- tensorstore


def spec(url: str) -> dict[str, Any]:
    """What tensorstore calls a store at this URL; the environment has a say. Raises StoreError for
    a URL that is none of ours.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES:
        raise StoreError(
            f"{url.partition('?')[0]}: expected {', '.join(f'{name}://' for name in _SCHEMES)} or "
            "a local folder"
        )
    if scheme.startswith("http"):
        return _http_spec(url)
    bucket, _, folder = rest.partition("/")
    if not bucket:
        raise StoreError(f"{url}: names no bucket; expected {scheme}://bucket/path")
    driver = {"s3": "s3", "gs": "gcs"}[scheme]
    path = f"{folder.rstrip('/')}/" if folder.strip("/") else ""
    return {"driver": driver, "bucket": bucket, "path": path, "context": _once(driver)} | (
        _s3_options() if scheme == "s3" else {}
    )


def _http_spec(url: str) -> dict[str, Any]:
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname or parts.fragment or "@" in parts.netloc:
        raise StoreError(
            f"{url.partition('?')[0].rpartition('@')[2]}: expected {parts.scheme}://host/path, "
            "without user name, password or fragment"
        )
    return {
        "driver": "http",
        "base_url": parts._replace(path=f"{parts.path.rstrip('/')}/").geturl(),
        "context": _once("http"),
    }


def _s3_options() -> dict[str, Any]:
    environment, options = os.environ.get, {}
    endpoint = environment("AWS_ENDPOINT_URL_S3") or environment("AWS_ENDPOINT_URL")
    if endpoint:  # Amazon tells the region of a bucket, others may not
        options |= {
            "endpoint": endpoint,
            "aws_region": environment("AWS_REGION")
            or environment("AWS_DEFAULT_REGION")
            or "us-east-1",
        }
    if environment("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "1"):
        options |= {"aws_credentials": {"type": "anonymous"}}
    return options


def _once(driver: str) -> dict[str, Any]:
    return {f"{driver}_request_retries": {"max_retries": 0}}


def _open(root: str) -> Any:
    """tensorstore.KvStore of a store."""
    return _open_spec(json.dumps(spec(root), sort_keys=True))


@functools.lru_cache(64)
def _open_spec(text: str) -> Any:
    import tensorstore  # only here: whoever reads local stores can fork

    return tensorstore.KvStore.open(json.loads(text)).result()


def _begin(wanted: Range) -> Any:
    """A future of the bytes."""
    return _open(wanted.file.root).read(
        wanted.file.file, byte_range=slice(wanted.offset, wanted.offset + wanted.length)
    )


def _result(file: RemotePath, future: Any) -> bytes:
    """Raises StoreError where the far end says no, _TransientError."""
    try:
        found = future.result(timeout=RETRIES.timeout_s)
    except TimeoutError:
        future.cancel()
        raise _TransientError(f"no answer in {RETRIES.timeout_s:g} seconds") from None
    except (
        ValueError,
        LookupError,
        RuntimeError,
    ) as error:  # tensorstore raises these, with the status in the text
        if (status := _status(error)) in _TRANSIENT_STATUS:
            raise _TransientError(str(error)[:500]) from error
        raise StoreError(
            f"{file}: cannot be read ({str(error)[:500]}); {_CURES.get(status, 'check the URL')}"
        ) from error
    if found.state == "missing":
        raise StoreError(
            f"{file}: there is no such file; check bucket and path, and that all of the store was "
            "copied there"
        )
    return found.value


def _status(error: Exception) -> str:
    found = _STATUS.match(str(error))
    return found[1] if found else ""


class _Ahead(threading.local):
    """What one thread has announced, the first of it under way."""

    def __init__(self):
        self._waiting: Iterator[Range] = iter(())
        self._begun: dict[Range, Any] = {}

    def announce(self, ranges: Iterable[Range]) -> None:
        self._begun.clear()
        self._waiting = iter(dict.fromkeys(ranges))
        self._fill()

    def take(self, wanted: Range) -> Any:
        future = self._begun.pop(wanted, None) or _begin(wanted)
        self._fill()
        return future

    def _fill(self) -> None:
        while len(self._begun) < _AHEAD and (wanted := next(self._waiting, None)):
            self._begun[wanted] = _begin(wanted)


_ahead = _Ahead()
