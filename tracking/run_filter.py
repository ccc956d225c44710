"""Evaluate MLflow's search language on runs: `metrics.avg_gap < 1 AND params.unlearn = 'MIMU'`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nearest_name import did_you_mean
from tracking.stored_run import STATUSES, StoredRun

KINDS = {
    **dict.fromkeys(("metric", "metrics"), "metric"),
    **dict.fromkeys(("param", "params", "parameter", "parameters"), "param"),
    **dict.fromkeys(("tag", "tags"), "tag"),
    **dict.fromkeys(("attribute", "attributes", "attr", "run", ""), "attribute"),
}
TIMES = ("start_time", "end_time")
ATTRIBUTES = ("run_id", "run_name", "status", *TIMES)
ORDERINGS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
ON_NUMBERS = tuple(ORDERINGS)
ON_TEXT = ("=", "!=", "LIKE", "ILIKE", "IN", "NOT IN")
NULLS = ("IS NULL", "IS NOT NULL")

TEXT = r"'[^']*'|\"[^\"]*\""
LIST = rf"\(\s*(?:{TEXT})(?:\s*(?:,\s*)?(?:{TEXT}))*\s*(?:,\s*)?\)"  # one reading of every blank: no time is lost on others
CLAUSE = re.compile(
    rf"""\s*(?:(?P<kind>[A-Za-z]+)\.)?
    (?P<key>`[^`]+`|"[^"]+"|[\w./:-]+)\s*
    (?:(?P<null>IS\s+NOT\s+NULL\b|IS\s+NULL\b)
    |(?P<comparator>NOT\s+IN\b|IN\b|ILIKE\b|LIKE\b|!=|<=|>=|=|<|>)\s*(?P<value>{TEXT}|{LIST}|[+-]?[\w.+-]+)?)\s*""",
    re.VERBOSE | re.IGNORECASE,
)
EXAMPLE = "Write e.g. --filter \"metrics.avg_gap < 1 AND params.unlearn = 'MIMU'\""


@dataclass(frozen=True)
class Clause:
    """One comparison: kind (metric, param, tag, attribute), key, comparator (upper case) and value."""

    kind: str
    key: str
    comparator: str
    value: float | str | tuple[str, ...] | None

    def holds(self, run: StoredRun) -> bool:
        """Return whether the run fulfils the comparison. As in MLflow, != is false for a run without the key."""
        found = self.of(run)
        if self.comparator in NULLS:
            return (found is None) == (self.comparator == "IS NULL")
        return found is not None and self.compares(found)

    def of(self, run: StoredRun) -> Any:
        places: dict[str, Mapping[str, Any]] = {"metric": run.metrics, "param": run.params, "tag": run.tags}
        return getattr(run, self.key) if self.kind == "attribute" else places[self.kind].get(self.key)

    def compares(self, found: Any) -> bool:
        if isinstance(self.value, tuple):
            return (found in self.value) == (self.comparator == "IN")
        if self.comparator in ("LIKE", "ILIKE"):
            return like(str(self.value), ignore_case=self.comparator == "ILIKE").fullmatch(found) is not None
        return ORDERINGS[self.comparator](found, self.value)


def parse_filter(text: str) -> tuple[Clause, ...]:
    """The comparisons that AND joins. Raises ValueError for what is none, in the words of the language.

    metrics.NAME, attributes.start_time and .end_time (ms since 1970): = != < <= > >= NUMBER.  params.NAME,
    tags.NAME, attributes.status,
    .run_id and .run_name: = != LIKE ILIKE 'TEXT', IN and NOT IN ('A', 'B'); of params and tags also IS NULL,
    IS NOT NULL. `attributes.` may be left out; a name with other signs than letters, digits and _./:- stands
    in `backticks`.
    """
    clauses = []
    place = 0
    while True:
        found = CLAUSE.match(text, place)
        if found is None:
            raise ValueError(f"--filter: expected NAME COMPARATOR VALUE, got {text[place:]!r}. {EXAMPLE}")
        clauses.append(clause_of(found))
        place = found.end()
        if place == len(text):
            return tuple(clauses)
        joined = re.compile(r"AND\b", re.IGNORECASE).match(text, place)
        if joined is None:
            raise ValueError(
                f"--filter: expected AND or the end, got {text[place:]!r}. MLflow's language has no OR and "
                "no brackets"
            )
        place = joined.end()


def clause_of(found: re.Match[str]) -> Clause:
    given, key = (found["kind"] or "").lower(), found["key"].strip('`"')
    if given not in KINDS:
        raise ValueError(
            f"--filter: expected metrics, params, tags or attributes before the dot, got {given}.{key}. "
            f"{EXAMPLE}"
        )
    kind, comparator = KINDS[given], " ".join((found["null"] or found["comparator"]).upper().split())
    if kind == "attribute" and key not in ATTRIBUTES:
        raise ValueError(
            f"--filter: expected metrics.NAME, params.NAME, tags.NAME or one of {', '.join(ATTRIBUTES)}, got "
            f"{key}. "
            "Say which kind of name it is"
        )
    numeric = kind == "metric" or (kind == "attribute" and key in TIMES)
    allowed = ON_NUMBERS if numeric else ON_TEXT + (NULLS if kind in ("param", "tag") else ())
    if comparator not in allowed:
        raise ValueError(
            f"--filter: expected {' '.join(allowed)} after {kind} {key}, got {comparator}. Params and tags "
            "are text"
        )
    value = value_of(found["value"] or "", comparator, numeric, f"{kind} {key} {comparator}")
    if kind == "attribute" and key == "status":
        check_status(value, comparator)
    return Clause(kind, key, comparator, value)


def check_status(value: float | str | tuple[str, ...] | None, comparator: str) -> None:
    """Raise ValueError for an unknown status."""
    if comparator in ("LIKE", "ILIKE"):
        pattern = like(str(value), ignore_case=comparator == "ILIKE")
        if not any(map(pattern.fullmatch, STATUSES)):
            raise ValueError(
                f"--filter: expected a pattern that one of {', '.join(STATUSES)} meets, got {value!r}. "
                "Statuses are upper case"
            )
        return
    for status in value if isinstance(value, tuple) else (str(value),):
        if status not in STATUSES:
            raise ValueError(f"--filter: {did_you_mean('status', status, STATUSES, 'statuses')}")


def value_of(text: str, comparator: str, numeric: bool, after: str) -> float | str | tuple[str, ...] | None:
    if comparator in NULLS:
        return None
    texts = [quoted[1:-1] for quoted in re.findall(TEXT, text)]
    if comparator in ("IN", "NOT IN"):
        if text.startswith("(") and texts:
            return tuple(texts)
        raise ValueError(
            f"--filter: expected texts in brackets after {after}, got {text or 'nothing'}. Write e.g. ('A', "
            "'B')"
        )
    if numeric:
        try:
            number = float(text)
        except ValueError:
            raise ValueError(
                f"--filter: expected a number after {after}, got {text or 'nothing'}. {EXAMPLE}"
            ) from None
        if math.isnan(number):
            raise ValueError(
                f"--filter: expected a number after {after}, got {text}. Nothing compares with NaN"
            )
        return number
    if len(texts) != 1 or text.startswith("("):
        raise ValueError(
            f"--filter: expected a text in quotes after {after}, got {text or 'nothing'}. {EXAMPLE}"
        )
    return texts[0]


def like(pattern: str, *, ignore_case: bool) -> re.Pattern[str]:
    """Return the pattern of SQL's LIKE: % is any text, _ any character.

    Atomic groups match each part between two % at its first place: backtracking never helps, and would take
    exponential time.
    """
    parts = ["".join("." if sign == "_" else re.escape(sign) for sign in part) for part in pattern.split("%")]
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    if len(parts) == 1:
        return re.compile(parts[0], flags)
    first, *between, last = parts
    return re.compile(first + "".join(f"(?>.*?{part})" for part in between) + f".*{last}", flags)


def for_mlflow(clauses: tuple[Clause, ...]) -> str:
    """Return the comparisons that a server evaluates in the same way, so that it sends fewer runs.

    Leaves out metrics (MLflow's databases store 0 for NaN and the largest float for infinity), and lists,
    which it does not support.
    """
    return " AND ".join(
        f"{clause.kind}.`{clause.key}` {clause.comparator} {quoted(str(clause.value))}"
        for clause in clauses
        if clause.kind in ("param", "tag")
        and clause.comparator in ("=", "LIKE")
        and "'" not in str(clause.value)
    )


def quoted(text: str) -> str:
    return f"'{text}'"
