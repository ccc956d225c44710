"""Read the images of a run again, divide them by its forget list, and check both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lethe.audits.recorded_run import RecordedRun
from lethe.audits.verified import Verification
from lethe.audits.verified_package import check_package
from lethe.data import (
    DATA,
    DATASETS,
    ForgetRequest,
    ImageSet,
    Splits,
    checked_normalisation,
    load_splits,
    normalisation_of,
    read_indexes,
)
from lethe.data.choice import Choice
from lethe.data.reading import FLAGS as READING
from lethe.experiment.forget_flags import CHOICE
from lethe.experiment.run_report import FORGET_LIST
from lethe.system.device import device_named
from lethe.training import Progress
from lethe.unlearn import ForgetData

LONGEST_DIGEST = 32  # letters of an image set's digest that MLflow keeps


def read_data(run: RecordedRun, done: Verification, progress: Progress) -> tuple[Splits, ForgetData]:
    """Return the splits and their division by the run's forget list. Raises ValueError for untrusted code."""
    splits = read_splits(run, done)
    data = ForgetData.of(
        splits, _listed(run), seed=run.whole_number("seed"), device=device_named("auto"), progress=progress
    )
    done.check("number of forget images", run.param("forget_count"), str(len(data.forget)))
    done.check("number of retain images", run.param("retain_count"), str(len(data.retain)))
    return splits, data


def read_splits(run: RecordedRun, done: Verification) -> Splits:
    """Return the splits of the run's dataset. Raises ValueError for untrusted code."""
    check_package(run, done, "dataset", DATASETS, run.param("dataset"))
    splits = load_splits(run.dataset(), run.param("data"), run.whole_number("split_seed"), _reading(run))
    if run.param("trained_on", "train") == "all":
        splits = splits.without_validation()
    normalize = checked_normalisation(run.param("normalize", DATA))
    return splits.normalised(normalisation_of(normalize, splits.own_normalisation))


def _reading(run: RecordedRun) -> dict[str, Any]:
    """Return the run's flags for reading images; older runs have none."""
    named = {name: run.param(name, "None") for name in READING.hyperparameters}
    return {name: READING.hyperparameters[name].parse(text) for name, text in named.items() if text != "None"}


def check_request(run: RecordedRun, done: Verification, splits: Splits, data: ForgetData) -> ForgetRequest:
    """Check the forget list against the run's flags, or against its recorded digest; return the request."""
    listed = _list_of(data.forget)
    asked = _asked(run)
    recorded = run.recorded("request_digest")
    if asked is not None and not asked.by_score:
        division = asked.resolved(splits).divide(splits.train, splits.classes, splits.split_seed)
        by = "class and number" if asked.choice is None else "attribute"
        done.check(f"forget list, by {by}", str(_list_of(division.forget).digest), str(listed.digest))
    else:
        done.outside.append(
            "the file that --forget_indexes named" if asked is None else "the memorisation of the images"
        )
        if recorded is not None:
            done.check("forget list", recorded, str(listed.digest))
        else:
            done.unchecked.append("whether the forget list is the requested one (an older run, no digest)")
    request = asked or listed
    if request.choice is not None:
        request = replace(request.of_classes(splits.class_names), indexes=listed.indexes)
    done.check("forget request's name", run.param("request"), request.slug)
    in_words = run.recorded("forget_request")
    if in_words is not None:  # older runs have none
        done.check(
            "forget request in words", in_words, request.in_words(len(data.forget), splits.class_names)
        )
    return request


def check_images(run: RecordedRun, done: Verification, digests: Mapping[str, str]) -> None:
    """Check the digests of the image sets against the run's inputs in the store."""
    for name, digest in digests.items():
        if name in run.record.images:
            done.check(f"{name} images", run.record.images[name], digest[:LONGEST_DIGEST])
        else:
            done.gone.append(f"the digest of the {name} images among the run's inputs")


def _listed(run: RecordedRun) -> ForgetRequest:
    """Return the forget list that is an artifact; for a run without one, the request of its flags."""
    if run.has(FORGET_LIST):
        path = run.artifact(FORGET_LIST)
        return ForgetRequest((), None, read_indexes(path), str(path))
    asked = _asked(run)
    if asked is None:
        file = run.param("forget_indexes")
        return ForgetRequest((), None, read_indexes(file), file)
    return asked


def _asked(run: RecordedRun) -> ForgetRequest | None:
    """Return the request of the flags; None if they name a file."""
    number, words = run.param("num_indexes_to_replace", "None"), run.param("class_to_replace").split()
    choice = _choice(run)
    if run.param("forget_indexes") != "None" or not (words or choice):
        return None
    if not all(word.removeprefix("-").isdecimal() for word in words):
        raise ValueError(
            f"run {run.record.run_id}: expected classes as its param class_to_replace, got "
            f"{' '.join(words)[:40]!r}. Verify another run"
        )
    count = None if number == "None" else run.whole_number("num_indexes_to_replace")
    return ForgetRequest(tuple(map(int, words)), count, choice=choice)


def _choice(run: RecordedRun) -> Choice | None:
    """Return the choice of images by attribute or score; None for a run that has none."""
    params = {name: text for name in CHOICE if (text := run.recorded(name)) is not None}
    if not params:
        return None
    try:
        return Choice.of_params(params)
    except ValueError as error:
        raise ValueError(f"run {run.record.run_id}: {error}. Verify another run") from error


def _list_of(images: ImageSet) -> ForgetRequest:
    return ForgetRequest((), None, tuple(images.indexes.tolist()), FORGET_LIST)
