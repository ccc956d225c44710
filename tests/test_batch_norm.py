"""Which pass of which method normalises by its batch, and so moves the running statistics of batch norm."""

import functools
import inspect

import pytest
import torch
from torch import nn

from lethe.data import ImageSet, Normalisation
from lethe.unlearn import METHODS, ForgetData, Oracles, unlearn
from tests import short_log

CLASSES = 4
MARKED = slice(0, 4)  # pixels of the first row: full in every image, whatever the method does to it
FORGET = 4  # the pixel that is full in forget images alone
RUNNING, BATCH = "running", "batch"


def images_of(labels, chosen):
    """5 x 5 images of noise whose first row says that they are real, and whether they are to be forgotten."""
    pixels = torch.randint(
        100, (len(labels), 1, 5, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    pixels[:, 0, 0, MARKED] = 255
    pixels[:, 0, 0, FORGET] = 255 * chosen.to(torch.uint8)
    pixels[torch.arange(len(labels)), 0, 1 + labels, :] += 100
    return ImageSet(pixels, labels, torch.arange(len(labels)), Normalisation((0.0,), (1.0,)))


def data_of(**world):
    """Class 1 of four is to be forgotten, whole."""
    labels = torch.arange(CLASSES).repeat(6)
    chosen = labels == 1
    images = images_of(labels, chosen)
    return ForgetData(
        images.subset(chosen), images.subset(~chosen), images.subset(~chosen), CLASSES, whole=images, **world
    )


def classifier():
    """Batch norm twice: in the first block, and in the last before the classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
        return nn.Sequential(
            *first, nn.Linear(100, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES)
        ).eval()


FIRST, LAST = "1", "5"


def kinds_of(x):
    """What is in a batch: forget, retain, noise."""
    row = x.detach()[:, 0, 0]
    real = (row[:, MARKED] > 0.8).all(1)
    forget = row[:, FORGET] > 0.5
    kinds = {"noise": ~real, "forget": real & forget, "retain": real & ~forget}
    return " and ".join(kind for kind, members in kinds.items() if members.any())


def watched():
    """A model, and the set of (what is in the batch, by what the first and the last batch norm normalise) of
    its passes with gradients.

    What is asked without gradients must not move any statistics. Copies of the model report as well.
    """
    model, seen = classifier(), set()

    def look(module, inputs):
        modes = [BATCH if module.get_submodule(name).training else RUNNING for name in (FIRST, LAST)]
        if not torch.is_grad_enabled():
            assert modes == [RUNNING, RUNNING]
            return
        by_image = (
            torch._C._functorch.peek_interpreter_stack() is not None
        )  # inside vmap no value can be looked at
        seen.add(("each image alone" if by_image else kinds_of(inputs[0]), *modes))

    model.register_forward_pre_hook(look)
    return model, seen


@functools.cache
def retrained(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = classifier()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1)
    return model


def passes_of(name, **settings):
    """What `watched` has seen of a run of the method, and whether its statistics are the initial model's."""
    model, seen = watched()
    oracles = Oracles(lambda seeds: (retrained(seed) for seed in seeds), judges=(1,))
    entry = METHODS[name]
    counts = {
        flag: p.default for flag, p in entry.hyperparameters.items() if flag.endswith(("steps", "epochs"))
    }
    few = {flag: min(count, 4) for flag, count in counts.items() if count is not None}
    result = unlearn(
        name,
        model,
        data_of(ideal=lambda: retrained(1), oracles=oracles, updates=short_log.updates),
        **few | settings,
    )
    before, after = (dict(m.named_buffers()) for m in (model, getattr(result.model, "model", result.model)))
    same = all(torch.equal(value, after[key]) for key, value in before.items())
    return seen, same


def rows(*pairs):
    return {(kinds, mode, mode) for kinds, mode in pairs}


NONE = rows()
RETAIN = rows(("retain", BATCH))
MIXED = rows(("forget and retain", BATCH))
BOTH = rows(("forget", BATCH), ("retain", BATCH))
FORGET_BY_RUNNING = rows(("forget", RUNNING))
IN_TURNS = rows(("forget", RUNNING), ("retain", BATCH))
BY_IMAGE = rows(("each image alone", RUNNING))
IMPORTANCES = rows(("forget", RUNNING), ("forget and retain", RUNNING))
LAST_BLOCK = {("retain", RUNNING, BATCH)}

# what is in the batches of each method, and by what they are normalised
PASSES = {
    "default": NONE,
    "retrain": NONE,
    "load_an_oracle": NONE,
    "MIMU": NONE,
    "random_mask": NONE,
    "logit_attribution": NONE,
    "ESC": NONE,
    "ESC_T": NONE,
    "FT": RETAIN,
    **dict.fromkeys(("amnesiac_updates", "kgltop3", "kgltop4", "kgltop6", "kgltop7"), RETAIN),
    "FT_l1": RETAIN,
    "CT": RETAIN,
    "MSG": RETAIN | rows(("forget", RUNNING), ("retain", RUNNING)),  # the gradients that it ranks by
    "CFk": LAST_BLOCK,
    "EUk": LAST_BLOCK,
    "amnesiac": MIXED,
    "bad_teacher": MIXED,
    "LoTUS": MIXED,
    "oracle_matching": MIXED,
    "dm_matching": MIXED | BY_IMAGE,
    "NegGrad": FORGET_BY_RUNNING,
    "boundary_shrink": FORGET_BY_RUNNING,  # the search for the nearest class too
    "boundary_expanding": FORGET_BY_RUNNING,
    "SFT": FORGET_BY_RUNNING,
    "RL": IN_TURNS,
    "kgltop1": IN_TURNS,
    "RUM": IN_TURNS,
    "UAM": IN_TURNS,
    "NegMerge": FORGET_BY_RUNNING,
    "PGU": FORGET_BY_RUNNING,
    "L2UL": FORGET_BY_RUNNING | BY_IMAGE,
    "L2UL_adv": FORGET_BY_RUNNING,
    "DEL": RETAIN | rows(("forget", RUNNING)),  # its scores
    "SalUn": IN_TURNS,  # its saliency too
    "SalUn_soft": IN_TURNS,
    "ascent_descent": IN_TURNS,
    "SRL": rows(("forget", RUNNING), ("retain", RUNNING)),
    "NGPlus": BOTH,
    "SCRUB": BOTH,
    "DUCK": BOTH,
    "UNSIR": rows(
        ("noise", RUNNING), ("noise and retain", BATCH), ("retain", BATCH)
    ),  # first the noise is made
    "dm_direct": BY_IMAGE,
    "fisher": BY_IMAGE | rows(("retain", RUNNING)),
    "fisher_new": BY_IMAGE | rows(("retain", RUNNING)),
    "wfisher": BY_IMAGE | rows(("forget", RUNNING), ("retain", RUNNING)),
    "SSD": IMPORTANCES,
    "LFSSD": IMPORTANCES,
    "JiT": FORGET_BY_RUNNING,
    "DELETE": FORGET_BY_RUNNING,
    "SVD_forgetting": NONE,
    "AMUN": MIXED,  # no attack: this model is wrong on forget
    "AMUN_no_retain": FORGET_BY_RUNNING,
    "AMUN_only": MIXED,
    "Scissorhands": BOTH | FORGET_BY_RUNNING,  # what it marks and keeps away from
    "SFRon": BOTH | rows(("forget", RUNNING), ("retain", RUNNING)),  # its mask too
    **dict.fromkeys(("weight_distortion", "weight_attenuation", "weight_dropout", "weight_dist_reg"), RETAIN),
    "ASSD": IMPORTANCES,
    "SSD_det": IMPORTANCES | BY_IMAGE,  # image by image to check the way by layers
    "LFSSD_det": IMPORTANCES | BY_IMAGE,
}


def base_of(entry):
    """The entry whose function this is, with an add-on or without."""
    return next(
        base.name for base in METHODS if inspect.unwrap(base.function) is inspect.unwrap(entry.function)
    )


@pytest.mark.parametrize("entry", [e for e in METHODS if e.file is None], ids=lambda entry: entry.name)
def test_only_these_passes_normalise_by_their_batch(entry):
    expected = PASSES[base_of(entry)]
    settings = (
        {"noise_images": 8, "noise_copies": 1} if entry.name == "UNSIR" else {}
    )  # with the retain images in one batch
    seen, same = passes_of(entry.name, **settings)
    assert seen == expected
    assert same == (BATCH not in {mode for _, *modes in expected for mode in modes})


@pytest.mark.parametrize("settings", [{"msg_variant": "kgltop2"}, {"msg_variant": "dine"}], ids=str)
def test_msg_ranks_by_the_running_statistics_in_both_variants(settings):
    assert passes_of("MSG", **settings)[0] == PASSES["MSG"]


@pytest.mark.parametrize("mode", ["finetune_retain", "randomize_forget_and_finetune_retain"])
def test_sft_keeps_the_statistics_whatever_it_is_tuned_on(mode):
    seen, same = passes_of("SFT", sft_mode=mode)
    assert {modes for _, *modes in seen for modes in modes} == {RUNNING}
    assert same


@pytest.mark.parametrize("recipe", ["large", "small"])
def test_scrub_climbs_by_the_batch_in_each_recipe(recipe):
    assert passes_of("SCRUB", scrub_recipe=recipe)[0] == BOTH


@pytest.mark.parametrize("addon", ["OPT", "SalUn"])
@pytest.mark.parametrize("name", ["SRL", "NGPlus", "SCRUB"])
def test_an_add_on_normalises_as_its_method_does(name, addon):
    assert passes_of(name, addon=addon)[0] == PASSES[name]
