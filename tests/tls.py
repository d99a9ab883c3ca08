"""A certificate authority for tests, and HTTPS servers with its certificates. Needs the program openssl."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """A private certificate authority with its files in ``folder``; its own certificate is also valid for ``host``."""

    def __init__(self, folder: Path, host: str = "DNS:authority.example") -> None:
        self._folder = folder
        self.certificate, self.key = folder / "ca.crt", folder / "ca.key"
        usage = ("-addext", "keyUsage=critical,keyCertSign,digitalSignature", "-addext", f"subjectAltName={host}")
        _openssl("req", "-x509", *_KEY, "-keyout", self.key, "-out", self.certificate, "-subj", "/CN=test", *usage)

    def issue(self, host: str = "IP:127.0.0.1", days: int = 2) -> tuple[Path, Path]:
        """Certificate and key of a server; ``host`` is a subjectAltName, and negative ``days`` are in the past."""
        stem = f"{host.replace(':', '-')}{days}"
        key, request, certificate, extensions = (
            self._folder / f"{stem}.{suffix}" for suffix in ("key", "csr", "crt", "ext")
        )
        extensions.write_text(f"subjectAltName={host}\nauthorityKeyIdentifier=keyid\n")
        _openssl("req", *_KEY, "-keyout", key, "-out", request, "-subj", "/CN=server")
        signing = ("-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial", "-extfile", extensions)
        _openssl("x509", "-req", "-in", request, "-out", certificate, "-days", str(days), *signing)
        return certificate, key


@contextmanager
def serving(
    handler: type[BaseHTTPRequestHandler], certificate: tuple[Path, Path] | None = None, address: str = "127.0.0.1"
) -> Iterator[str]:
    """Serve until the end of the block, with TLS if there is a certificate; returns the URL."""
    server = ThreadingHTTPServer((address, 0), handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        # The thread of the connection makes the handshake, so that a client that refuses it does not stop the loop.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"{'https' if certificate else 'http'}://{address}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
