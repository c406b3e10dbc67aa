"""A local server with as much HTTP, S3 and GCS as reading needs, which fails on request."""

from __future__ import annotations

import http.server
import re
import socket
import struct
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eo_jax.data import Store

SHARD = "shards/00001"  # of a store, the second
_GCS = re.compile(r"/storage/v1/b/([^/]+)/o/([^/]+)")


class Request(NamedTuple):
    """Path below the served folder, and the Range header, "" if there was none."""

    file: str
    range: str


class ObjectServer:
    """Serves FOLDER/BUCKET/... as http://host/BUCKET/..., as S3 objects and as GCS objects.

    A context manager.

    Attributes:
        requests: all requests, in order.
        latency: seconds before each answer.
        most_at_once: the largest number of concurrent requests.
    """

    def __init__(self, folder: Path):
        self.folder, self.requests, self.latency, self.most_at_once = folder, [], 0.0, 0
        self._faults: list[tuple[str, str]] = []
        self._open, self._lock = 0, threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def fail(self, fault: str, times: int = 1, on: str = "") -> None:
        """Makes the next requests of files whose path contains `on` fail.

        `fault` is "403", "503" ..., "reset", "truncated", "flipped" or "hang".
        """
        self._faults += [(fault, on)] * times

    def begin(self, request: Request, has_body: bool) -> str:
        """Records a request; returns its fault, "" for none.

        Only an answer that has a body can be truncated or flipped.
        """
        with self._lock:
            self.requests.append(request)
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
            for number, (fault, on) in enumerate(self._faults):
                if on in request.file and (has_body or fault not in ("truncated", "flipped")):
                    return self._faults.pop(number)[0]
            return ""

    def end(self) -> None:
        """Records that a request is answered."""
        with self._lock:
            self._open -= 1

    def forget(self) -> None:
        """Drops pending faults and recorded requests."""
        self._faults.clear()
        self.requests.clear()
        self.latency, self.most_at_once = 0.0, 0

    def __enter__(self) -> ObjectServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: ObjectServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for an acknowledgement

    def log_message(self, *_: object) -> None:
        """Logs nothing."""

    def do_GET(self) -> None:
        asked = urllib.parse.urlsplit(self.path).path
        gcs = _GCS.fullmatch(asked)
        file = urllib.parse.unquote("/".join(gcs.groups()) if gcs else asked.lstrip("/"))
        path = self.owner.folder / file
        fault = self.owner.begin(
            Request(file, self.headers.get("Range", "")),
            path.is_file() and self._span()[0] < path.stat().st_size,
        )
        try:
            time.sleep(self.owner.latency)
            self._answer(path, fault)
        finally:
            self.owner.end()

    def _answer(self, file: Path, fault: str) -> None:
        if fault == "hang":
            time.sleep(1)
        elif fault == "reset":
            # Closing sends RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif fault.isdigit():
            return self._send(int(fault), b"a fault")
        elif file.is_file():
            return self._send_file(file.read_bytes(), fault)
        else:
            return self._send(404, b"")
        self.close_connection = True
        self.connection.close()

    def _send_file(self, data: bytes, fault: str) -> None:
        first, last = self._span()
        last = min(last, len(data) - 1)
        if first > last:
            return self._send(416, b"")
        body = bytearray(data[first : last + 1])
        if fault == "flipped":
            body[len(body) // 2] ^= 1
        sent = len(body) // 2 if fault == "truncated" else len(body)
        self._send(
            206 if "Range" in self.headers else 200,
            bytes(body),
            sent,
            f"bytes {first}-{last}/{len(data)}",
        )

    def _span(self) -> tuple[int, int]:
        """First and last byte of the request."""
        if "Range" not in self.headers:
            return 0, sys.maxsize
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        return int(first), int(last)

    def _send(self, status: int, body: bytes, sent: int | None = None, span: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        if status == 206:
            self.send_header("Content-Range", span)
        self.end_headers()
        self.wfile.write(body[:sent])
        self.close_connection = sent is not None and sent < len(body)


def url_of(server: ObjectServer, scheme: str, name: str) -> str:
    """URL of the store `name` in the served bucket; scheme "http", "s3" or "gs"."""
    return f"{server.url}/bucket/{name}" if scheme == "http" else f"{scheme}://bucket/{name}"


def assert_same_samples(found: Store, expected: Store) -> None:
    """Compares every sample of two stores, bit for bit."""
    assert len(found) == len(expected) and found.content_hash == expected.content_hash
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(one.pixels, other.pixels, strict=True)
        assert found.read(i) == expected.read(i)


def spans(server: ObjectServer) -> list[int]:
    """Bytes of each requested range."""
    edges = [
        request.range.removeprefix("bytes=").split("-")
        for request in server.requests
        if request.range
    ]
    return [int(last) - int(first) + 1 for first, last in edges]
