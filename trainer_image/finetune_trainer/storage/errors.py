"""Turn errors of storage into a ``StageFailure`` whose message is one sentence that says what to do.

Error texts of obstore and of the service are searched for an HTTP status and an error code and never shown: they span
many lines and can contain access keys and signatures.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from obstore import exceptions

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.certificates import cause_of_refusal
from finetune_trainer.storage.location import Location

_STATUS = re.compile(r"status code: (\d{3})")
# In the response to a request, and in obstore's error for one object of DeleteObjects, which has no status.
_CODE = re.compile(r"<Code>(\w{1,64})</Code>|\(code: (\w{1,64})\)$")
_MESSAGES = re.compile(
    r"<(?:Message|Details)>(.*?)</|source: DeleteFailed \{.*?message: \"((?:[^\"\\]|\\.)*)\"", re.DOTALL
)
_QUOTED = re.compile(r"\\?\"[^\"]*\"|'[^']*'")
"""Names in a message, such as that of the object."""
_RETENTION = re.compile(r"object.?lock|\bWORM\b|retention|legal.?hold|immutable", re.IGNORECASE)
_HOST = re.compile(r"https://(?:[^/\s@]*@)?([^/\s@]+)")
_IDENTITY_SERVICE = re.compile(r"169\.254\.\d+\.\d+|metadata\.google\.internal|//sts\.|oauth2|login\.microsoftonline")

_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"}
_RETAINED = {"ObjectLocked", "BlobImmutableDueToPolicy", "BlobImmutableDueToLegalHold"}
_DENIED = {"AccessDenied", "AllAccessDisabled", "AuthorizationPermissionMismatch"}
_TROUBLED = {"InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown"}
_BAD_CREDENTIALS = {
    "AuthenticationFailed",
    "AuthorizationFailure",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "NoAuthenticationInformation",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "XAdminUserNotFound",
}
_WRONG_REGION = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}

DIRECTORY_IN_THE_WAY = "ExistingObjectIsDirectory"
"""Error code of stores on a file system, where a file and a directory cannot share a name; obstore: AlreadyExists."""

_CREDENTIALS_OF = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the pod's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or the pod's service account",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or the pod's identity",
}
_ENDPOINT_OF = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}


class AlreadyExists(StageFailure):
    """A conditional write found an existing object and did not change it."""

    def __init__(self, uri: str) -> None:
        super().__init__(Reason.BAD_CONFIGURATION, f"{uri} already exists; use a different address for each run")
        self.uri = uri


@contextmanager
def explained(location: Location, action: str) -> Iterator[None]:
    """Convert storage errors of the block into a StageFailure with the message ``Cannot <action> <address>: …``."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise service_failure(error, location, action) from None
        raise disk_failure(error, location.uri, action) from None
    except (exceptions.BaseError, ValueError) as error:
        # Without the cause: a traceback would print the response of the service, which can contain secrets.
        raise service_failure(error, location, action) from None


@contextmanager
def explained_path(path: Path, action: str) -> Iterator[None]:
    """As `explained`, for a local path that is not an address of the job, such as a scratch directory."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise disk_failure(error, str(path), action) from None


def disk_failure(error: OSError, place: str, action: str) -> StageFailure:
    """The failure for an operating system error at ``place``, an address or a local path."""
    cannot = f"Cannot {action} {place}"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return StageFailure(Reason.DISK_FULL, f"{cannot}: the disk is full; free space or enlarge the volume")
        case errno.EROFS:
            return StageFailure(Reason.PERMISSION_DENIED, f"{cannot}: the file system is read-only; mount it writable")
        case errno.EACCES | errno.EPERM:
            return StageFailure(
                Reason.PERMISSION_DENIED, f"{cannot}: permission denied; grant access to the user that runs this stage"
            )
        case errno.ENOENT:
            return StageFailure(Reason.NOT_FOUND, f"{cannot}: it does not exist; correct the address")
        case errno.ENOTDIR | errno.EISDIR | errno.EEXIST | errno.ENAMETOOLONG | errno.ELOOP:
            what = (error.strerror or "the path is not usable").lower()
            return StageFailure(Reason.BAD_CONFIGURATION, f"{cannot}: {what}; correct the address")
    what = (error.strerror or "an I/O error occurred").lower()
    return StageFailure(Reason.UNAVAILABLE, f"{cannot}: {what}; check the disk or the volume")


@dataclass(frozen=True)
class Answer:
    """The parts of an object store's error response that are safe to show or log."""

    error: Exception
    headline: str
    status: int | None
    code: str | None

    @classmethod
    def of(cls, error: Exception) -> Answer:
        text = str(error).partition("\n\nDebug source")[0]
        status = int(found[1]) if (found := _STATUS.search(text)) else None
        code = found[1] or found[2] if (found := _CODE.search(text.strip())) else None
        return cls(error, text.partition(" - ")[0], status, code)

    @property
    def refused_certificate(self) -> str | None:
        """Why the certificate of the service was refused; None if it was not."""
        if self.status is not None or self.code is not None:
            return None
        host = _HOST.search(self.headline)
        return cause_of_refusal(str(self.error), host[1] if host else "the service")

    @property
    def no_credentials(self) -> bool:
        return _IDENTITY_SERVICE.search(self.headline) is not None

    @property
    def no_bucket(self) -> bool:
        return self.code in _NO_BUCKET

    @property
    def retained(self) -> bool:
        """Whether object lock, a retention policy or a legal hold forbids to delete or replace the object."""
        if self.code in _RETAINED:
            return True
        messages = (message for found in _MESSAGES.findall(str(self.error)) for message in found)
        return any(_RETENTION.search(_QUOTED.sub("", message)) for message in messages)

    @property
    def denied(self) -> bool:
        return self.code in _DENIED

    @property
    def refused(self) -> bool:
        kinds = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
        return self.code in _BAD_CREDENTIALS | _DENIED or self.status in (401, 403) or isinstance(self.error, kinds)

    @property
    def no_object(self) -> bool:
        return isinstance(self.error, FileNotFoundError) and not (self.no_bucket or self.refused or self.no_credentials)

    @property
    def wrong_region(self) -> bool:
        return self.code in _WRONG_REGION or "incorrectly configured region" in str(self.error)

    @property
    def changed(self) -> bool:
        return self.status == 412 or isinstance(self.error, exceptions.PreconditionError)

    @property
    def full(self) -> bool:
        return self.status == 507

    @property
    def unsupported(self) -> bool:
        return self.status == 501 or isinstance(self.error, exceptions.NotSupportedError)

    @property
    def troubled(self) -> bool:
        if self.status is None:
            return self.code in _TROUBLED
        return self.status >= 500 or self.status in (408, 409, 429)


# The first matching row explains the error.
_CAUSES: tuple[tuple[Callable[[Answer], bool], Reason, str], ...] = (
    (lambda it: it.refused_certificate is not None, Reason.BAD_CONFIGURATION, "{certificate}"),
    (lambda it: it.no_credentials, Reason.PERMISSION_DENIED, "no credentials were found; set {credentials}"),
    (lambda it: it.no_bucket, Reason.NOT_FOUND, "the bucket {bucket} does not exist; create it or correct the address"),
    (
        lambda it: it.retained,
        Reason.PERMISSION_DENIED,
        "object lock or a retention policy protects it; wait until that ends, or use a bucket without it",
    ),
    (
        lambda it: it.denied,
        Reason.PERMISSION_DENIED,
        "the credentials do not permit it; grant the permission, or check {credentials}",
    ),
    (lambda it: it.refused, Reason.PERMISSION_DENIED, "the service rejected the credentials; check {credentials}"),
    (
        lambda it: it.no_object or it.status == 404,
        Reason.NOT_FOUND,
        "it does not exist; correct the address, or run the stage that writes it",
    ),
    (lambda it: it.wrong_region, Reason.BAD_CONFIGURATION, "the bucket is in another region; set AWS_REGION to it"),
    (
        lambda it: it.code == DIRECTORY_IN_THE_WAY,
        Reason.BAD_CONFIGURATION,
        "the service has a directory of that name; use another address",
    ),
    (
        lambda it: it.changed,
        Reason.UNAVAILABLE,
        "it changed during the read; retry when no other process writes to it",
    ),
    (lambda it: it.full, Reason.DISK_FULL, "the storage service is full; free space there"),
    (
        lambda it: it.unsupported,
        Reason.BAD_CONFIGURATION,
        "the service does not support this operation; use a service with conditional writes",
    ),
    (
        lambda it: it.troubled,
        Reason.UNAVAILABLE,
        "the service still returned an error after retries; check its health",
    ),
    (
        lambda it: it.status is not None or it.code is not None,
        Reason.BAD_CONFIGURATION,
        "the service rejected the request; check the address and {endpoint}",
    ),
    (
        lambda it: isinstance(it.error, ValueError),
        Reason.BAD_CONFIGURATION,
        "the address or a setting of the service is malformed; correct it",
    ),
    (
        lambda it: True,  # noqa: ARG005
        Reason.UNAVAILABLE,
        "the service could not be reached; check the network, and {endpoint} if it is set",
    ),
)


def service_failure(error: Exception, location: Location, action: str) -> StageFailure:
    """The failure for an error of an object store at ``location``."""
    answer = Answer.of(error)
    reason, cause = next((reason, cause) for matches, reason, cause in _CAUSES if matches(answer))
    cause = cause.format(
        certificate=answer.refused_certificate,
        bucket=location.bucket,
        credentials=_CREDENTIALS_OF[location.scheme],
        endpoint=_ENDPOINT_OF[location.scheme],
    )
    status = " ".join(str(part) for part in (answer.status, answer.code) if part)
    return StageFailure(reason, f"Cannot {action} {location.uri}: {cause}" + (f" ({status})" if status else ""))
