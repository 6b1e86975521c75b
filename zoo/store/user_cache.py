"""Where a user's cached files are: $XDG_CACHE_HOME/checkpoint-zoo, or ~/.cache/checkpoint-zoo."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(kind: str) -> Path:
    """The directory for one kind of files; it need not exist. Raises RuntimeError where there is no home directory."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The specification has relative paths ignored.
    root = configured if configured.is_absolute() else Path.home() / ".cache"
    return root / "checkpoint-zoo" / kind
