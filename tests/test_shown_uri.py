"""Addresses are shown without who asks and with which password."""

import pytest

from lethe.tracking.shown_uri import LONGEST_REASON, one_line, without_password


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql+psycopg2://me:secret@db:5432/runs", "postgresql+psycopg2://***@db:5432/runs"),
        ("postgresql+psycopg2://me:se/cr@et@db/runs", "postgresql+psycopg2://***@db/runs"),
        ("http:///me:se/cr@et@host:5000", "http:///***@host:5000"),
        (
            "error: http://token@server can't be used (no answer)",
            "error: http://***@server can't be used (no answer)",
        ),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("http://server:5000/a", "http://server:5000/a"),
        (
            "postgresql://db/ml?user=me&password=secret&sslmode=require",
            "postgresql://db/ml?user=me&password=***&sslmode=require",
        ),
        ("http://server/a?token=secret and more", "http://server/a?token=*** and more"),
        (
            "https://b.s3.aws/x?X-Amz-Credential=a/b&X-Amz-Signature=0f",
            "https://b.s3.aws/x?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("host=db password='se cret' dbname=runs", "host=db password=*** dbname=runs"),
        ('{"password": "secret", "user": "me"}', '{"password": "***", "user": "me"}'),
        ("{'Authorization': 'Bearer abc.def'}", "{'Authorization': 'Bearer ***'}"),
        (
            "--class_to_replace 3 --filter params.unlearn = 'MIMU'",
            "--class_to_replace 3 --filter params.unlearn = 'MIMU'",
        ),
        ('could not translate host name "cret@db"', 'could not translate host name "***@db"'),
    ],
)
def test_no_password_is_shown(uri, shown):
    assert without_password(uri) == shown


def test_a_reason_is_one_line_and_no_page():
    assert one_line(ValueError("first\n  http://me:secret@server")) == "first http://***@server"
    assert len(one_line("x" * 9999)) < LONGEST_REASON + 10


def test_a_long_reason_is_cut_at_a_word():
    whole = "a reason of seven words of which " * 18
    assert len(whole) < LONGEST_REASON and one_line(whole) == whole.strip()
    assert one_line("word " * 1000) == "word " * (LONGEST_REASON // 5) + "[...]"
    assert one_line("a " + "x" * 9999) == f"a {'x' * 200} [...]"
