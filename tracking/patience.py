"""Retry calls to a tracking store that is busy; fail at once for a wrong one.

Every call that reads or writes a store goes through `patiently`. It switches MLflow's own retries off, which
wait four minutes for a wrong server and only seconds for a locked database.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

from machine_limits import chain_of
from tracking.shown_uri import without_password

PATIENCE = (
    150.0  # seconds: a backup, a database browser or a server's restart holds a store for a minute or two
)
BRIEFLY = 3.0  # for an answer that was lost
ONCE = 0.0  # no second attempt
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
NOTICE_AFTER = 5.0  # seconds of waiting before the reason is printed
ANSWER_SECONDS, CONNECT_SECONDS = 60, 10  # of one request
LONGEST_REASON = 200

# busy: passes. away: passes if the store has been reached before. wrong: does not pass.
State = Literal["busy", "away", "wrong"]
STATUSES: Mapping[int, State] = {
    408: "busy",
    425: "busy",
    429: "busy",
    503: "busy",
    504: "busy",
    500: "away",
    502: "away",
}
SQLITE_STATES: Mapping[int, State] = {sqlite3.SQLITE_BUSY: "busy", sqlite3.SQLITE_LOCKED: "busy"}

# PostgreSQL's classes of errors: resources, conflicts of transactions, a lock, a start; a shutdown, a
# connection.
SQLSTATES: tuple[tuple[str, State], ...] = (
    ("53", "busy"),
    ("40", "busy"),
    ("55P03", "busy"),
    ("57P03", "busy"),
    ("57P0", "away"),
    ("08", "away"),
)

# A failed connection has no such code: messages of the drivers of PostgreSQL and MySQL.
TEXT_STATES: tuple[tuple[re.Pattern[str], State], ...] = (
    (
        re.compile(
            r"starting up|shutting down|recovery mode|too many (clients|connections)|connection slots|lock wait|deadlock",
            re.I,
        ),
        "busy",
    ),
    (re.compile(r"database( table)? is locked|temporarily", re.I), "busy"),
    (
        re.compile(
            r"refused|closed the connection|connection was closed|can't connect|could not connect|gone away|lost connection",
            re.I,
        ),
        "away",
    ),
    (re.compile(r"broken pipe|reset by peer|no route to host|timed out|timeout expired", re.I), "away"),
)
WRONG = re.compile(
    r"authentication failed|does not exist|access denied|unknown database|could not translate host name", re.I
)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Trouble:
    """The state of the store, and the reason in one line without a password."""

    state: State
    reason: str


class StoreTrouble(Exception):
    """Raised if the store can't be used. `refused`: it answered with an error that waiting does not change."""

    def __init__(self, trouble: Trouble, waited: float = 0.0) -> None:
        after = f", for {waited:.0f} s" if waited >= NOTICE_AFTER else ""
        super().__init__(trouble.reason + after)
        self.state = trouble.state
        self.refused = trouble.state == "wrong"


_given_up = (
    False  # whether the last call waited in vain: later runs of this process then do not wait, see `known`
)


def patiently(
    call: Callable[[], Answer],
    *,
    known: bool = False,
    patience: float | None = None,
    of: type[Exception] | tuple[type[Exception], ...] = Exception,
) -> Answer:
    """Call until the store answers, and return the answer.

    known: this process has used the store before, so a store that is away will come back.
    patience: seconds (default: PATIENCE). of: the errors of the store.
    Raises StoreTrouble, from the last error, if the store is wrong or patience has ended. MemoryError is not
    caught.
    """
    global _given_up
    limit = PATIENCE if patience is None else patience
    if known and _given_up:
        limit = 0.0
    began = time.monotonic()
    pause, announced = FIRST_PAUSE, False
    while True:
        try:
            with _no_other_retries():
                answer = call()
            _given_up = False
            return answer
        except (MemoryError, StoreTrouble):
            raise
        except of as error:  # MLflow, SQLAlchemy, drivers and clients of clouds have errors of their own
            trouble = trouble_of(error)
            waited = time.monotonic() - began
            if waited + pause > min(limit, _worth(trouble.state, known)):
                _given_up = known and trouble.state != "wrong"
                raise StoreTrouble(trouble, waited) from error
        if waited > NOTICE_AFTER and not announced:
            announced = True
            print(f"waiting for the tracking store, up to {limit:.0f} s: {trouble.reason}", file=sys.stderr)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _worth(state: State, known: bool) -> float:
    """Return how long to wait: briefly for a store never reached, whose address may be wrong."""
    if state == "busy" or (state == "away" and known):
        return math.inf
    return BRIEFLY if state == "away" else 0.0


def trouble_of(error: BaseException) -> Trouble:
    """Classify an error by the innermost one in its chain that has a known state."""
    found = None
    for one in chain_of(error):
        found = _of_database(one) or _of_http(one) or found
    return found or Trouble(_state_of_text(str(error)), reason_of(error))


def reason_of(error: BaseException) -> str:
    """Return an error on one line of bounded length, without a password."""
    text = " ".join(str(error).split()) or type(error).__name__
    return without_password(text)[:LONGEST_REASON]


def _of_database(error: BaseException) -> Trouble | None:
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.exc import TimeoutError as NoConnectionLeft

    if isinstance(error, NoConnectionLeft):
        return Trouble("busy", "no connection is free")
    if isinstance(error, DBAPIError):
        inner = error.orig or error
        return Trouble("away" if error.connection_invalidated else _state_of_driver(inner), reason_of(inner))
    return Trouble(_state_of_driver(error), reason_of(error)) if isinstance(error, sqlite3.Error) else None


def _state_of_driver(error: BaseException) -> State:
    """Classify by the code of sqlite or PostgreSQL, else by the message."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return SQLITE_STATES.get(code & 0xFF, "wrong")
    sqlstate = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
    if isinstance(sqlstate, str):
        return next((state for start, state in SQLSTATES if sqlstate.startswith(start)), "wrong")
    return _state_of_text(str(error))


def _state_of_text(text: str) -> State:
    if WRONG.search(text):
        return "wrong"
    return next((state for words, state in TEXT_STATES if words.search(text)), "wrong")


def _of_http(error: BaseException) -> Trouble | None:
    import requests
    from urllib3.exceptions import ReadTimeoutError

    layers = list(_layers(error))
    if any(isinstance(one, requests.exceptions.ReadTimeout | ReadTimeoutError) for one in layers):
        return Trouble("busy", f"no answer within {ANSWER_SECONDS} s")
    status = _status_of(error)
    if status is not None:
        return Trouble(STATUSES.get(status, "wrong"), f"the server answers with status {status}")
    if isinstance(error, requests.exceptions.InvalidURL):
        return Trouble("wrong", reason_of(error))
    if isinstance(error, requests.exceptions.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return Trouble("away", f"the server does not answer ({type(layers[-1]).__name__})")
    if isinstance(error, ConnectionError):  # Python's own: of a client that is not MLflow's, as a cloud's
        return Trouble("away", reason_of(error))
    if "not in a valid JSON format" in str(error):
        return Trouble("away", "what answers is no MLflow server: the answer is no JSON")
    return None


def _status_of(error: BaseException) -> int | None:
    """The status of an answer that a request was given up for."""
    import requests

    if isinstance(
        error, requests.exceptions.RetryError
    ):  # no retries: the first answer that would be worth one
        found = re.search(r"too many (\d{3}) error", str(error))
        return int(found[1]) if found else None
    response = getattr(error, "response", None)
    return response.status_code if isinstance(response, requests.Response) else None


def _layers(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it wraps, to the innermost, as ConnectionRefusedError: clients hide them in
    their arguments.
    """
    one: BaseException | None = error
    while one is not None:
        yield one
        one = _within(one)


def _within(error: BaseException) -> BaseException | None:
    wrapped = (getattr(error, "reason", None), *error.args, error.__cause__)
    return next((one for one in wrapped if isinstance(one, BaseException) and one is not error), None)


@contextmanager
def _no_other_retries() -> Iterator[None]:
    """MLflow's requests are made once, and have a time limit, unless a person has set another; it prints no
    traceback and no address.
    """
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    own = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": ANSWER_SECONDS, "PGCONNECT_TIMEOUT": CONNECT_SECONDS}
    own |= {name: str(seconds) for name, seconds in limits.items() if name not in os.environ}
    with environment(own):
        yield


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment, for as long as this lasts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
