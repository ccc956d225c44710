"""The message for an unknown name: the nearest match, and the known names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(
    kind: str, name: str, known: Iterable[str], plural: str = "", listed: Iterable[str] | None = None
) -> str:
    """Return one line: the nearest match among the known names, and the `listed` ones (default: all)."""
    known = sorted(known, key=str.casefold)
    listed = known if listed is None else sorted(listed, key=str.casefold)
    folded = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    hint = f" Did you mean {folded[near[0]]!r}?" if near else ""
    plural = plural or f"{kind}s"
    return f"unknown {kind} {name!r}.{hint} {plural[:1].upper()}{plural[1:]}: {', '.join(listed) or 'none'}"
