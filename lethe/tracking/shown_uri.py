"""Hide passwords in the addresses of stores, and in text that may contain them."""

from __future__ import annotations

import re

# User and password, up to the last @ before a blank, as SQLAlchemy accepts slashes in a password.
# In quotes: the part of a password that a driver takes for the host.
WHO = re.compile(r"(://|https?:/{3,})(?:[^:/@\s\"]*:[^\s\"]*|[^/\s\"]*)@|(\")[^/\s\"]*@")

# A secret with its name: ?password=..., &sslpassword=..., X-Amz-Signature=..., and libpq's password='...'.
SECRET = re.compile(
    r"\b([\w-]*(?:password|passwd|pwd|token|secret|credential|signature|api_?key|access_?key|\bsig)=)"
    r"(?:'[^']*'|\"[^\"]*\"|[^\s&;,)'\"]*)",
    re.IGNORECASE,
)
IN_JSON = re.compile(r"([\"'][\w-]*(?:password|token|secret)[\"']\s*:\s*[\"'])[^\"']*", re.IGNORECASE)
HEADER = re.compile(r"(authorization\W+(?:basic|bearer)\s+)[^\s'\"]+", re.I)

LONGEST_REASON = 600  # characters: some servers and drivers send whole pages
LONGEST_WORD = 200  # characters of a word in a message that is too long


def without_password(text: str) -> str:
    """Return a text with *** for user, password and token in its addresses."""
    text = WHO.sub(lambda found: f"{found[1] or found[2]}***@", text)
    text = SECRET.sub(r"\1***", text)
    text = IN_JSON.sub(r"\1***", text)
    return HEADER.sub(r"\1***", text)


def one_line(error: object) -> str:
    """Return an error's message on one line, cut at a word where it is too long, without a password."""
    line = " ".join(without_password(str(error)).split()) or type(error).__name__
    if len(line) <= LONGEST_REASON:
        return line
    start = " ".join(word[:LONGEST_WORD] for word in line.split())[: LONGEST_REASON + 1]
    return f"{start.rpartition(' ')[0] if len(start) > LONGEST_REASON else start} [...]"
