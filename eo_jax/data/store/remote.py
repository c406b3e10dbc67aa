"""Reads files from object stores and web servers, with a bounded number of attempts.

Small files are read whole, large ones by byte ranges.

    s3://bucket/path      credentials as for any AWS tool: AWS_ACCESS_KEY_ID and
                          AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role;
                          AWS_NO_SIGN_REQUEST=YES for public buckets; AWS_ENDPOINT_URL (and
                          AWS_REGION) for MinIO and others
    gs://bucket/path      GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`,
                          or the machine's role
    http(s)://host/path   the server has to serve byte ranges; a query string, for example a
                          signature, is sent with every request

tensorstore does the transport, with a single attempt per call. Only this module imports it, and
only when something is read: a process that has used it cannot fork. This module counts attempts:
transient errors (no answer in time, no connection, a truncated body, 408, 429, 5xx, a wrong
checksum) are retried after 0.2, 0.4, 0.8 and 1.6 seconds; any other error is raised at once. So a
request that is rejected five times fails after 3 seconds, and one that is never answered after 5
minutes.
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
# Concurrent requests per thread: enough to hide 50 ms of latency; 100 MB of the largest patches.
_CONCURRENT_REQUESTS = 16
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
    "PERMISSION_DENIED": "check credentials and path; a bucket that you may not list answers the "
    "same for missing files",
    "UNAUTHENTICATED": "check credentials",
    "FAILED_PRECONDITION": "check region and endpoint; a web server has to serve byte ranges",
}

T = TypeVar("T")


class RemoteError(OSError):
    """The network or server failed repeatedly; data may be fine. The message says what to do."""


class _TransientError(Exception):
    """A failure that another attempt may overcome."""


@dataclass(frozen=True)
class Retries:
    """Number and delays of attempts.

    Attributes:
        attempts: per request, including the first.
        first_delay_s: before the second attempt; the delay doubles with each attempt.
        max_delay_s: upper limit of the delay.
        timeout_s: for the answer to one attempt.
        sleep: called with each delay.
    """

    attempts: int = 5
    first_delay_s: float = 0.2
    max_delay_s: float = 10.0
    timeout_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def delays(self) -> list[float]:
        """Seconds before the second, third ... attempt."""
        doubled = (self.first_delay_s * 2**number for number in range(self.attempts - 1))
        return [min(delay, self.max_delay_s) for delay in doubled]


RETRIES = Retries()


def is_url(path: str | os.PathLike) -> bool:
    """Whether a store's path is a URL.

    Raises StoreError for a URL that is a pathlib.Path, which drops a slash.
    """
    if isinstance(path, os.PathLike) and re.match(rf"({'|'.join(_SCHEMES)}):/", os.fspath(path)):
        raise StoreError(
            f"{path}: this needs a store in a local folder; copy it first, for example with `aws "
            "s3 sync`, `gcloud storage rsync` or `wget`"
        )
    return isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


@dataclass(frozen=True)
class RemotePath:
    """A folder or file at a URL, with the methods of pathlib.Path that a store needs.

    Attributes:
        root: URL of the store.
        file: below it, with "/"; "" for the root itself.
    """

    root: str
    file: str = ""

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.root, f"{self.file}/{name}" if self.file else name)

    def __str__(self) -> str:
        """The URL without its query string, which may be a secret."""
        root = self.root.partition("?")[0] if self.root.startswith("http") else self.root
        return f"{root.rstrip('/')}/{self.file}".rstrip("/")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return str(self).rpartition("/")[2]

    def read_bytes(self, most: int) -> bytes:
        """The bytes of a file of at most that many.

        Raises StoreError where it is absent, refused or larger; RemoteError.
        """
        if self._is_longer_than(most):
            raise StoreError(
                f"{self}: has more than {most} bytes, the most that it has in a store; check the "
                "URL, or convert the archive again, with larger shards (--shard-mb)"
            )
        return retry(self, lambda: _result(self, _open(self.root).read(self.file)))

    def read_checked(self, sha256: str, most: int) -> bytes:
        """The bytes of a file of at most that many, with this SHA-256.

        Raises StoreError where every attempt gives another; RemoteError.
        """

        def attempt() -> bytes:
            data = self.read_bytes(most)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise ValueError("its SHA-256 is not the manifest's")
            return data

        try:
            return retry(self, attempt)
        except StoreError:
            raise
        except ValueError as error:
            raise StoreError(f"{self}: {error}; copy the store there again") from error

    def _is_longer_than(self, size: int) -> bool:
        def probe() -> bool:
            try:
                return bool(_result(self, _start(Range(self, size, 1))))
            except _TransientError as error:
                if _status(error) == "OUT_OF_RANGE":
                    return False
                raise

        return retry(self, probe)


class Range(NamedTuple):
    """A byte range of a file."""

    file: RemotePath
    offset: int
    length: int


def fetch(part: Range) -> bytes:
    """One attempt to get these bytes, for `retry`; uses the request of `begin_reading`, if any.

    Raises StoreError where access is refused, ValueError where the file ends before them.
    """
    try:
        return _result(part.file, _requests.take(part))
    except _TransientError as error:
        if _status(error) == "OUT_OF_RANGE":
            raise ValueError(
                f"{part.length} bytes from byte {part.offset} are not there"
            ) from error
        raise


def begin_reading(ranges: Iterable[Range]) -> None:
    """Starts requests, 16 at a time, for the ranges that this thread will `fetch` next.

    They should be fetched in this order. It replaces the ranges of an earlier call.
    """
    _requests.begin(ranges)


def retry(file: RemotePath, attempt: Callable[[], T]) -> T:
    """The result of `attempt`, called until it succeeds; it raises ValueError for damaged bytes.

    After the last attempt, raises its ValueError if bytes were damaged, else RemoteError. Any other
    error, including StoreError, is raised at once.
    """
    delays = iter(RETRIES.delays())
    while True:
        try:
            return attempt()
        except StoreError:
            raise
        except (_TransientError, ValueError) as error:
            if (delay := next(delays, None)) is None:
                raise _last_error(file, error) from error
        RETRIES.sleep(delay)


def _last_error(file: RemotePath, error: Exception) -> Exception:
    if isinstance(error, ValueError):
        return ValueError(f"{error}, in {RETRIES.attempts} attempts")
    return RemoteError(
        f"{file}: cannot be read in {RETRIES.attempts} attempts; the last: {error}; fix the "
        "network or the server, then run the same command again; training resumes from its last "
        "checkpoint"
    )


# -------------------------------------------------------------------------------------- tensorstore


def kvstore_spec(url: str) -> dict[str, Any]:
    """The tensorstore spec of a store at this URL, with options from the environment.

    Raises StoreError for any other URL.
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
    spec = {"driver": driver, "bucket": bucket, "path": path, "context": _no_retries(driver)}
    return spec | (_s3_options() if scheme == "s3" else {})


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
        "context": _no_retries("http"),
    }


def _s3_options() -> dict[str, Any]:
    environment, options = os.environ.get, {}
    endpoint = environment("AWS_ENDPOINT_URL_S3") or environment("AWS_ENDPOINT_URL")
    if endpoint:  # Amazon reports the region of a bucket, others may not
        region = environment("AWS_REGION") or environment("AWS_DEFAULT_REGION") or "us-east-1"
        options |= {"endpoint": endpoint, "aws_region": region}
    if environment("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "1"):
        options |= {"aws_credentials": {"type": "anonymous"}}
    return options


def _no_retries(driver: str) -> dict[str, Any]:
    return {f"{driver}_request_retries": {"max_retries": 0}}


def _open(root: str) -> Any:
    """The tensorstore.KvStore of a store."""
    return _open_spec(json.dumps(kvstore_spec(root), sort_keys=True))


@functools.lru_cache(64)
def _open_spec(text: str) -> Any:
    import tensorstore  # only here, so that a process that reads local stores can fork

    return tensorstore.KvStore.open(json.loads(text)).result()


def _start(part: Range) -> Any:
    """A future of the bytes."""
    byte_range = slice(part.offset, part.offset + part.length)
    return _open(part.file.root).read(part.file.file, byte_range=byte_range)


def _result(file: RemotePath, future: Any) -> bytes:
    """The bytes of a future. Raises StoreError where the server refuses, _TransientError."""
    try:
        found = future.result(timeout=RETRIES.timeout_s)
    except TimeoutError:
        future.cancel()
        raise _TransientError(f"no answer in {RETRIES.timeout_s:g} seconds") from None
    except (ValueError, LookupError, RuntimeError) as error:  # the errors of tensorstore
        if (status := _status(error)) in _TRANSIENT_STATUS:
            raise _TransientError(str(error)[:500]) from error
        raise StoreError(
            f"{file}: cannot be read ({str(error)[:500]}); {_CURES.get(status, 'check the URL')}"
        ) from error
    if found.state == "missing":
        raise StoreError(
            f"{file}: no such file; check bucket and path, and that the whole store was copied "
            "there"
        )
    return found.value


def _status(error: Exception) -> str:
    """The status with which tensorstore begins its messages, or ""."""
    found = _STATUS.match(str(error))
    return found[1] if found else ""


class _Requests(threading.local):
    """The ranges that one thread reads next; requests for the first of them have started."""

    def __init__(self):
        self._waiting: Iterator[Range] = iter(())
        self._started: dict[Range, Any] = {}

    def begin(self, ranges: Iterable[Range]) -> None:
        self._started.clear()
        self._waiting = iter(dict.fromkeys(ranges))
        self._fill()

    def take(self, part: Range) -> Any:
        future = self._started.pop(part, None) or _start(part)
        self._fill()
        return future

    def _fill(self) -> None:
        while len(self._started) < _CONCURRENT_REQUESTS and (part := next(self._waiting, None)):
            self._started[part] = _start(part)


_requests = _Requests()
