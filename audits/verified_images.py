"""The images of a run, read anew and divided by its forget list."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from audits.recorded_run import RecordedRun
from audits.verified import Check, Verification
from device import device_named
from run_report import FORGET_LIST
from training import Progress
from unlearn import ForgetData
from vision_data import (
    DATA,
    ForgetRequest,
    Splits,
    checked_normalisation,
    load_splits,
    normalisation_of,
    read_indexes,
)
from vision_data.reading import FLAGS as READING

LONGEST_DIGEST = 32  # letters of an image set's digest that MLflow keeps


def read_data(run: RecordedRun, done: Verification, progress: Progress) -> tuple[Splits, ForgetData]:
    """The images, and their division by the run's forget list. ValueError for a dataset that is code, which
    is not to be run.
    """
    run.params_seen |= {
        "dataset",
        "dataset_file",
        "dataset_code",
        "data",
        "split_seed",
        "seed",
        "forget_count",
        "retain_count",
        "request",
    }
    run.params_seen |= {"normalize"}
    splits = load_splits(run.dataset(), run.param("data"), run.whole_number("split_seed"), _reading(run))
    if run.record.params.get("trained_on") == "all":
        splits = splits.without_validation()
    normalize = checked_normalisation(run.record.params.get("normalize", DATA))
    splits = splits.normalised(normalisation_of(normalize, splits.own_normalisation))
    data = ForgetData.of(
        splits, _listed(run), seed=run.whole_number("seed"), device=device_named("auto"), progress=progress
    )
    done.checks.append(Check("number of forget images", run.param("forget_count"), str(len(data.forget))))
    done.checks.append(Check("number of retain images", run.param("retain_count"), str(len(data.retain))))
    return splits, data


def _reading(run: RecordedRun) -> dict[str, Any]:
    """How the run had its images read: the settings that its params name; runs from before there were any
    have none.
    """
    run.params_seen |= set(READING.hyperparameters)
    named = {name: run.record.params.get(name, "None") for name in READING.hyperparameters}
    return {name: READING.hyperparameters[name].parse(text) for name, text in named.items() if text != "None"}


def check_request(run: RecordedRun, done: Verification, splits: Splits, data: ForgetData) -> ForgetRequest:
    """Checks that the forget list is what the flags spell, or the list with the digest that is recorded; the
    request.
    """
    run.params_seen |= {"class_to_replace", "num_indexes_to_replace", "request_digest"}
    listed = ForgetRequest((), None, tuple(data.forget.indexes.tolist()), FORGET_LIST)
    spelled = _spelled(run)
    if spelled is None:
        named = run.record.params.get("request_digest")
        if named is None:
            done.unchecked.append(
                "whether the forget list is the one that was asked for (the run is from before its digest "
                "was recorded)"
            )
        else:
            done.checks.append(Check("forget list", named, str(listed.digest)))
        done.unchecked.append("the file that --forget_indexes named")
        run.params_seen.add("forget_indexes")
    else:
        asked = spelled.divide(splits.train, splits.classes, splits.split_seed).forget
        done.checks.append(
            Check(
                "forget list, of the class and number asked for",
                _digest(asked.indexes.tolist()),
                str(listed.digest),
            )
        )
    request = spelled or listed
    done.checks.append(Check("forget request's name", run.param("request"), request.slug))
    if "forget_request" in run.record.params:  # which earlier runs don't log
        words = request.in_words(len(data.forget), splits.class_names)
        done.checks.append(Check("forget request in words", run.param("forget_request"), words))
    return request


def check_images(run: RecordedRun, done: Verification, digests: Mapping[str, str]) -> None:
    """The image sets that are the run's inputs in the store."""
    for name, digest in digests.items():
        if name in run.record.images:
            done.checks.append(Check(f"{name} images", run.record.images[name], digest[:LONGEST_DIGEST]))
        else:
            done.gone.append(f"the digest of the {name} images among the run's inputs")


def _listed(run: RecordedRun) -> ForgetRequest:
    """The forget list that is an artifact; for a run that has none, what its flags spell."""
    if run.has(FORGET_LIST):
        path = run.artifact(FORGET_LIST)
        return ForgetRequest((), None, read_indexes(path), str(path))
    spelled = _spelled(run)
    if spelled is None:
        file = run.param("forget_indexes")
        return ForgetRequest((), None, read_indexes(file), file)
    return spelled


def _spelled(run: RecordedRun) -> ForgetRequest | None:
    """The request in the flags; None where they name a file."""
    if run.param("forget_indexes") != "None" or not run.param("class_to_replace"):
        return None
    number = (
        None if run.param("num_indexes_to_replace") == "None" else run.whole_number("num_indexes_to_replace")
    )
    words = run.param("class_to_replace").split()
    if not all(word.removeprefix("-").isdecimal() for word in words):
        raise ValueError(
            f"run {run.record.run_id}: expected classes as its param class_to_replace, got "
            f"{' '.join(words)[:40]!r}"
        )
    return ForgetRequest(tuple(map(int, words)), number)


def _digest(indexes: list[int]) -> str:
    return hashlib.sha256(repr(tuple(sorted(indexes))).encode()).hexdigest()
