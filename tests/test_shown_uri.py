"""Addresses are shown without who asks and with which password."""

import pytest

from tracking.shown_uri import without_password


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql+psycopg2://me:secret@db:5432/runs", "postgresql+psycopg2://***@db:5432/runs"),
        ("postgresql+psycopg2://me:se/cr@et@db/runs", "postgresql+psycopg2://***@db/runs"),
        ("error: http://token@server can't be used (no answer)", "error: http://***@server can't be used (no answer)"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("http://server:5000/a", "http://server:5000/a"),
        ('could not translate host name "cret@db"', 'could not translate host name "***@db"'),
    ],
)
def test_no_password_is_shown(uri, shown):
    assert without_password(uri) == shown
