"""One policy of waiting for a store: patient with one that is busy, quick with one that is wrong."""

import os
import sqlite3

import pytest
import requests
import urllib3
from mlflow.exceptions import MlflowException, RestException
from sqlalchemy.exc import OperationalError, ProgrammingError
from urllib3.exceptions import MaxRetryError, NewConnectionError, ReadTimeoutError, ResponseError

from lethe.tracking import patience
from lethe.tracking.patience import StoreTrouble, patiently, trouble_of


class DriverError(Exception):
    """What a driver of PostgreSQL raises."""

    def __init__(self, text: str, pgcode: str | None = None) -> None:
        super().__init__(text)
        self.pgcode = pgcode


def of_database(inner: Exception) -> MlflowException:
    """As MLflow wraps what SQLAlchemy wraps."""
    error = MlflowException(f"(sqlite3.OperationalError) {inner} [SQL: SELECT 1]")
    error.__cause__ = OperationalError("SELECT 1", {}, inner)
    return error


def of_request(inner: Exception) -> MlflowException:
    """As MLflow wraps what requests raises."""
    error = MlflowException(f"API request to http://me:secret@host/api failed with exception {inner}")
    error.__context__ = inner
    return error


def given_up(status: int) -> requests.exceptions.RetryError:
    reason = ResponseError(f"too many {status} error responses")
    return requests.exceptions.RetryError(MaxRetryError(urllib3.HTTPConnectionPool("host"), "/api", reason))


def refused() -> requests.exceptions.ConnectionError:
    new = NewConnectionError(urllib3.HTTPConnectionPool("host"), "refused")
    new.__cause__ = ConnectionRefusedError(111, "Connection refused")
    return requests.exceptions.ConnectionError(MaxRetryError(urllib3.HTTPConnectionPool("host"), "/api", new))


def too_late() -> requests.exceptions.ConnectionError:
    """What requests makes of an answer that does not come, where it is not to ask again."""
    late = ReadTimeoutError(urllib3.HTTPConnectionPool("host"), "/api", "Read timed out. (read timeout=60)")
    return requests.exceptions.ConnectionError(
        MaxRetryError(urllib3.HTTPConnectionPool("host"), "/api", late)
    )


def answered(status: int) -> requests.exceptions.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.exceptions.HTTPError(f"{status} for url", response=response)


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (of_database(sqlite3.OperationalError("database is locked")), "busy", "database is locked"),
        (sqlite3.OperationalError("database is locked"), "busy", "database is locked"),
        (of_database(sqlite3.OperationalError("no such table: runs")), "wrong", "no such table: runs"),
        (
            of_database(sqlite3.OperationalError("attempt to write a readonly database")),
            "wrong",
            "attempt to write a readonly database",
        ),
        (
            of_database(sqlite3.OperationalError("database or disk is full")),
            "wrong",
            "database or disk is full",
        ),
        (of_database(DriverError("FATAL:  the database system is starting up")), "busy", "starting up"),
        (of_database(DriverError("FATAL:  sorry, too many clients already")), "busy", "too many clients"),
        (of_database(DriverError("deadlock detected", "40P01")), "busy", "deadlock detected"),
        (
            of_database(DriverError("terminating connection due to administrator command", "57P01")),
            "away",
            "terminating connection",
        ),
        (
            of_database(DriverError('connection to server at "h", port 9 failed: Connection refused')),
            "away",
            "refused",
        ),
        (
            of_database(DriverError("server closed the connection unexpectedly")),
            "away",
            "closed the connection",
        ),
        (
            of_database(DriverError('FATAL:  password authentication failed for user "me"')),
            "wrong",
            "authentication failed",
        ),
        (of_database(DriverError('FATAL:  database "none" does not exist')), "wrong", "does not exist"),
        (of_database(DriverError("permission denied for table runs", "42501")), "wrong", "permission denied"),
        (ProgrammingError("SELECT 1", {}, DriverError("syntax error", "42601")), "wrong", "syntax error"),
        (of_request(given_up(429)), "busy", "status 429"),
        (of_request(given_up(503)), "busy", "status 503"),
        (of_request(given_up(500)), "away", "status 500"),
        (of_request(refused()), "away", "the server does not answer (ConnectionRefusedError)"),
        (of_request(requests.exceptions.ReadTimeout("60")), "busy", "no answer within 60 s"),
        (of_request(too_late()), "busy", "no answer within 60 s"),
        (of_request(requests.exceptions.ConnectTimeout("10")), "away", "does not answer"),
        (answered(403), "wrong", "status 403"),
        (answered(502), "away", "status 502"),
        (RestException({"error_code": "PERMISSION_DENIED", "message": "not you"}), "wrong", "not you"),
        (
            MlflowException("the response body was not in a valid JSON format. Response body: '<html>'"),
            "away",
            "the answer is no JSON",
        ),
        (ConnectionResetError(104, "Connection reset by peer"), "away", "reset by peer"),
        (OSError(28, "No space left on device", "a.txt"), "wrong", "No space left on device"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_an_error_says_of_the_store(error, state, reason):
    found = trouble_of(error)
    assert found.state == state and reason in str(found)


def test_a_reason_is_a_short_line_without_a_password():
    reason = str(trouble_of(MlflowException("at http://me:secret@host/api\n" + "x" * 1000)))
    assert "\n" not in reason and "secret" not in reason and len(reason) < 300


def test_the_error_that_an_error_is_raised_in_spite_of_says_nothing():
    """Of a model that diverged, say, while the store is locked."""
    error = of_database(sqlite3.OperationalError("database is locked"))
    error.__cause__.__context__ = FloatingPointError("diverged: the database does not exist")
    assert trouble_of(error).state == "busy"


@pytest.fixture
def clock(monkeypatch):
    """The seconds that were slept, which is all the time that goes by."""
    slept: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", slept.append)
    monkeypatch.setattr(patience.time, "monotonic", lambda: sum(slept))
    monkeypatch.setattr(patience, "_given_up", False)
    return slept


class Store:
    """Raises these errors, one a call, and then answers; the last one for ever if it is to be."""

    def __init__(self, *errors: Exception, forever: bool = False) -> None:
        self.errors = list(errors)
        self.forever = forever
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors[0] if self.forever else self.errors.pop(0)
        return "answer"


LOCKED = sqlite3.OperationalError("database is locked")


def test_a_busy_store_is_waited_for(clock):
    assert patiently(Store(*[LOCKED] * 12)) == "answer"
    assert 60 < sum(clock) < patience.PATIENCE and max(clock) == patience.LONGEST_PAUSE


def test_a_busy_store_is_waited_for_only_so_long(clock, capsys):
    with pytest.raises(StoreTrouble, match=r"^database is locked, for 1\d\d s$") as raised:
        patiently(Store(LOCKED, forever=True))
    assert not raised.value.refused and 100 < sum(clock) <= patience.PATIENCE
    assert capsys.readouterr().err == "waiting for the tracking store, up to 150 s: database is locked\n"


def test_a_wrong_store_is_not_waited_for(clock):
    with pytest.raises(StoreTrouble, match="^the server answers with status 403$") as raised:
        patiently(Store(answered(403), forever=True), reached=True)
    assert raised.value.refused and clock == []


def test_a_store_that_was_there_before_will_be_back(clock):
    assert patiently(Store(*[of_request(refused())] * 12), reached=True) == "answer"
    assert sum(clock) > 60


def test_a_store_that_nobody_has_seen_may_have_a_wrong_address(clock):
    assert patiently(Store(of_request(refused()))) == "answer"
    with pytest.raises(StoreTrouble, match="does not answer"):
        patiently(Store(of_request(refused()), forever=True))
    assert sum(clock) < 5


def test_what_was_waited_for_in_vain_is_not_waited_for_again(clock):
    with pytest.raises(StoreTrouble):
        patiently(Store(LOCKED, forever=True), reached=True)
    waited = sum(clock)
    with pytest.raises(StoreTrouble):
        patiently(Store(LOCKED, forever=True), reached=True)
    assert sum(clock) == waited

    assert patiently(Store()) == "answer"
    assert patiently(Store(LOCKED), reached=True) == "answer"


def test_a_lack_of_memory_is_not_the_stores(clock):
    with pytest.raises(MemoryError):
        patiently(Store(MemoryError()))


def test_other_errors_than_the_stores_pass(clock):
    with pytest.raises(ValueError, match="mine"):
        patiently(Store(ValueError("mine")), of=sqlite3.Error)


def test_mlflow_makes_each_request_once_and_prints_no_address(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    during = patiently(lambda: dict(os.environ))
    assert (during["MLFLOW_HTTP_REQUEST_MAX_RETRIES"], during["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == ("0", "60")
    assert during["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"
    assert (
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "7"
        and "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ
    )
