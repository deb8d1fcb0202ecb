"""The folder of one user in which decoded data are kept."""

import os
from pathlib import Path


def folder() -> Path:
    """Returns the per-user folder of decoded data: $JAXAE_CACHE_DIR, or the XDG default."""
    if own := os.environ.get("JAXAE_CACHE_DIR"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxae"
