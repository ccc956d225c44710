"""--filter, --since and --experiment; the truth about a filter is what MLflow's own search finds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from lethe.tracking.readers.mlflow_client import client_store
from lethe.tracking.run_filter import Clause, for_mlflow, like, parse_filter
from lethe.tracking.selection import Selection, since_time
from tests.filled_stores import empty_place, parse, sqlite_runs  # noqa: F401 (empty_place: a fixture of every test here)

FILTERS = [
    "metrics.by_step = 1.5",
    "metrics.by_step > 1.5",
    "metric.by_time >= 1.5 and params.unlearn = 'MIMU'",
    "metrics.negative_steps != 3",
    "metrics.`group/score` < 6",
    'metrics."group/score" <= 4.9',
    "metrics.tiny < 1e-300",
    "params.unlearn = 'mimu'",
    "params.unlearn != 'FT'",
    "params.unlearn LIKE 'M%'",
    "params.unlearn LIKE 'm%'",
    "params.unlearn ILIKE 'm_mU'",
    "parameters.unicode LIKE '%∑%'",
    "params.empty = ''",
    'param.words = "nan"',
    "params.missing IS NULL",
    "params.unlearn IS NOT NULL AND tags.missing IS NULL",
    "tags.mlflow.parentRunId IS NOT NULL",
    "tags.`mlflow.parentRunId` LIKE '%'",
    "status = 'FAILED'",
    "attributes.status != 'FINISHED'",
    "status ILIKE 'fin%'",
    "attribute.start_time > 1700000001000",
    "end_time <= 1700000002001 AND start_time >= 0",
    "run.run_name LIKE 'all,%'",
]


@pytest.mark.parametrize("text", FILTERS)
def test_a_filter_finds_what_mlflow_finds(text, sqlite_store):
    found = MlflowClient(sqlite_store.uri).search_runs(list(sqlite_store.names), text)
    read = sqlite_runs(sqlite_store.uri, Selection(clauses=parse_filter(text)))
    assert {run.run_id for run in read} == {run.info.run_id for run in found}


def test_every_one_of_these_filters_tells_runs_apart_somewhere(sqlite_store):
    sizes = {
        len(list(sqlite_runs(sqlite_store.uri, Selection(clauses=parse_filter(text))))) for text in FILTERS
    }
    assert {0, 1, 3, 4} <= sizes


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("run_id IN ('{full}', '{killed}')", {"full", "killed"}),
        ("status NOT IN ('FAILED','RUNNING')", {"full", "killed"}),
        ("params.unlearn IN ('MIMU', 'FT')", {"full"}),
        ("metrics.up > 1e308", {"full"}),
        ("metrics.nothing < 1", set()),  # MLflow's sqlite takes NaN for 0
        ("metrics.nothing = 0", set()),
    ],
)
def test_what_mlflow_has_no_answer_or_a_wrong_one_to(text, kinds, store):
    table = parse("--tracking_uri", store.uri, "--filter", text.format(**store.ids))
    assert set(table.run_id) == {store.ids[kind] for kind in kinds}


def test_the_client_filters_as_the_direct_reader_does(sqlite_store):
    for text in [*FILTERS, "params.unlearn IN ('MIMU')"]:
        selection = Selection(clauses=parse_filter(text))
        with client_store(sqlite_store.uri, selection) as client:
            assert {run.run_id for run in client.runs()[1]} == {
                run.run_id for run in sqlite_runs(sqlite_store.uri, selection)
            }, text


def test_only_what_a_server_answers_alike_is_asked_of_it():
    clauses = parse_filter(
        "params.a = 'x' AND metrics.b < 1 AND params.c IN ('y') AND tags.d LIKE '%z' AND params.e != 'f'"
    )
    assert for_mlflow(clauses) == "param.`a` = 'x' AND tag.`d` LIKE '%z'"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected NAME COMPARATOR VALUE, got ''"),
        ("metrics.a", "expected NAME COMPARATOR VALUE, got 'metrics.a'"),
        (
            "metrics.a < 1 OR metrics.b < 1",
            "expected AND or the end, got 'OR metrics.b < 1'. MLflow's language has no OR",
        ),
        ("metrics.a < 'x'", "expected a number after metric a <, got 'x'"),
        ("metrics.a <", "expected a number after metric a <, got nothing"),
        ("metrics.a < nan", "No comparison with NaN is true"),
        ("metrics.a LIKE 'x'", "expected = != < <= > >= after metric a, got LIKE"),
        (
            "params.a < 1",
            "expected = != LIKE ILIKE IN NOT IN IS NULL IS NOT NULL after param a, got <. Params and tags "
            "are text",
        ),
        ("params.a = MIMU", "expected a text in quotes after param a =, got MIMU"),
        ("params.a IN 'x'", "expected texts in brackets after param a IN, got 'x'"),
        ("datasets.a = 'x'", "expected metrics, params, tags or attributes before the dot, got datasets.a"),
        (
            "avg_gap < 1",
            "expected metrics.NAME, params.NAME, tags.NAME or one of run_id, run_name, status, start_time, "
            "end_time, got avg_gap",
        ),
        (
            "status = 'finished'",
            "unknown status 'finished'. Did you mean 'FINISHED'? Statuses: FAILED, FINISHED, KILLED, "
            "RUNNING, SCHEDULED",
        ),
        ("attributes.status != 'DONE'", "unknown status 'DONE'. Statuses: "),
        ("status IN ('FINISHED', 'FAILD')", "unknown status 'FAILD'. Did you mean 'FAILED'?"),
        (
            "status LIKE 'fin%'",
            "expected a pattern that one of RUNNING, SCHEDULED, FINISHED, FAILED, KILLED meets, got 'fin%'",
        ),
        ("status IS NULL", "expected = != LIKE ILIKE IN NOT IN after attribute status, got IS NULL"),
    ],
)
def test_a_filter_that_is_none(text, message):
    with pytest.raises(ValueError) as error:
        parse_filter(text)
    assert message in str(error.value)


NAMES = st.one_of(st.text("abc_/.-:", min_size=1, max_size=5), st.text("abc ü=()", min_size=1, max_size=4))
TEXTS = st.text(st.characters(exclude_characters="'", exclude_categories=["Cs"]), max_size=8)
CLAUSES = st.one_of(
    st.builds(
        Clause,
        st.just("metric"),
        NAMES,
        st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
        st.floats(allow_nan=False),
    ),
    st.builds(
        Clause, st.sampled_from(["param", "tag"]), NAMES, st.sampled_from(["=", "!=", "LIKE", "ILIKE"]), TEXTS
    ),
    st.builds(
        Clause,
        st.just("param"),
        NAMES,
        st.sampled_from(["IN", "NOT IN"]),
        st.lists(TEXTS, min_size=1, max_size=3).map(tuple),
    ),
)


def written(clause: Clause) -> str:
    listed = (
        "(" + ", ".join(f"'{text}'" for text in clause.value) + ")" if isinstance(clause.value, tuple) else ""
    )
    value = listed or (repr(clause.value) if isinstance(clause.value, float) else f"'{clause.value}'")
    return f"{clause.kind}s.`{clause.key}` {clause.comparator} {value}"


@given(st.lists(CLAUSES, min_size=1, max_size=3))
def test_what_is_written_is_what_is_read(clauses):
    assert parse_filter(" AND ".join(map(written, clauses))) == tuple(clauses)


@given(st.text(max_size=30))
def test_any_text_is_a_filter_or_one_clear_error(text):
    try:
        assert parse_filter(text)
    except ValueError as error:
        assert str(error).startswith("--filter: expected")


@pytest.mark.parametrize(
    "text",
    [
        "params.a IN (" + "'a'   " * 200 + "!",
        "params.a IN (" + "'a' , " * 200 + "!",
        "params.a IN ('a'" + " " * 5000 + "!",
        "params.a" + " " * 5000 + "!",
        "a" * 5000,
    ],
)
def test_what_is_no_filter_is_refused_without_a_search_that_never_ends(text):
    with pytest.raises(ValueError, match="--filter: expected"):
        parse_filter(text)


@pytest.mark.parametrize("list_", ["('a','b')", "( 'a' , 'b' )", "('a', 'b', )", "('a' 'b')"])
def test_blanks_and_commas_in_a_list(list_):
    assert parse_filter(f"params.x IN {list_}") == (Clause("param", "x", "IN", ("a", "b")),)


def slow_like(pattern: str, text: str) -> bool:
    """SQL's LIKE by its definition, sign by sign."""
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(slow_like(pattern[1:], text[start:]) for start in range(len(text) + 1))
    return bool(text) and pattern[0] in ("_", text[0]) and slow_like(pattern[1:], text[1:])


@given(st.text("ab%_", max_size=6), st.text("ab", max_size=6))
def test_like_is_as_it_is_defined(pattern, text):
    assert (like(pattern, ignore_case=False).fullmatch(text) is not None) == slow_like(pattern, text)


def test_a_pattern_of_many_parts_is_not_tried_at_every_place():
    assert not like("%a" * 50 + "%b", ignore_case=False).fullmatch("a" * 6000)


def test_like():
    assert like("a_c%", ignore_case=False).fullmatch("abc\nmore") and not like(
        "a.c", ignore_case=False
    ).fullmatch("abc")


def test_since_counts_the_start(store):
    assert list(parse("--tracking_uri", store.uri, "--since", "2023-11-14T22:13:23Z").run_id) == [
        store.ids["running"],
        store.ids["killed"],
    ]
    assert len(parse("--tracking_uri", store.uri, "--since", "2023-11-14")) == 4
    assert len(parse("--tracking_uri", store.uri, "--since", "2023-11-15")) == 0


def test_since_as_ms():
    assert since_time("1970-01-02") == 86_400_000
    assert since_time("1970-01-01T01:00+01:00") == since_time("1970-01-01T00:00:00Z") == 0


def test_experiments_by_name(store):
    assert set(parse("--tracking_uri", store.uri, "--experiment", "Größe, zwei").experiment) == {
        "Größe, zwei"
    }
    assert len(parse("--tracking_uri", store.uri, "--experiment", "Größe, zwei", "digits-mlp")) == 4
