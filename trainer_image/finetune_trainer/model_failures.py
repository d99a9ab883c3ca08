"""What is wrong with a base model, or with the hub that should have it, and what to do."""

from __future__ import annotations

import os
from typing import Any

from finetune_api.failures import Reason, StageFailure
from finetune_trainer.certificates import cause_of_refusal


def failure_of_hub(uri: str, revision: str, error: Exception) -> StageFailure | None:
    """The failure for an exception of huggingface_hub; None when the hub is not the cause.

    Args:
        uri: Address of the model.
        revision: Branch, tag or commit that was asked for.
        error: The exception.
    """
    import httpx2
    from huggingface_hub import errors

    failure: StageFailure | None = None
    if isinstance(error, errors.LocalEntryNotFoundError):
        # The request to the hub failed with this cause, and the cache has no copy.
        error = error.__cause__ if isinstance(error.__cause__, Exception) else errors.OfflineModeIsEnabled()
    match error:
        case errors.RevisionNotFoundError():
            failure = StageFailure(
                Reason.NOT_FOUND, f"{uri} has no branch, tag or commit '{revision}': correct spec.model.revision"
            )
        case errors.HfHubHTTPError():
            failure = _refused(uri, error)
        case errors.NotASafetensorsRepoError():
            failure = no_weights(uri)
        case errors.SafetensorsParsingError():
            failure = bad_model(f"The safetensors files of {uri} are invalid: set spec.model.uri to another model")
        case errors.OfflineModeIsEnabled():
            failure = StageFailure(
                Reason.NOT_FOUND,
                f"{uri} at revision '{revision}' is not completely in the cache, and HF_HUB_OFFLINE prevents the "
                "download: add it to the cache in HF_HOME, or unset HF_HUB_OFFLINE",
            )
        case httpx2.ConnectError() if cause := cause_of_refusal(str(error), os.environ.get("HF_ENDPOINT") or "the hub"):
            failure = bad_model(f"Cannot reach the hub for {uri}: {cause}")
        case httpx2.HTTPError():
            failure = StageFailure(
                Reason.UNAVAILABLE,
                f"Cannot reach the hub for {uri}: check the network, and HF_ENDPOINT if it is set",
            )
    return failure


def _refused(uri: str, error: Any) -> StageFailure:
    from huggingface_hub import errors

    status: int = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        return StageFailure(
            Reason.PERMISSION_DENIED,
            f"{uri} is gated: accept its terms on the hub, and set HF_TOKEN to a token of the same account",
        )
    if status == 404 or error.response.headers.get("X-Error-Code") == "RepoNotFound":
        return StageFailure(
            Reason.NOT_FOUND,
            f"{uri} does not exist on the hub or is private: correct spec.model.uri, or set HF_TOKEN to a token with "
            "read access",
        )
    if status in (401, 403):
        return StageFailure(
            Reason.PERMISSION_DENIED,
            f"The hub denied access to {uri} (HTTP {status}): correct spec.model.uri, or set HF_TOKEN to a token with "
            "read access",
        )
    if status >= 500 or status in (408, 429):
        return StageFailure(
            Reason.UNAVAILABLE, f"The hub returned HTTP {status} for {uri}: check the status of the hub, or retry later"
        )
    return bad_model(f"The hub rejected the request for {uri} (HTTP {status}): check spec.model and HF_ENDPOINT")


class AdapterGiven(StageFailure):
    """The failure for an adapter where a whole model is needed."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            Reason.BAD_CONFIGURATION,
            f"{uri} is an adapter, not a whole model: set spec.model.uri to its base model, and spec.model.adapter.uri "
            "to this address if finetune has published it",
        )


def no_weights(uri: str) -> StageFailure:
    """The failure for a model without safetensors."""
    return bad_model(
        f"{uri} has no *.safetensors weights, the only supported format: convert them with save_pretrained"
    )


def bad_model(message: str) -> StageFailure:
    """The failure for a model that cannot be used, or an address of one."""
    return StageFailure(Reason.BAD_CONFIGURATION, message)
