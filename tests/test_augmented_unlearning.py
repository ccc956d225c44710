"""Which images a method sees augmented: those that it trains on, and none that it measures or ranks by."""

import copy
import inspect
from dataclasses import dataclass, field

import pytest
import torch

from lethe.data import ForgetRequest, ImageSet, Normalisation
from lethe.data.augmentation import Moves
from lethe.unlearn import METHODS, ForgetData, Oracles, unlearn
from lethe.unlearn.teacher import Seen, Teacher
from tests import short_log
from tests.bars import CLASS_1, SEVEN_IMAGES, fixture_model, fixture_splits, fixture_trained, same_bits  # noqa: F401 (fixtures)
from tests.test_methods import cheap, retrained

MARK = 0.123456789  # no pixel of these images
FORGET, RETAIN = ("forget",), ("retain",)
BOTH = (*FORGET, *RETAIN)

TRAINED_ON = {
    **dict.fromkeys(("FT", "FT_l1", "CFk", "EUk", "CT", "MSG", "UNSIR"), RETAIN),
    **dict.fromkeys(("kgltop3", "kgltop4", "kgltop6", "kgltop7"), RETAIN),
    **dict.fromkeys(("DEL", "UAM", "amnesiac_updates"), RETAIN),
    **dict.fromkeys(("NegMerge", "PGU", "L2UL", "L2UL_adv"), FORGET),
    **dict.fromkeys(("DUCK", "kgltop1", "RUM"), BOTH),
    **dict.fromkeys(("weight_distortion", "weight_attenuation", "weight_dropout", "weight_dist_reg"), RETAIN),
    "DELETE": FORGET,
    **dict.fromkeys(("SFRon", "Scissorhands"), BOTH),
    **dict.fromkeys(("NegGrad", "boundary_shrink", "boundary_expanding"), FORGET),
    **dict.fromkeys(
        ("RL", "SalUn", "SalUn_soft", "amnesiac", "ascent_descent", "bad_teacher", "LoTUS"), BOTH
    ),
    **dict.fromkeys(("NGPlus", "SRL", "SCRUB"), BOTH),
}
ASKED_BESIDE = {
    "SalUn": FORGET,
    "DELETE": FORGET,
    "bad_teacher": BOTH,
    "LoTUS": BOTH,
    "SCRUB": BOTH,
    "kgltop1": RETAIN,
    "RUM": FORGET,
    "kgltop4": RETAIN,
    "kgltop6": RETAIN,
}  # in eval mode: a ranking, and teachers
NEVER = (
    *("default", "retrain", "load_an_oracle", "oracle_matching", "dm_matching", "dm_direct"),
    *("MIMU", "SFT", "random_mask", "logit_attribution", "SSD", "fisher", "fisher_new", "wfisher"),
    *("LFSSD", "ASSD", "SSD_det", "LFSSD_det"),
    *("ESC", "ESC_T"),
    *("JiT", "SVD_forgetting", "AMUN", "AMUN_no_retain", "AMUN_only"),
)

own_name = [entry for entry in METHODS if entry.file is None]
every_method = pytest.mark.parametrize("entry", own_name, ids=lambda entry: entry.name)
with_a_teacher = pytest.mark.parametrize("name", ["SCRUB", "SCRUBGradMask", "bad_teacher", "LoTUS"])


def method_in(entry):
    """Of a joint name the method that it has in it."""
    return next(
        other.name for other in METHODS if inspect.unwrap(other.function) is inspect.unwrap(entry.function)
    )


def data_of(splits, request=CLASS_1, **world):
    oracles = Oracles(lambda seeds: (retrained(request, seed) for seed in seeds), judges=(1,))
    return ForgetData.of(
        splits, request, ideal=lambda: retrained(request), oracles=oracles, updates=short_log.updates, **world
    )


@dataclass
class Watched:
    """What models in train mode, and in eval mode, were given: for each batch, which of the training images
    were marked, and which not.
    """

    data: ForgetData
    training: list = field(default_factory=list)
    evaluated: list = field(default_factory=list)

    def __post_init__(self):
        images = self.data.forget.joined(self.data.retain)
        self.pixels = images.normalisation(images.images).flatten(1)[:, 1:]
        self.forgets = torch.isin(images.indexes, self.data.forget.indexes)

    @property
    def hook(self):
        """A function: copies of a model have the same one."""

        def watch(module, inputs):
            if torch._C._functorch.peek_interpreter_stack() is not None:
                return  # inside vmap no value can be looked at
            some_train = any(part.training for part in module.modules())
            (self.training if some_train else self.evaluated).append(inputs[0].detach().clone())

        return watch

    def sets_of(self, batches, *, marked):
        """The sets that the marked, or the unmarked, images of the batches are of; what is no training image
        (UNSIR's noise) is of none.
        """
        found = set()
        for x in batches:
            flat = x.flatten(1)
            chosen = flat[(flat[:, 0] == torch.tensor(MARK)) == marked]
            known = (chosen[:, None, 1:] == self.pixels[None]).all(2).any(0)
            found |= {
                name
                for name, own in zip(BOTH, (self.forgets, ~self.forgets), strict=True)
                if (known & own).any()
            }
        return tuple(name for name in BOTH if name in found)


@pytest.fixture(name="marks")
def fixture_marks(monkeypatch):
    """Augmentation leaves images as they are but for their first pixel; what it was done to."""
    done = []

    def mark(moves, images, normalisation=lambda images: images):
        done.append(len(images))
        marked = normalisation(images)
        marked[:, 0, 0, 0] = MARK
        return marked

    monkeypatch.setattr(Moves, "__call__", mark)
    return done


def watched(entry, model, splits):
    """A run that augments, watched."""
    data = data_of(splits, augment=("flip",))
    watch, model = Watched(data), copy.deepcopy(model)
    model.register_forward_pre_hook(watch.hook)
    unlearn(entry.name, model, data, **cheap(entry))
    return watch


def test_every_method_stands_in_one_of_the_tables():
    alone = {entry.name for entry in own_name if not entry.facts.add_on}
    assert sorted([*TRAINED_ON, *NEVER]) == sorted(alone)


@every_method
def test_a_method_declares_what_it_augments(entry):
    assert entry.facts.augments == TRAINED_ON.get(method_in(entry), ())


@pytest.mark.parametrize(
    "entry", [e for e in own_name if method_in(e) in TRAINED_ON], ids=lambda entry: entry.name
)
def test_what_is_trained_on_is_augmented_and_nothing_else(entry, model, splits, marks):
    watch, name = watched(entry, model, splits), method_in(entry)
    assert watch.sets_of(watch.training, marked=True) == TRAINED_ON[name]
    assert watch.sets_of(watch.training, marked=False) == ()
    assert watch.sets_of(watch.evaluated, marked=True) == ASKED_BESIDE.get(name, ())


@pytest.mark.parametrize("name", NEVER)
def test_a_method_that_trains_on_no_stream_of_images_is_left_alone(name, model, splits, marks):
    results = [
        unlearn(name, model, data_of(splits, augment=augment), **cheap(METHODS[name]))
        for augment in ((), ("flip",))
    ]
    assert same_bits(*(result.model.state_dict() for result in results))
    assert marks == []


@with_a_teacher
def test_a_teacher_is_asked_about_the_very_images_that_the_student_is_given(name, model, splits, marks):
    watch = watched(METHODS[name], model, splits)
    asked = {x.numpy().tobytes() for x in watch.evaluated}
    assert watch.training
    assert [len(x) for x in watch.training if x.numpy().tobytes() not in asked] == []


def test_a_teacher_that_is_asked_says_what_one_says_that_is_looked_up(model, splits):
    plain, augmented = data_of(splits), data_of(splits, augment=("flip",))
    model.train()
    looked_up, asked = (Teacher(model, plain.retain, data) for data in (plain, augmented))
    ((x, _),) = plain.retain.batches(1000)
    some = torch.tensor([5, 0, 7])
    batch = Seen(x[some], some)
    assert (looked_up.table is None, asked.table is None) == (False, True)
    torch.testing.assert_close(asked(batch), looked_up(batch), rtol=0, atol=1e-5)
    assert all(module.training for module in model.modules())
    assert not asked(batch).requires_grad


@pytest.mark.parametrize(
    "name", ["FT", "RL", "SRL", "SCRUB", "LoTUS", "MSG", "UNSIR", "SalUn", "bad_teacher"]
)
def test_a_seed_decides_every_bit_and_augmentation_changes_them(name, model, splits):
    entry, kinds = METHODS[name], (("flip",), ("flip",), ())
    first, again, plain = (
        unlearn(name, model, data_of(splits, augment=augment, seed=3), **cheap(entry)) for augment in kinds
    )
    assert same_bits(first.model.state_dict(), again.model.state_dict())
    assert first.history == again.history
    assert not same_bits(first.model.state_dict(), plain.model.state_dict())


def positions_trained_on(name, model, splits, augment):
    """For each batch in train mode, the training images in it, by all of their pixels but the first."""
    watch, model = Watched(data_of(splits, SEVEN_IMAGES, augment=augment)), copy.deepcopy(model)
    model.register_forward_pre_hook(watch.hook)
    unlearn(name, model, watch.data, **cheap(METHODS[name]))
    return [
        (x.flatten(1)[:, None, 1:] == watch.pixels[None]).all(2).nonzero().tolist() for x in watch.training
    ]


@pytest.mark.parametrize("name", ["RL", "SRL", "CT"])
def test_the_images_come_in_the_same_order_with_augmentation_and_without(name, model, splits, marks):
    with_it, without = (positions_trained_on(name, model, splits, augment) for augment in (("flip",), ()))
    assert with_it == without
    assert marks != []


def test_two_passes_over_the_same_images_move_them_differently(splits):
    data = data_of(splits, augment=("flip",))
    order, moves = data.generator("order"), data.generator("moves")
    passes = [next(data.training_batches(data.retain, 1000, order, moves))[0] for _ in range(2)]
    assert not torch.equal(*(x.sort(0).values for x in passes))


def test_batches_without_a_shuffle_are_augmented_by_the_generator_of_the_moves():
    images = ImageSet.of_tensors(
        torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8),
        torch.zeros(1, dtype=torch.int64),
        Normalisation((0.0,), (1.0,), white=1),
    )
    seen = {
        x.sum().item()
        for _ in range(20)
        for x, _ in images.batches(1, augment=("crop",), moves_from=torch.Generator().manual_seed(_))
    }
    assert len(seen) > 1
    ((plain, _),) = images.batches(1, augment=("crop",))
    assert torch.equal(plain[0, 0], torch.arange(64.0).view(8, 8))


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (
            ("flip", "mixup"),
            "augmentation: expected some of crop, flip, cutout, got 'mixup'. Correct the list",
        ),
        (
            ("crop", "flip"),
            "augmentation crop: expected images of at least 8 x 8 pixels, got 4 x 4. Leave crop out",
        ),
        (True, "augmentation crop: expected images of at least 8 x 8 pixels, got 4 x 4. Leave crop out"),
    ],
)
def test_an_augmentation_that_there_is_not_or_that_the_images_cant_take_is_refused(augment, message, splits):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ForgetData.of(splits, ForgetRequest((1,)), augment=augment)


def test_rows_of_numbers_are_no_images():
    labels = torch.arange(4) % 2
    reason = r"augmentation flip: expected images \(channels, height, width\), got \(3,\). Ask for none"
    with pytest.raises(ValueError, match=reason):
        ForgetData.of_tensors(torch.zeros(4, 3), labels, labels == 0, augment=("flip",))
