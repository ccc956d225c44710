"""The cache on disk: what comes back, and that what is wanted twice is computed once."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lethe.training import DiskCache, computed_once


@pytest.fixture
def cache(tmp_path):
    return DiskCache(tmp_path / "cache")


def only_file(cache):
    (file,) = cache.folder.iterdir()
    return file


def test_a_cache_begins_empty(cache):
    assert (len(cache), list(cache), "key" in cache) == (0, [], False)


def test_a_cached_value_comes_back(cache):
    cache["key"] = {"x": torch.arange(3)}
    assert cache["key"]["x"].tolist() == [0, 1, 2]


def test_a_cache_outlives_the_process(cache):
    cache["key"] = {"x": torch.arange(3)}
    assert DiskCache(cache.folder)["key"]["x"].tolist() == [0, 1, 2]


def test_the_last_value_of_a_key_counts(cache):
    for value in (1, 2):
        cache["key"] = {"x": torch.tensor(value)}
    assert (cache["key"]["x"].item(), len(cache)) == (2, 1)


def test_on_a_full_disk_what_was_computed_is_given_and_not_kept(cache, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    reason = "a result could not be cached and will be computed again: .*No space left on device"
    with pytest.warns(UserWarning, match=reason):
        made, known = computed_once(cache, "key", lambda: {"x": torch.tensor(7)})
    assert (made["x"].item(), known, "key" in cache) == (7, False, False)


def test_a_cache_knows_its_keys(cache):
    for key in ("one", "two", "a/b\n\N{SNOWMAN}"):
        cache[key] = {"x": torch.tensor(1)}
    assert sorted(cache) == sorted(["one", "two", "a/b\n\N{SNOWMAN}"]) and len(cache) == 3


def test_a_key_that_is_not_there(cache):
    with pytest.raises(KeyError, match="nothing"):
        cache["nothing"]


def test_a_deleted_key_is_gone(cache):
    cache["key"] = {"x": torch.tensor(1)}
    del cache["key"]
    assert "key" not in cache


def test_deleting_a_key_that_is_not_there(cache):
    with pytest.raises(KeyError, match="nothing"):
        del cache["nothing"]


@pytest.fixture
def damaged(cache):
    cache["key"] = {"x": torch.tensor(1)}
    only_file(cache).write_bytes(b"damaged")
    return cache


def test_a_damaged_file_is_absent(damaged):
    assert "key" not in damaged


def test_a_damaged_file_is_written_again(damaged):
    damaged["key"] = {"x": torch.tensor(2)}
    assert damaged["key"]["x"].item() == 2


def test_a_damaged_file_does_not_count(damaged):
    assert (list(damaged), len(damaged)) == ([], 0)


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_what_is_there_is_not_computed_again(cache, kind):
    cache = cache if kind == "disk" else {}
    made, was_there = computed_once(cache, "key", lambda: {"x": torch.ones(2)})
    again, was_there_again = computed_once(cache, "key", lambda: pytest.fail("computed twice"))
    assert (was_there, was_there_again) == (False, True)
    assert made["x"].equal(again["x"])


def test_two_that_want_one_key_compute_it_once(cache):
    first_is_at_it, computed = threading.Event(), []

    def compute():
        computed.append(threading.get_ident())
        first_is_at_it.set()
        time.sleep(0.2)
        return {"x": torch.ones(2)}

    with ThreadPoolExecutor() as pool:
        one = pool.submit(computed_once, cache, "key", compute)
        assert first_is_at_it.wait(10)
        other = pool.submit(computed_once, cache, "key", compute)
        assert (one.result()[1], other.result()[1]) == (False, True)
    assert len(computed) == 1


def test_when_computing_fails_the_next_one_computes(cache):
    with pytest.raises(FloatingPointError):
        computed_once(cache, "key", lambda: (_ for _ in ()).throw(FloatingPointError))
    assert not computed_once(cache, "key", lambda: {"x": torch.ones(2)})[1]


def test_a_file_that_holds_another_key_is_absent(cache):
    cache["other"] = {"x": torch.tensor(1)}
    only_file(cache).rename(cache._path("key"))
    assert "key" not in cache
