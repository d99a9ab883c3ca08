"""TLS certificates of object storage and the hub: trust a cluster's own authorities too, and explain a refusal.

obstore, httpx2 and hf_xet read ``SSL_CERT_FILE`` and then trust nothing else. So the authorities of the cluster are
added to a copy of the public ones.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

from finetune_api.failures import Reason, StageFailure
from finetune_api.stage import CA_BUNDLE_VARIABLE

_CERT_FILE = "SSL_CERT_FILE"
_PUBLIC = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where distributions keep the public authorities in one file."""

# In the debug text of obstore, and in the message of Python's ssl module.
_REFUSED = re.compile(
    r"InvalidCertificate\(\s*(?:Other\(\s*OtherError\(\s*)?(\w+)|certificate verify failed: (\w[\w ,'-]*)"
)
_CAUSES = (
    (
        r"UnknownIssuer|self-signed|local issuer",
        "no certificate authority that is trusted here has signed the certificate of {host}; set trainer.caBundle of "
        f"the chart to its authority, or with finetune run {CA_BUNDLE_VARIABLE} to a file with it",
    ),
    (
        r"CaUsedAsEndEntity",
        "the certificate of {host} is that of an authority; give the server one that the authority has signed",
    ),
    (
        r"NotValidForName|mismatch",
        "the certificate of {host} is for another host; use the host name in the certificate, or replace it",
    ),
    (
        r"Expired|NotValidYet|expired|not yet valid",
        "the certificate of {host} has expired or is not valid yet; renew it, and check the clocks",
    ),
    (r"", "the certificate of {host} is invalid ({word}); replace it"),
)

log = logging.getLogger(__name__)


def trust_bundle(directory: Path) -> None:
    """Trust the authorities in the file of ``FINETUNE_CA_BUNDLE``, besides the public ones.

    Applies to this process and those that it starts later. Does nothing if the variable is not set.

    Args:
        directory: A directory for the file with all authorities.

    Raises:
        StageFailure: BadConfiguration when the file cannot be read or contains no certificate.
    """
    bundle = os.environ.get(CA_BUNDLE_VARIABLE)
    if not bundle:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=bundle)
    except OSError as error:  # ssl.SSLError is one too.
        what = "contains no valid PEM certificate" if isinstance(error, ssl.SSLError) else "cannot be read"
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"The CA bundle {bundle} {what}; correct trainer.caBundle of the chart, or {CA_BUNDLE_VARIABLE}",
        ) from None
    public = next((path for path in _public_files() if path.is_file()), None)
    if public is None:
        log.warning("this machine has no public certificate authorities; only those in %s are trusted", bundle)
    combined = directory / "ca-certificates.crt"
    combined.write_bytes(b"\n".join(path.read_bytes() for path in (public, Path(bundle)) if path))
    os.environ[_CERT_FILE] = str(combined)


def cause_of_refusal(text: str, host: str) -> str | None:
    """Why the certificate of ``host`` was refused, and what to do, from the text of an error; None if it was not."""
    found = _REFUSED.search(text)
    if found is None:
        return None
    word = found[1] or found[2]
    cause = next(cause for pattern, cause in _CAUSES if re.search(pattern, word))
    return cause.format(host=host, word=word)


def _public_files() -> Iterator[Path]:
    configured = (os.environ.get(_CERT_FILE), ssl.get_default_verify_paths().cafile)
    return (Path(path) for path in (*configured, *_PUBLIC) if path)
