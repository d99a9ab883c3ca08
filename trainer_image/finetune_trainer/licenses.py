"""The licence of a base model."""

from __future__ import annotations

import re
from pathlib import Path

_LICENSE = re.compile(r"[ -~]{1,100}")


def license_of(readme: Path) -> str | None:
    """The licence in the front matter of a model card; None when the card or its front matter is absent or invalid."""
    from huggingface_hub import metadata_load

    try:
        license_id = (metadata_load(readme) or {}).get("license")
    except Exception:  # PyYAML also raises AttributeError, IndexError and others for malformed scalars.
        return None
    return license_id if isinstance(license_id, str) and _LICENSE.fullmatch(license_id) else None
