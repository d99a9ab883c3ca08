"""Object store clients: endpoint, credentials, timeouts and retries, all configured by environment variables.

obstore reads ``AWS_*``, ``GOOGLE_*`` and ``AZURE_*`` itself, including web identity and workload identity. This module
adds what obstore lacks: plain HTTP for ``http://`` endpoints, AWS profile files, and ``AWS_CA_BUNDLE``.
"""

from __future__ import annotations

import configparser
import os
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.storage.credentials import variables_for
from finetune_trainer.storage.errors import Answer
from finetune_trainer.storage.location import Location

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Config

_CONNECT_TIMEOUT = timedelta(seconds=5)
_SMALL_REQUEST_TIMEOUT = timedelta(seconds=30)
# Allows eight concurrent requests of 16 MiB on a home uplink.
_BULK_REQUEST_TIMEOUT = timedelta(minutes=5)

# How long requests to an unreachable service are retried. Then the stage fails as Unavailable and the operator retries.
PATIENCE_VARIABLE = "FINETUNE_STORAGE_PATIENCE_SECONDS"
_DEFAULT_PATIENCE = "60"

_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_STORES: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
_AMBIENT_AWS = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")


def store_for(location: Location, bulk: bool = False) -> ObjectStore:
    """The client for the bucket of ``location``.

    Clients are cached per bucket and credentials, so that tokens and connections are reused.

    Args:
        location: An address whose scheme is not ``file``.
        bulk: Use the longer timeout, for requests with megabytes of payload.

    Raises:
        StageFailure: BadConfiguration when an endpoint, an AWS profile or a credentials file is invalid.
    """
    prefixes = (PATIENCE_VARIABLE, *{"s3": ("AWS_", "HOME"), "gs": ("GOOGLE_",), "az": ("AZURE_",)}[location.scheme])
    own = variables_for(location.uri)
    environment = tuple(
        sorted((name, value) for name, value in (os.environ | own).items() if name.startswith(prefixes))
    )
    settings = tuple(sorted((name, value) for name, value in own.items() if _is_setting(name, location.scheme)))
    return _build(location.scheme, location.bucket, bulk, environment, settings)


def _is_setting(name: str, scheme: str) -> bool:
    """Whether obstore accepts this variable as a setting; this module reads ``AWS_CA_BUNDLE`` itself."""
    return name.startswith({"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}[scheme]) and name != "AWS_CA_BUNDLE"


@lru_cache(maxsize=32)
def _build(
    scheme: str,
    bucket: str,
    bulk: bool,
    environment: tuple[tuple[str, str], ...],
    settings: tuple[tuple[str, str], ...],
) -> ObjectStore:
    """``settings`` holds the variables that are not in the environment, where obstore reads the others itself."""
    variables = dict(environment)
    retry_config = _retry_config(variables)
    profile = _aws_profile(variables) if scheme == "s3" else {}
    options = _client_options(scheme, variables, bulk, profile.get("endpoint"))
    config: Any = {**profile, **dict(settings)}
    create = partial(_STORES[scheme], bucket, config=config)
    once = {"client_options": {**options, "timeout": _CONNECT_TIMEOUT}, "retry_config": {"max_retries": 0}}
    try:
        store: ObjectStore = create(client_options=options, retry_config=retry_config)
        probe: ObjectStore = create(**once)
    except (exceptions.BaseError, ValueError) as error:
        raise StageFailure(Reason.BAD_CONFIGURATION, _settings_sentence(scheme, bucket, str(error))) from None
    if any(url.startswith("https://") for _, url in _endpoints(scheme, variables, profile.get("endpoint"))):
        _check_certificate(probe)
    return store


def _check_certificate(probe: ObjectStore) -> None:
    """Raise the error of obstore if it refuses the certificate of the service.

    ``probe`` makes no retries: obstore retries such an error like any other, which takes a minute.
    """
    try:
        obstore.head(probe, "certificate")
    except (exceptions.BaseError, OSError) as error:
        if Answer.of(error).refused_certificate:
            raise


def _retry_config(variables: dict[str, str]) -> RetryConfig:
    try:
        patience = timedelta(seconds=float(variables.get(PATIENCE_VARIABLE, _DEFAULT_PATIENCE)))
    except (ValueError, OverflowError):
        message = f"{PATIENCE_VARIABLE} is not a number of seconds; set it to a number such as {_DEFAULT_PATIENCE}"
        raise StageFailure(Reason.BAD_CONFIGURATION, message) from None
    return {
        "max_retries": 100,  # retry_timeout is the limit
        "retry_timeout": patience,
        "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=10), "base": 2},
    }


def _settings_sentence(scheme: str, bucket: str, text: str) -> str:
    causes: dict[str, str] = {
        "service account file": "cannot read the file in GOOGLE_APPLICATION_CREDENTIALS; mount it",
        "Account must be specified": "the storage account is not set; set AZURE_STORAGE_ACCOUNT_NAME",
        "Invalid Access Key": "AZURE_STORAGE_ACCOUNT_KEY is not base64; copy the key again",
        "Missing SecretAccessKey": "AWS_ACCESS_KEY_ID is set, AWS_SECRET_ACCESS_KEY is not; put both into the Secret",
        "Missing AccessKeyId": "AWS_SECRET_ACCESS_KEY is set, AWS_ACCESS_KEY_ID is not; put both into the Secret",
        "root_certificate": "the file in AWS_CA_BUNDLE contains no PEM certificate; set it to a file that does",
    }
    for fragment, cause in causes.items():
        if fragment in text:
            return f"Cannot use {scheme}://{bucket}: {cause}"
    return f"Cannot use {scheme}://{bucket}: an environment variable for this service is invalid; correct it"


def _client_options(scheme: str, variables: dict[str, str], bulk: bool, configured: str | None = None) -> ClientConfig:
    options: ClientConfig = {
        "connect_timeout": _CONNECT_TIMEOUT,
        "timeout": _BULK_REQUEST_TIMEOUT if bulk else _SMALL_REQUEST_TIMEOUT,
    }
    for name, url in _endpoints(scheme, variables, configured):
        if not url.startswith(("http://", "https://")):
            raise StageFailure(
                Reason.BAD_CONFIGURATION, f"{name} is not an HTTP URL; set it to https://host or http://host:port"
            )
        if url.startswith("http://"):
            options["allow_http"] = True
    bundle = variables.get("AWS_CA_BUNDLE")
    if bundle and scheme == "s3":
        options["root_certificate"] = _read(Path(bundle), "AWS_CA_BUNDLE").encode()
    return options


def _endpoints(scheme: str, variables: dict[str, str], configured: str | None) -> list[tuple[str, str]]:
    """Each endpoint that is set, with the name of its setting; ``configured`` is that of the AWS profile."""
    named = [(name, variables[name]) for name in _ENDPOINTS[scheme] if variables.get(name)]
    return [*named, *([("endpoint_url of the AWS profile", configured)] if configured else [])]


def _aws_profile(variables: dict[str, str]) -> S3Config:
    """Static keys, region and endpoint of the AWS profile, unless environment variables set them.

    The files are ``AWS_SHARED_CREDENTIALS_FILE`` (default ``~/.aws/credentials``) and ``AWS_CONFIG_FILE`` (default
    ``~/.aws/config``). A named profile that assumes a role or uses SSO is an error: ignoring it would use an identity
    that the user did not choose.
    """
    home = Path(variables.get("HOME", "/"))
    named = variables.get("AWS_PROFILE")
    name = named or "default"
    keys = _section(variables, "AWS_SHARED_CREDENTIALS_FILE", home / ".aws/credentials", name)
    settings = _section(
        variables, "AWS_CONFIG_FILE", home / ".aws/config", name if name == "default" else f"profile {name}"
    )
    merged = settings | keys
    profile: S3Config = {}
    if not any(variables.get(variable) for variable in _AMBIENT_AWS):
        if {"aws_access_key_id", "aws_secret_access_key"} <= merged.keys():
            profile["access_key_id"] = merged["aws_access_key_id"]
            profile["secret_access_key"] = merged["aws_secret_access_key"]
            if "aws_session_token" in merged:
                profile["session_token"] = merged["aws_session_token"]
        elif named:
            raise StageFailure(
                Reason.BAD_CONFIGURATION,
                f"The AWS profile {named} has no aws_access_key_id and aws_secret_access_key; use a profile that "
                "has both, or set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
            )
    if "region" in merged and not (variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")):
        profile["region"] = merged["region"]
    if "endpoint_url" in merged and not any(variables.get(variable) for variable in _ENDPOINTS["s3"]):
        profile["endpoint"] = merged["endpoint_url"]
    return profile


def _section(variables: dict[str, str], variable: str, default: Path, name: str) -> dict[str, str]:
    path = Path(variables[variable]) if variables.get(variable) else default
    if not variables.get(variable) and not path.is_file():
        return {}
    parser = configparser.RawConfigParser(default_section="", strict=False)
    text = _read(path, variable)
    try:
        parser.read_string(text)
    except configparser.Error:
        raise StageFailure(
            Reason.BAD_CONFIGURATION, f"{path} is not an AWS profile file; correct or remove it"
        ) from None
    return dict(parser[name]) if parser.has_section(name) else {}


def _read(path: Path, variable: str) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        raise StageFailure(
            Reason.BAD_CONFIGURATION,
            f"Cannot read {path} ({variable}); mount the file, or correct the variable",
        ) from None
