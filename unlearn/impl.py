"""The registry of methods, with the data that a method gets and the result that it returns."""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lethe.data import Division, ForgetRequest, ImageSet, Normalisation, Splits
from lethe.data.augmentation import Augmentation, Moves, augmentations, check_augmentable
from lethe.data.chosen_mask import Positions, chosen_mask
from lethe.data.item_columns import Columns
from lethe.data.labelled_images import Source, class_count, labelled_images
from lethe.flag_error import FlagError, named_as_arguments
from lethe.models import (
    Mask,
    MaskedLayer,
    alike,
    check_copies,
    check_logits,
    check_maskable,
    split_at,
    uncompiled,
)
from lethe.registry import Entry, Registry
from lethe.system.device import checked_device
from lethe.system.progress_place import progress_bar
from lethe.training import Progress, generator_for
from lethe.training.process_group import ALONE, ProcessGroup
from lethe.unlearn.needs import IMAGES_WITH_LABELS, Need, check_images, checked_needs
from lethe.unlearn.oracles import Oracles

OnEpoch = Callable[[nn.Module, int], None]
Batch = tuple[Tensor, Tensor]
Updates = Callable[[nn.Module], Iterable[tuple[Tensor, Tensor]]]
Method = TypeVar("Method", bound=Callable[..., Any])


def unwatched(model: nn.Module, epoch: int) -> None:
    """Do nothing after an epoch: the default. A function of this module, so that data can be pickled."""


@dataclass(frozen=True)
class ForgetData:
    """The data of a method. There is no test set in it, so that no method can look.

    cache: tensors by a key that names everything they depend on. progress: `progress(steps, label)` wraps a
    loop, by default with a bar on stderr from the third second on; `lethe.silent` shows none. on_epoch:
    `on_epoch(model, epoch)` is called with the intermediate models. whole: forget and retain set together, if
    at hand. whole_validation: the validation images of every class, those that are forgotten whole too, if at
    hand. ideal, oracles: the ideal model and those of other seeds, for methods that declare that they need
    them. updates: the training log of the model, step by step: its images' indexes (n,), and the change of
    all weights as one vector. augment: augmentation of the images that a method trains on (see
    `lethe.data.augmentation`), by `training_batches`; `images.batches` gives images unchanged, to measure or
    rank by. group: the processes that call the method with the same data, and share its batches. The forget
    or the retain set may be empty for a method that does not need it. Raises ValueError if both are, for sets
    that share an image, and for an augmentation that is unknown or does not fit the images.
    """

    forget: ImageSet
    retain: ImageSet
    validation: ImageSet
    classes: int
    seed: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cache: MutableMapping[str, dict[str, Tensor]] = field(default_factory=dict)
    on_epoch: OnEpoch = unwatched
    progress: Progress = progress_bar
    whole: ImageSet | None = None
    whole_validation: ImageSet | None = None
    ideal: Callable[[], nn.Module] | None = None
    oracles: Oracles | None = None
    updates: Updates | None = None
    augment: Augmentation = ()
    group: ProcessGroup = ALONE

    def __post_init__(self) -> None:
        if not len(self.forget):  # then there have to be images to retain
            check_images(("retain",), self.forget, self.retain)
        if self.whole is None:
            object.__setattr__(self, "retain", _numbered_on(self.forget, self.retain))
        object.__setattr__(self, "device", torch.device(self.device))  # a name will do
        checked_device(self.device)
        kinds = augmentations(self.augment)
        check_augmentable(kinds, self.forget.images.shape[1:])
        object.__setattr__(self, "augment", kinds)

    def __repr__(self) -> str:
        sizes = f"{len(self.forget)} images to forget, {len(self.retain)} to retain"
        return f"<ForgetData: {sizes}, {self.classes} classes, on {self.device}>"

    @classmethod
    def of(cls, splits: Splits, request: ForgetRequest, **world: Any) -> ForgetData:
        """Return the data of a forget request. Validation loses a class that is forgotten whole.

        splits: of `load_splits`; `of_dataset` takes a dataset of your own. Raises ValueError for anything
        else.
        """
        if not isinstance(splits, Splits):
            raise ValueError(
                f"expected the splits of load_splits, got {type(splits).__name__}. Use ForgetData.of_dataset"
            )
        division = request.resolved(splits).divide(splits.train, splits.classes, splits.split_seed)
        return cls.of_division(splits, division, **world)

    @classmethod
    def of_division(cls, splits: Splits, division: Division, **world: Any) -> ForgetData:
        """Return the data of a request that has divided the training images already."""
        validation = splits.validation.without_classes(*division.gone)
        return cls(
            division.forget,
            division.retain,
            validation,
            splits.classes,
            whole=splits.train,
            whole_validation=splits.validation,
            **world,
        )

    @classmethod
    def of_tensors(
        cls,
        images: Tensor,
        labels: Tensor,
        forget: Positions,
        normalisation: Normalisation | None = None,
        **world: Any,
    ) -> ForgetData:
        """Return the data of your own training images and labels (see ImageSet.of_tensors).

        forget: the images to forget, (N,) bool or positions; all of them for a method that needs no retain
        set. Give the model's `device`. There is no validation set. Raises ValueError for another `forget`,
        and if it chooses no image.
        """
        whole = ImageSet.of_tensors(images, labels, normalisation)
        classes = int(labels.max()) + 1 if len(labels) else 0
        return cls._of_mask(whole, chosen_mask(forget, len(whole)), classes, **world)

    @classmethod
    def of_dataset(
        cls,
        source: Source,
        forget: Positions | ForgetRequest,
        normalisation: Normalisation | None = None,
        *,
        columns: Columns | None = None,
        classes: int | None = None,
        **world: Any,
    ) -> ForgetData:
        """Return the data of your own training images, in whatever form they are.

            ForgetData.of_dataset(train_set, forget=[17, 404, 1203])
            ForgetData.of_dataset(train_set, forget=ForgetRequest((3,)))
            ForgetData.of_dataset((images, labels), forget=labels == 3)

        source, normalisation, columns: as in `ImageSet.of_dataset`. Give the images as the model sees them
        when it is tested, without random transforms; `augment="flip"` and the like augment them for methods
        that train.
        forget: positions in the dataset, a bool for each of its images, or a ForgetRequest: classes by number
        or, where the dataset names them, by name. A number of images is drawn by the split seed 0
        classes: how many the model tells apart; by default as many as the dataset names, or as its labels say
        world: the other fields of ForgetData. Give the model's `device`; `seed` decides all randomness

        There is no validation set. Raises ValueError as `ImageSet.of_dataset`, for labels that leave a class
        out where `classes` is not given, and for a `forget` that is wrong or takes no image. One that takes
        all leaves no retain set, for methods that need none.
        """
        read = labelled_images(source, columns)
        whole = ImageSet.of_tensors(read.images, read.labels, normalisation)
        counted = class_count(read.labels, read.class_names, classes)
        if not isinstance(forget, ForgetRequest):
            return cls._of_mask(whole, chosen_mask(forget, len(whole)), counted, **world)
        names = read.class_names or tuple(map(str, range(counted)))
        division = forget.of_classes(names).divide(whole, counted, split_seed=0)
        return cls(division.forget, division.retain, _none_of(whole), counted, whole=whole, **world)

    @classmethod
    def _of_mask(cls, whole: ImageSet, chosen: Tensor, classes: int, **world: Any) -> ForgetData:
        forget, retain = whole.subset(chosen), whole.subset(~chosen)
        check_images(("forget",), forget, retain)
        return cls(forget, retain, _none_of(whole), classes, whole=whole, **world)

    @cached_property
    def forget_classes(self) -> tuple[int, ...]:
        """The classes that are forgotten whole: the retain set has no image of them."""
        return Division(self.forget, self.retain).gone

    @property
    def some_images(self) -> Tensor:
        """Two images, or one, as the model sees them: to look at what it does."""
        images = self.forget if len(self.forget) else self.retain
        return images.normalisation(images.images[:2].to(self.device))

    @cached_property
    def train(self) -> ImageSet:
        """The training images of the initial model, forget and retain set, in their order."""
        return self.whole or self.forget.joined(self.retain)

    @property
    def every_validation(self) -> ImageSet:
        """The validation images of every class; without those that are forgotten whole if not at hand."""
        return self.validation if self.whole_validation is None else self.whole_validation

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Return a random stream for a purpose, which the seed and the purpose determine."""
        return generator_for(self.seed, "unlearn", *purpose)

    def training_batches(
        self, images: ImageSet, size: int, order: torch.Generator, moves: torch.Generator
    ) -> Iterator[Batch]:
        """Return one pass over the images, shuffled by `order`, on the device, augmented by `augment`.

        The augmentation draws from `moves`, so that the order is the same with it and without.
        """
        return images.batches(
            size, generator=order, device=self.device, augment=self.augment, moves_from=moves
        )

    def training_images(self, pixels: Tensor, normalisation: Normalisation, moves: torch.Generator) -> Tensor:
        """Return pixels (N, C, H, W) augmented and normalised, for batches made by hand."""
        if not self.augment:
            return normalisation(pixels)
        drawn = Moves.drawn(len(pixels), pixels.shape[2], moves, augmentations(self.augment))
        return drawn(pixels, normalisation)


def _numbered_on(forget: ImageSet, retain: ImageSet) -> ImageSet:
    """Return the retain set with indexes of its own: sets that were made one by one both begin at 0.

    Raises ValueError for sets of one dataset that share an image.
    """
    shared = forget.indexes[torch.isin(forget.indexes, retain.indexes.to(forget.indexes.device))]
    if not len(shared):
        return retain
    both_from_zero = all(
        torch.equal(images.indexes.cpu(), torch.arange(len(images))) for images in (forget, retain)
    )
    if not both_from_zero:
        raise ValueError(
            f"expected a forget and a retain set without a common image, got image {int(shared[0])} in both. "
            "Leave it out of one"
        )
    return replace(retain, indexes=retain.indexes + len(forget))


def _none_of(images: ImageSet) -> ImageSet:
    return images.subset(torch.zeros(len(images), dtype=torch.bool))


@dataclass(frozen=True)
class OverKappa:
    """Masks of several sizes, judged on training and validation images.

    points: weights switched off, forget score and retain score (percent). initial: both scores without a
    mask. chosen: the point of the chosen mask, which may have been refined.
    """

    points: list[tuple[int, float, float]]
    initial: tuple[float, float]
    chosen: tuple[int, float, float]


@dataclass(frozen=True)
class Unlearned:
    """The result of a method: the unlearned model, and more for the run's record.

    mask: the mask that was applied. history: numbers by name for each `step`, an epoch or an optimiser step;
    a name that ends in `loss` is in nats, in `score` in percent. facts: numbers and words about the run, such
    as the count of dampened weights. stages: seconds. over_kappa: the masks among which the
    method chose kappa, if it did. misses: in words, what the method aimed at and missed; the run warns of it.
    """

    model: nn.Module
    mask: Mask | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    facts: dict[str, int | float | str] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    step: Literal["epoch", "step"] = "epoch"
    over_kappa: OverKappa | None = None
    misses: str = ""


Resolve = Callable[..., dict[str, Any] | None]


@dataclass(frozen=True)
class MethodFacts:
    """The facts that a method's registration declares.

    source: where the method was published. leaves_weights: the method does not change the weights.
    whole_class: it refuses to forget a part of a class. needs: the image sets that it looks at, with their
    labels or without, records of the training, the ideal model, or oracles of other seeds (`needs.NEEDS`);
    what it does not name may be missing, and changes nothing.
    wraps: it returns the model inside another module. augments: the images that it trains on augmented if the
    run augments; None if unknown. source_augments: what the source's public code augments. add_on: the add-on
    of a joint name. parallel: several processes of torchrun can compute it together: it trains by
    `descend`, `fine_tune`, `tune_on_retain` or `descend_both` with the data's `group`.

    resolve: functions `(model, data, *, ...)` of settings that depend on each other, on the model or on the
    data. Each takes the settings that it names, checked already, and returns the values of those that it
    resolves, or raises ValueError, before anything is trained. The method is called with what they return.
    """

    source: str = ""
    leaves_weights: bool = False
    whole_class: bool = False
    needs: tuple[Need, ...] = IMAGES_WITH_LABELS
    wraps: bool = False
    augments: tuple[Literal["forget", "retain"], ...] | None = None
    source_augments: str = ""
    resolve: tuple[Resolve, ...] = ()
    add_on: str = ""
    parallel: bool = False


METHODS = Registry("method", MethodFacts, takes=("model", "data"), plugins="lethe.methods")
"""The methods by name, alias, or path/to/file.py:function: `METHODS["SSD"].summary`, `METHODS.names`.

Raises ValueError for an unknown name, with the nearest one.
"""


def register(
    name: str,
    *aliases: str,
    resolve: Sequence[Resolve] = (),
    needs: Sequence[Need] = IMAGES_WITH_LABELS,
    **facts: Any,
) -> Callable[[Method], Method]:
    """Decorator: register a method, which is a function from a model and its data to an unlearned model.

        @lethe.register_method("Mine", source="...")
        def mine(model: nn.Module, data: ForgetData, *, unlearn_epochs: int = 5) -> nn.Module: ...

    Its keyword-only parameters are its settings, and flags of the command line. Each call checks them, and
    resolves those that depend on each other by `resolve`. needs: the image sets that it looks at and what
    else it needs; by default forget and retain set with their labels. facts: the other fields of
    `MethodFacts`. The function is returned unchanged, but for these checks. Raises ValueError for a name that
    is registered already.
    """

    def remember(method: Method) -> Method:
        needed = checked_needs(needs)
        called = _resolving(method, resolve, needed)
        return METHODS.register(name, *aliases, resolve=tuple(resolve), needs=needed, **facts)(called)

    return remember


def _resolving(method: Method, resolve: Sequence[Resolve], needs: Sequence[Need]) -> Method:
    """Return the method, called with its resolved settings, if the images that it needs are there."""

    @functools.wraps(method)
    def call(model: nn.Module, data: ForgetData, **settings: Any) -> Any:
        check_images(needs, data.forget, data.retain)
        found = _resolution(resolve, model, data, settings)
        return method(model, data, **{name: found.get(name, value) for name, value in settings.items()})

    return cast(Method, call)


def _resolution(
    resolve: Sequence[Resolve], model: nn.Module, data: ForgetData, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values that the functions resolve. Each gets the settings it names; with a **, all."""
    found: dict[str, Any] = {}
    for function in resolve:
        wanted = inspect.signature(function).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in wanted.values())
        names = settings if takes_all else settings.keys() & wanted
        found |= function(model, data, **{name: settings[name] for name in names}) or {}
    return found


def unlearn(method: str, model: nn.Module, data: ForgetData, **settings: Any) -> Unlearned:
    """Run a registered method and return its result.

    Raises ValueError for an unknown method or flag, a value out of range, a model that does not fit the data
    (see `check_model`), and a method that returns no model; FloatingPointError if weights are not finite
    afterwards.
    """
    if not isinstance(method, str):
        raise ValueError(
            f'method: expected a name, got {type(method).__name__}. Write lethe.forget(model, data, "SSD")'
        )
    entry = METHODS[method]
    given = entry.settings(settings)
    check_model(model, data)
    result = entry(model, data, **given)
    if isinstance(result, nn.Module):
        result = Unlearned(result)
    if not isinstance(result, Unlearned):
        raise ValueError(
            f"{entry.name}: expected a method that returns a model or Unlearned(model, ...), got "
            f"{type(result).__name__}. Correct it"
        )
    if not _is_finite(result.model) and _is_finite(model):
        raise FloatingPointError(
            f"{entry.name} diverged: weights that are not finite. Give its flags values nearer to their "
            "defaults"
        )
    return result


def forget(model: nn.Module, data: ForgetData, method: str, **settings: Any) -> Unlearned:
    """Make a model forget, by a registered method: `lethe.forget(model, data, "SSD").model`.

    model: maps normalised images to logits (N, classes or more), on the data's device; it stays as it is.
    data: what to forget and what to retain. method: a name of `METHODS`, or path/to/file.py:function.
    settings: its hyperparameters, as `lethe forget --unlearn METHOD --help` shows them; the others have their
    defaults. Returns the unlearned model, a copy in eval mode, with its mask and history. Warns of what the
    method aimed at and missed.

    Raises ValueError for an unknown method or setting, a value out of range, a model that does not fit the
    data (see `check_model`), and a method that returns no model; FloatingPointError if the weights are not
    finite afterwards.
    """
    with named_as_arguments():
        result = unlearn(method, model, data, **settings)
    if result.misses:
        warnings.warn(f"{METHODS[method].name}: {result.misses}", stacklevel=2)
    return result


def _is_finite(model: nn.Module) -> bool:
    """Return whether all weights are finite; a module's extra state may be no tensor and is ignored."""
    values = [value for value in model.state_dict().values() if isinstance(value, Tensor)]
    return all(bool(value.isfinite().all()) for value in values)


def check_model(model: nn.Module, data: ForgetData, *, copied: bool = True) -> None:
    """Raise ValueError for a model that does not fit the data.

    The model has to be on the data's device, return logits (N, classes or more) and, if it is to be
    `copied`, be copyable.
    """
    who = "expected a model"
    if not isinstance(model, nn.Module):
        raise ValueError(f"{who}, an nn.Module, got {type(model).__name__}. Give the model itself")
    if not isinstance(data, ForgetData):
        raise ValueError(
            f"data: expected ForgetData, got {type(data).__name__}. Make it: "
            "ForgetData.of_dataset(train_set, forget=[17, 404])"
        )
    elsewhere = {p.device for p in model.parameters() if p.device.type != data.device.type}
    if elsewhere:
        place = elsewhere.pop()
        try:
            checked_device(place)
        except ValueError as error:
            raise ValueError(f"the model: {error}") from error
        raise ValueError(
            f"expected a model on the data's device {data.device}, got one on {place}. Give the data "
            f"device={str(place)!r}"
        )
    check_logits(
        model,
        data.some_images,
        data.classes,
        who=who,
        more=True,
        remedy="Give a model of these images and classes",
    )
    if copied:
        check_copies(model, who=who)


class Refused(ValueError):
    """The error of a method that refuses a request or a setting; no other change makes it accept them."""


def resolved(
    method: str | Entry[MethodFacts], model: nn.Module, data: ForgetData, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the resolved settings: amounts as counts, values that depend on others.

    Raises Refused if the method would raise ValueError.
    """
    entry = METHODS[method] if isinstance(method, str) else method
    try:
        check_images(entry.facts.needs, data.forget, data.retain)
        return _resolution(entry.facts.resolve, model, data, entry.settings(settings))
    except ValueError as error:
        raise Refused(str(error)) from error


def copy_of(model: nn.Module) -> nn.Module:
    """Return a deep copy of the model, uncompiled, in eval mode, with trainable parameters."""
    return copy.deepcopy(uncompiled(model)).eval().requires_grad_(True)


def own_layer(model: nn.Module) -> str:
    """Return the model's own choice of the layer to mask, by name or index; else the second last."""
    return str(getattr(model, "mask_layer", "-2"))


def masked_layer(model: nn.Module, data: ForgetData, mask_layer: str | None) -> MaskedLayer:
    """Split the model at `mask_layer`; by default at the model's own choice, or the second last layer.

    Raises ValueError for a layer that can't be masked (`models.check_maskable`) or does not compute W h + b,
    and for a model that does not fit the data (`check_model`).
    """
    check_model(model, data)
    images = data.some_images
    layer = split_at(model, mask_layer or own_layer(model), images)
    check_maskable(uncompiled(model), layer.name)
    with torch.no_grad():
        h = layer.body(images)
        z = layer.layer(h.clone())  # a hook may write into it
    if not alike(F.linear(h, layer.weight, layer.bias), z):
        raise FlagError(
            "mask_layer",
            f"expected a layer that computes W h + b, got {layer.name!r}, which does something else (a hook, "
            "or a forward of its own). Choose another layer",
        )
    return layer
