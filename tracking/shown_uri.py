"""The address of a store as it may be shown."""

from __future__ import annotations

import re

# Who and with which password, up to the last @ before a blank: SQLAlchemy takes a password with slashes in it. In quotes: the part of a
# password that a driver takes for the host.
WHO = re.compile(r"(://)(?:[^:/@\s\"]*:[^\s\"]*|[^/\s\"]*)@|(\")[^/\s\"]*@")


def without_password(text: str) -> str:
    """A text in whose addresses *** stands for user and password."""
    return WHO.sub(lambda found: f"{found[1] or found[2]}***@", text)
