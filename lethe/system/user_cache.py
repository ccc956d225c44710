"""The folder of the user's cache, as the system has it: what can be made again at any time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

NAME = "lethe"


def cache_folder() -> Path | None:
    """Return Lethe's folder in the user's cache, which may not be there yet; None for a user without a home.

    XDG_CACHE_HOME names the cache, if it is an absolute path; else it is where the system has it.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / NAME
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / NAME
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / NAME / "Cache"
    return home / ".cache" / NAME
