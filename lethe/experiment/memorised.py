"""The memorisation of every training image, from the shadow models of a recipe."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lethe.data import ImageSet, forward_batch
from lethe.evaluation import outputs_of
from lethe.evaluation.memorisation import Memorisation, memorisation, too_few
from lethe.experiment.base_models import BaseModels
from lethe.experiment.model_sets import ModelSpec, load_spec, specs_of, train_set
from lethe.flag_error import FlagError
from lethe.training import DiskCache, checkpoint_digest
from lethe.training.disk_cache import Tensors, computed_once

VERSION = 1  # part of the cache key: raise it when the same models get other answers
SHADOWS = 128
MEMORISATION_FILE = "memorisation.csv"
NUMBERS = {  # columns of the file -> fields of Memorisation
    "memorisation": "scores",
    "se": "standard_errors",
    "margin_form": "margin_scores",
    "margin_form_se": "margin_errors",
    "out_loss": "out_losses",
    "n_in": "n_in",
    "n_out": "n_out",
}


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of K shadow models on all N training images, in the order of `splits.train`.

    correct (K, N) bool. margins (K, N) float32, nats. member (K, N) bool: the images that each model was
    trained on.
    """

    correct: Tensor
    margins: Tensor
    member: Tensor


def memorisation_of(base: BaseModels, shadows: int = SHADOWS) -> Memorisation:
    """Return the memorisation of every training image, in the order of `base.splits.train`.

    Trains the shadow models that are missing, and keeps their answers in the cache beside them. Does not
    depend on the forget request. Raises ValueError for an odd number of shadow models, and for one that
    leaves an image with fewer than 2 models that were trained on it, or that were not.
    """
    answers = answers_of(base, checked_shadows(base, shadows))
    return memorisation(answers.correct, answers.margins, answers.member)


def memorisation_at_hand(
    base: BaseModels, images: ImageSet, shadows: int = SHADOWS, chosen: Tensor | None = None
) -> Memorisation | None:
    """Return the memorisation of some training images.

    chosen (shadows,) bool: the shadow models to compute it from; all, if None. None if a shadow model is not
    trained yet, or if there are too few of them for an image.
    """
    specs = specs_of(base, "shadows", shadows)
    if not all(spec.path.exists() for spec in specs):
        return None
    models = torch.ones(shadows, dtype=torch.bool) if chosen is None else chosen
    rows = rows_in(base.splits.train, images)
    member = member_of(base, specs)[models][:, rows]
    if too_few(member):
        return None
    answers = answers_of(base, specs)
    return memorisation(answers.correct[models][:, rows], answers.margins[models][:, rows], member)


def rows_in(train: ImageSet, images: ImageSet) -> Tensor:
    """Return the positions of images in the training set."""
    order = train.indexes.argsort()
    return order[torch.searchsorted(train.indexes[order], images.indexes.to(order.device))]


def checked_shadows(base: BaseModels, count: int) -> list[ModelSpec]:
    """Return the specs of the shadow models. Raises ValueError if their number is odd or too small."""
    specs = specs_of(base, "shadows", count)
    short = too_few(member_of(base, specs))
    if short:
        raise FlagError("shadows", f"{short} of {count}. Ask for more, such as --shadows {SHADOWS}")
    return specs


def answers_of(base: BaseModels, specs: Sequence[ModelSpec]) -> Answers:
    """Return the shadow models' answers on all training images: from the cache, else by a forward pass."""
    train_set(base, "shadows", len(specs))
    cache = DiskCache(base.save_dir / "cache")
    kept, _ = computed_once(cache, _key(base, specs), lambda: _answers(base, specs))
    return Answers(kept["correct"], kept["margins"], member_of(base, specs))


def member_of(base: BaseModels, specs: Sequence[ModelSpec]) -> Tensor:
    """Return (K, N) bool: the training images that each model is trained on."""
    member = torch.zeros(len(specs), len(base.splits.train), dtype=torch.bool)
    for row, spec in zip(member, specs, strict=True):
        row[spec.rows] = True
    return member


def memorisation_csv(found: Memorisation, images: ImageSet, class_names: Sequence[str]) -> str:
    """Return a table with a row an image: index in the original training set, label, and the scores."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["index", "label", "class_name", *NUMBERS])
    columns = [getattr(found, field).tolist() for field in NUMBERS.values()]
    labels = images.labels.tolist()
    names = [class_names[label] for label in labels]
    writer.writerows(zip(images.indexes.tolist(), labels, names, *columns, strict=True))
    return content.getvalue()


def read_memorisation(content: str, images: ImageSet) -> Memorisation:
    """Read a table of `memorisation_csv` of these images.

    Raises ValueError for a table of other images, without one of the columns, or with a cell that is no
    finite number.
    """
    rows = list(csv.DictReader(io.StringIO(content)))
    missing = [name for name in ("index", *NUMBERS) if rows and name not in rows[0]]
    if missing or [row["index"] for row in rows] != list(map(str, images.indexes.tolist())):
        raise ValueError(f"a table of other images, or without {', '.join(missing) or 'one of them'}")
    numbers = {name: _column(rows, name) for name in NUMBERS}
    n_in, n_out = numbers["n_in"].long(), numbers["n_out"].long()
    of_images = {field: numbers[name] for name, field in NUMBERS.items() if field not in ("n_in", "n_out")}
    models = n_in + n_out
    share = float((n_in / models).mean())
    return Memorisation(**of_images, n_in=n_in, n_out=n_out, shadows=int(models.max()), share=share)


def _column(rows: Sequence[Mapping[str, str | None]], name: str) -> Tensor:
    return torch.tensor([_number(row[name]) for row in rows], dtype=torch.float64)


def _number(cell: str | None) -> float:
    try:
        value = float(cell or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"a cell that is no finite number, {str(cell)[:40]!r}")
    return value


def _answers(base: BaseModels, specs: Sequence[ModelSpec]) -> Tensors:
    train, size = base.splits.train, forward_batch(base.device)
    correct, margins = [], []
    for spec in base.progress(specs, "answers of the shadow models"):
        outputs = outputs_of(load_spec(base, spec).model, train.batches(size, device=base.device))
        correct.append(outputs.correct)
        margins.append(outputs.margins.float())
    return {"correct": torch.stack(correct), "margins": torch.stack(margins)}


def _key(base: BaseModels, specs: Sequence[ModelSpec]) -> str:
    """Return the key of the answers in the cache: a hash of the models' weights and of their images."""
    digests = [checkpoint_digest(spec.path) for spec in specs]
    train = base.splits.train
    depends_on = {
        "what": "answers on the training images",
        "models": hashlib.sha256("".join(digests).encode()).hexdigest(),
        "arch": base.architecture.identity,
        "options": repr(sorted(base.options.items())),
        "images": train.digest,
        "normalisation": repr(train.normalisation),
        "version": VERSION,
    }
    return json.dumps(depends_on, sort_keys=True)
