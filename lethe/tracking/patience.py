"""Retry calls to a tracking store that is busy; fail at once for a wrong one.

Every call that reads or writes a store goes through `patiently`. It replaces MLflow's own retries, which wait
four minutes for a wrong server and only seconds for a locked database.
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
from typing import Literal, TypeVar

from lethe.system.machine_limits import chain_of
from lethe.tracking.shown_uri import one_line

# Seconds. A backup, a database browser or a server's restart holds a store for a minute or two.
PATIENCE = 150.0
BRIEFLY = 3.0  # if an answer was lost
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
NOTICE_AFTER = 5.0  # of waiting before the reason is printed
ANSWER_SECONDS, CONNECT_SECONDS = 60, 10  # of one request

# busy: passes. away: passes if the store has been reached before. wrong: does not pass.
State = Literal["busy", "away", "wrong"]
BUSY_STATUSES, AWAY_STATUSES = (408, 425, 429, 503, 504), (500, 502)  # of HTTP
BUSY_SQLITE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

# PostgreSQL's classes of errors: resources, conflicts of transactions, a lock, a start; a shutdown, a
# connection.
BUSY_SQL, AWAY_SQL = ("53", "40", "55P03", "57P03"), ("57P0", "08")

# A failed connection has no such code: messages of the drivers of PostgreSQL and MySQL.
WRONG = re.compile(
    r"authentication failed|does not exist|access denied|unknown database|could not translate host name", re.I
)
BUSY = re.compile(
    r"starting up|shutting down|recovery mode|too many (clients|connections)|connection slots|lock wait"
    r"|deadlock|database( table)? is locked|temporarily",
    re.I,
)
AWAY = re.compile(
    r"refused|closed the connection|connection was closed|can't connect|could not connect|gone away"
    r"|lost connection|broken pipe|reset by peer|no route to host|timed out|timeout expired",
    re.I,
)

Answer = TypeVar("Answer")


class StoreTrouble(Exception):
    """Raised if the store can't be used. refused: it answered with an error that waiting won't change."""

    def __init__(self, state: State, reason: str) -> None:
        """reason: one line without a password."""
        super().__init__(reason)
        self.state = state
        self.refused = state == "wrong"


_given_up = (
    False  # whether the last call waited in vain: later calls of this process then do not wait, see `reached`
)


def patiently(
    call: Callable[[], Answer],
    *,
    reached: bool = False,
    once: bool = False,
    of: type[Exception] | tuple[type[Exception], ...] = Exception,
) -> Answer:
    """Call until the store answers, and return the answer.

    reached: this process has used the store before, so a store that is away will come back.
    once: without a second attempt. of: the errors of the store.
    Raises StoreTrouble, from the last error, if the store is wrong or patience has ended. MemoryError is not
    caught.
    """
    global _given_up
    limit = 0.0 if once or (reached and _given_up) else PATIENCE
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
            if waited + pause > min(limit, _longest_wait(trouble.state, reached)):
                _given_up = reached and trouble.state != "wrong"
                after = f", for {waited:.0f} s" if waited >= NOTICE_AFTER else ""
                raise StoreTrouble(trouble.state, f"{trouble}{after}") from error
        if waited > NOTICE_AFTER and not announced:
            announced = True
            print(f"waiting for the tracking store, up to {limit:.0f} s: {trouble}", file=sys.stderr)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _longest_wait(state: State, reached: bool) -> float:
    """Return seconds: few for a store that was never reached, whose address may be wrong."""
    if state == "busy" or (state == "away" and reached):
        return math.inf
    return BRIEFLY if state == "away" else 0.0


def trouble_of(error: BaseException) -> StoreTrouble:
    """Classify an error by the innermost one in its chain that has a known state."""
    found = None
    for one in chain_of(error):
        found = _of_database(one) or _of_http(one) or found
    return found or StoreTrouble(_state_of_text(str(error)), one_line(error))


def _of_database(error: BaseException) -> StoreTrouble | None:
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.exc import TimeoutError as NoConnectionLeft

    if isinstance(error, NoConnectionLeft):
        return StoreTrouble("busy", "no connection is free")
    if isinstance(error, DBAPIError):
        inner = error.orig or error
        return StoreTrouble(
            "away" if error.connection_invalidated else _state_of_driver(inner), one_line(inner)
        )
    return (
        StoreTrouble(_state_of_driver(error), one_line(error)) if isinstance(error, sqlite3.Error) else None
    )


def _state_of_driver(error: BaseException) -> State:
    """Classify by the code of sqlite or PostgreSQL, else by the message."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return _state(busy=code & 0xFF in BUSY_SQLITE)
    sqlstate = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
    if not isinstance(sqlstate, str):
        return _state_of_text(str(error))
    return _state(busy=sqlstate.startswith(BUSY_SQL), away=sqlstate.startswith(AWAY_SQL))


def _state_of_text(text: str) -> State:
    if WRONG.search(text):
        return "wrong"
    return _state(busy=BUSY.search(text), away=AWAY.search(text))


def _state(*, busy: object, away: object = False) -> State:
    if busy:
        return "busy"
    return "away" if away else "wrong"


def _of_http(error: BaseException) -> StoreTrouble | None:
    import requests
    from requests.exceptions import ChunkedEncodingError, InvalidURL, ReadTimeout
    from urllib3.exceptions import ReadTimeoutError

    layers = list(_layers(error))
    if any(isinstance(one, ReadTimeout | ReadTimeoutError) for one in layers):
        return StoreTrouble("busy", f"no answer within {ANSWER_SECONDS} s")
    status = _status_of(error)
    if status is not None:
        state = _state(busy=status in BUSY_STATUSES, away=status in AWAY_STATUSES)
        return StoreTrouble(state, f"the server answers with status {status}")
    if isinstance(error, InvalidURL):
        return StoreTrouble("wrong", one_line(error))
    if isinstance(error, requests.ConnectionError | ChunkedEncodingError):
        return StoreTrouble("away", f"the server does not answer ({type(layers[-1]).__name__})")
    if isinstance(error, ConnectionError):  # Python's own, as of a cloud's client
        return StoreTrouble("away", one_line(error))
    if "not in a valid JSON format" in str(error):
        return StoreTrouble("away", "what answers is no MLflow server: the answer is no JSON")
    return None


def _status_of(error: BaseException) -> int | None:
    """Return the HTTP status of a failed request."""
    import requests

    # Raised at the first answer, as there are no retries; only the message has the status.
    if isinstance(error, requests.exceptions.RetryError):
        found = re.search(r"too many (\d{3}) error", str(error))
        return int(found[1]) if found else None
    response = getattr(error, "response", None)
    return response.status_code if isinstance(response, requests.Response) else None


def _layers(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it wraps, e.g. ConnectionRefusedError: clients hide them in arguments."""
    one: BaseException | None = error
    while one is not None:
        yield one
        wrapped = (getattr(one, "reason", None), *one.args, one.__cause__)
        one = next(
            (inner for inner in wrapped if isinstance(inner, BaseException) and inner is not one), None
        )


@contextmanager
def _no_other_retries() -> Iterator[None]:
    """Let MLflow make each request once, within a time limit, and print no traceback and no address.

    A user's own time limits stay.
    """
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    own = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": ANSWER_SECONDS, "PGCONNECT_TIMEOUT": CONNECT_SECONDS}
    own |= {name: str(seconds) for name, seconds in limits.items() if name not in os.environ}
    with environment(own):
        yield


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables until the context exits."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
