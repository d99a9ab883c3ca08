"""An S3 service on loopback, in memory, that refuses what a test names, with the responses of real services.

versitygw, the server of `tests.s3`, has no retention without versioning, and applies no policy to its own account.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.tls import serving

_TIME = "2026-11-29T00:00:00.000Z"


@dataclass(frozen=True)
class Refusal:
    """An error response."""

    status: int
    code: str
    message: str

    @property
    def body(self) -> str:
        return f"<Code>{self.code}</Code><Message>{escape(self.message)}</Message>"


AWS_LOCK = Refusal(403, "AccessDenied", "Access Denied because object protected by object lock.")
MINIO_LOCK = Refusal(400, "ObjectLocked", "Object is WORM protected and cannot be overwritten")
POLICY = Refusal(
    403,
    "AccessDenied",
    'User: arn:aws:iam::1:user/x is not authorized to perform: this on resource: "arn:aws:s3:::bucket/retention"'
    " with an explicit deny in a resource-based policy",
)


@dataclass
class GuardedS3:
    """A running service with one bucket, ``bucket``."""

    endpoint: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    on_delete: Refusal | None = None
    on_overwrite: Refusal | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a client."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "guarded",
            "AWS_SECRET_ACCESS_KEY": "guarded-secret",
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def guarded_s3(certificate: tuple[Path, Path] | None = None) -> Iterator[GuardedS3]:
    """Serve until the end of the block, with TLS if there is a certificate."""
    service = GuardedS3()
    with serving(type("_Bound", (_Handler,), {"service": service}), certificate) as service.endpoint:
        yield service


class _Handler(BaseHTTPRequestHandler):
    service: GuardedS3
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        key, query = self._address()
        if "list-type" in query:
            self._answer(200, self._listing(query.get("prefix", [""])[0]))
        elif key in self.service.objects:
            self._answer_range(self.service.objects[key])
        else:
            self._refuse(Refusal(404, "NoSuchKey", "The specified key does not exist."))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        key, _ = self._address()
        content = self._body()
        if key in self.service.objects and self.headers.get("If-None-Match") == "*":
            self._refuse(Refusal(412, "PreconditionFailed", "At least one of the preconditions did not hold"))
        elif key in self.service.objects and self.service.on_overwrite:
            self._refuse(self.service.on_overwrite)
        else:
            self.service.objects[key] = content
            self._answer(200)

    def do_DELETE(self) -> None:
        key, _ = self._address()
        if self.service.on_delete:
            self._refuse(self.service.on_delete)
        else:
            self.service.objects.pop(key, None)
            self._answer(204)

    def do_POST(self) -> None:
        """DeleteObjects: a refusal is in the body of a successful response."""
        listed = ElementTree.fromstring(self._body()).iter()
        parts = []
        for key in [node.text or "" for node in listed if node.tag.endswith("Key")]:
            if self.service.on_delete:
                parts.append(f"<Error><Key>{escape(key)}</Key>{self.service.on_delete.body}</Error>")
            else:
                self.service.objects.pop(key, None)
                parts.append(f"<Deleted><Key>{escape(key)}</Key></Deleted>")
        self._answer(200, f"<DeleteResult>{''.join(parts)}</DeleteResult>".encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _listing(self, prefix: str) -> bytes:
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size><LastModified>{_TIME}</LastModified>"
            "<ETag>1</ETag></Contents>"
            for key, content in sorted(self.service.objects.items())
            if key.startswith(prefix)
        )
        return f"<ListBucketResult>{contents}</ListBucketResult>".encode()

    def _address(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return unquote(parts.path).removeprefix("/bucket").lstrip("/"), parse_qs(parts.query, keep_blank_values=True)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer_range(self, content: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None:
            self._answer(200, content)
            return
        first, last = int(asked[1]), min(int(asked[2]), len(content) - 1)
        span = f"bytes {first}-{last}/{len(content)}"
        self._answer(206, content[first : last + 1], {"Content-Range": span})

    def _refuse(self, refusal: Refusal) -> None:
        self._answer(refusal.status, f"<Error>{refusal.body}</Error>".encode())

    def _answer(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        fixed = {"Content-Length": str(len(content)), "ETag": '"1"', "Last-Modified": "Sun, 29 Nov 2026 00:00:00 GMT"}
        for name, value in {**fixed, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
