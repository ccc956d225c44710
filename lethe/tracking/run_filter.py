"""Evaluate MLflow's search language on runs: `metrics.avg_gap < 1 AND params.unlearn = 'MIMU'`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lethe.flag_error import FlagError
from lethe.nearest_name import did_you_mean
from lethe.tracking.stored_run import STATUSES, StoredRun

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
# Each blank matches in one way only, so that a malformed list takes no exponential time.
LIST = rf"\(\s*(?:{TEXT})(?:\s*(?:,\s*)?(?:{TEXT}))*\s*(?:,\s*)?\)"
CLAUSE = re.compile(
    rf"""\s*(?:(?P<kind>[A-Za-z]+)\.)?
    (?P<key>`[^`]+`|"[^"]+"|[\w./:-]+)\s*
    (?:(?P<null>IS\s+NOT\s+NULL\b|IS\s+NULL\b)
    |(?P<comparator>NOT\s+IN\b|IN\b|ILIKE\b|LIKE\b|!=|<=|>=|=|<|>)\s*
     (?P<value>{TEXT}|{LIST}|[+-]?[\w.+-]+)?)\s*""",
    re.VERBOSE | re.IGNORECASE,
)
AND = re.compile(r"AND\b", re.IGNORECASE)
EXAMPLE = "Write e.g. --filter \"metrics.avg_gap < 1 AND params.unlearn = 'MIMU'\""


Value = float | str | tuple[str, ...] | None


@dataclass(frozen=True)
class Clause:
    """One comparison: kind (metric, param, tag, attribute), key, comparator (upper case) and value."""

    kind: str
    key: str
    comparator: str
    value: Value

    def holds(self, run: StoredRun) -> bool:
        """Return whether the run meets the comparison. As in MLflow, != is false if the key is missing."""
        found = self.found_in(run)
        if self.comparator in NULLS:
            return (found is None) == (self.comparator == "IS NULL")
        return found is not None and self.compares(found)

    def found_in(self, run: StoredRun) -> Any:
        """Return the run's value; None if it has none."""
        if self.kind == "attribute":
            return getattr(run, self.key)
        places: dict[str, Mapping[str, Any]] = {"metric": run.metrics, "param": run.params, "tag": run.tags}
        return places[self.kind].get(self.key)

    def compares(self, found: Any) -> bool:
        if isinstance(self.value, tuple):
            return (found in self.value) == (self.comparator == "IN")
        if self.comparator in ("LIKE", "ILIKE"):
            return like(str(self.value), ignore_case=self.comparator == "ILIKE").fullmatch(found) is not None
        return ORDERINGS[self.comparator](found, self.value)


def parse_filter(text: str) -> tuple[Clause, ...]:
    """Parse comparisons joined by AND. Raises ValueError for anything else.

    metrics.NAME, attributes.start_time and .end_time (ms since 1970): = != < <= > >= NUMBER.
    params.NAME, tags.NAME, attributes.status, .run_id and .run_name: = != LIKE ILIKE 'TEXT', IN and NOT IN
    ('A', 'B').
    params.NAME and tags.NAME: IS NULL and IS NOT NULL.
    `attributes.` is optional. Names with other signs than letters, digits and _./:- need `backticks`.
    """
    clauses = []
    place = 0
    while True:
        found = CLAUSE.match(text, place)
        if found is None:
            raise refused("NAME COMPARATOR VALUE", repr(text[place:]))
        clauses.append(clause_of(found))
        place = found.end()
        if place == len(text):
            return tuple(clauses)
        joined = AND.match(text, place)
        if joined is None:
            remedy = "MLflow's language has no OR and no brackets"
            raise refused("AND or the end", repr(text[place:]), remedy)
        place = joined.end()


def refused(expected: str, got: str, remedy: str = EXAMPLE) -> FlagError:
    return FlagError("filter", f"expected {expected}, got {got}. {remedy}")


def clause_of(found: re.Match[str]) -> Clause:
    given, key = (found["kind"] or "").lower(), found["key"].strip('`"')
    if given not in KINDS:
        raise refused("metrics, params, tags or attributes before the dot", f"{given}.{key}")
    kind = KINDS[given]
    comparator = " ".join((found["null"] or found["comparator"]).upper().split())
    if kind == "attribute" and key not in ATTRIBUTES:
        names = f"metrics.NAME, params.NAME, tags.NAME or one of {', '.join(ATTRIBUTES)}"
        raise refused(names, key, "Write the kind before the name")
    numeric = kind == "metric" or (kind == "attribute" and key in TIMES)
    allowed = ON_NUMBERS if numeric else ON_TEXT
    if kind in ("param", "tag"):
        allowed += NULLS
    if comparator not in allowed:
        raise refused(f"{' '.join(allowed)} after {kind} {key}", comparator, "Params and tags are text")
    value = value_of(found["value"] or "", comparator, numeric, f"{kind} {key} {comparator}")
    if kind == "attribute" and key == "status":
        check_status(value, comparator)
    return Clause(kind, key, comparator, value)


def check_status(value: Value, comparator: str) -> None:
    """Raise ValueError for an unknown status."""
    if comparator in ("LIKE", "ILIKE"):
        pattern = like(str(value), ignore_case=comparator == "ILIKE")
        if not any(map(pattern.fullmatch, STATUSES)):
            statuses = f"a pattern that one of {', '.join(STATUSES)} meets"
            raise refused(statuses, repr(value), "Statuses are upper case")
        return
    for status in value if isinstance(value, tuple) else (str(value),):
        if status not in STATUSES:
            raise FlagError("filter", did_you_mean("status", status, STATUSES, "statuses"))


def value_of(text: str, comparator: str, numeric: bool, after: str) -> Value:
    if comparator in NULLS:
        return None
    if numeric:
        return number_of(text, after)
    texts = [quoted[1:-1] for quoted in re.findall(TEXT, text)]
    in_brackets = text.startswith("(")
    if comparator in ("IN", "NOT IN"):
        if not in_brackets or not texts:
            raise refused(f"texts in brackets after {after}", text or "nothing", "Write e.g. ('A', 'B')")
        return tuple(texts)
    if in_brackets or len(texts) != 1:
        raise refused(f"a text in quotes after {after}", text or "nothing")
    return texts[0]


def number_of(text: str, after: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise refused(f"a number after {after}", text or "nothing") from None
    if math.isnan(number):
        raise refused(f"a number after {after}", text, "No comparison with NaN is true")
    return number


def like(pattern: str, *, ignore_case: bool) -> re.Pattern[str]:
    """Return the pattern of SQL's LIKE: % is any text, _ any character.

    Atomic groups match each part between two % at its first place: backtracking finds nothing more, and takes
    exponential time.
    """
    parts = ["".join("." if sign == "_" else re.escape(sign) for sign in part) for part in pattern.split("%")]
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    if len(parts) == 1:
        return re.compile(parts[0], flags)
    first, *between, last = parts
    return re.compile(first + "".join(f"(?>.*?{part})" for part in between) + f".*{last}", flags)


def for_mlflow(clauses: tuple[Clause, ...]) -> str:
    """Return the comparisons that a server evaluates as `Clause.holds`, so that it sends fewer runs.

    Leaves out metrics (MLflow's databases store 0 for NaN and the largest float for infinity), and lists,
    which it does not support.
    """
    same = (
        clause for clause in clauses if clause.kind in ("param", "tag") and clause.comparator in ("=", "LIKE")
    )
    return " AND ".join(
        f"{clause.kind}.`{clause.key}` {clause.comparator} '{clause.value}'"
        for clause in same
        if "'" not in str(clause.value)
    )
