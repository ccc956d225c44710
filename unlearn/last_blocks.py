"""CFk and EUk: train the last blocks on the retain set, from their weights or from scratch."""

from __future__ import annotations

import itertools

from torch import nn

from lethe.flag_error import FlagError
from lethe.training.optimizers import SGD
from lethe.unlearn.blocks import Block, blocks_of, redraw_of
from lethe.unlearn.impl import ForgetData, Unlearned, copy_of, register
from lethe.unlearn.retain_tuning import tune_on_retain
from lethe.unlearn.settings import BatchSize, CountFromZero, Epochs, LearningRate, WeightDecay
from lethe.unlearn.train_mode import train_mode

SOURCE = "Goel et al. 2022, arXiv:2201.06640"


def check_blocks(model: nn.Module, data: ForgetData, *, last_blocks: int) -> None:
    """Raise ValueError for so many blocks that none is left frozen."""
    trained_blocks(model, data, last_blocks)


def check_fresh(model: nn.Module, data: ForgetData, *, last_blocks: int) -> None:
    """Raise ValueError as `check_blocks`, and for blocks that can't be drawn anew."""
    for name, module in _modules(model, trained_blocks(model, data, last_blocks)):
        if next(module.parameters(recurse=False), None) is not None and redraw_of(module) is None:
            raise ValueError(
                f"EUk: expected blocks whose weights can be drawn anew, got {name!r}, a "
                f"{type(module).__name__} without reset_parameters(). Give it that method, or use CFk"
            )


def trained_blocks(model: nn.Module, data: ForgetData, last_blocks: int) -> list[Block]:
    """Return the last `last_blocks` blocks and the classifier. Raises ValueError if no block stays frozen."""
    blocks = blocks_of(model, data)
    if len(blocks) < 2:
        raise ValueError(
            "expected a model with a block before the classifier, got one without, of which all would be "
            "trained. Use FT"
        )
    if last_blocks > len(blocks) - 2:
        named = ", ".join(block[0] for block in blocks)
        raise FlagError(
            "last_blocks",
            f"expected an integer from 0 to {len(blocks) - 2}, got {last_blocks}, and the first block stays "
            f"as it is. Blocks, the classifier last: {named}",
        )
    return blocks[-1 - last_blocks :]


@register(
    "CFk",
    "CF-k",
    source=SOURCE,
    resolve=(check_blocks,),
    needs=("retain", "labels"),
    augments=("retain",),
    source_augments="crop and flip",
    parallel=True,
)
def cfk(
    model: nn.Module,
    data: ForgetData,
    *,
    last_blocks: CountFromZero = 1,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 0.01,
    batch_size: BatchSize = 64,
    weight_decay: WeightDecay = 5e-4,
) -> Unlearned:
    """Fine-tune the classifier and the last blocks on the retain set, everything before them frozen.

        theta_last <- SGD(theta_last, g_r)    momentum .9

    An epoch is a pass over the retain set. Frozen blocks keep their running statistics too. A block is a
    module with a forward pass of its own (resnet18 has 8 after the stem), or a linear layer or convolution
    with the batch norm and activation after it.

    Flags:
        last_blocks: number of blocks before the classifier that are trained with it
        unlearn_epochs: passes over the retain set
        unlearn_lr: learning rate of SGD with momentum .9

    Raises ValueError for so many blocks that none is left frozen, and for a model without an order of its
    blocks; FloatingPointError if it diverges.

    Departures: the source counts layers, not blocks, and moves the running statistics of frozen layers; it
    has 62 epochs, in which the learning rate falls from .1 to .005.
    """
    student = copy_of(model)
    blocks = trained_blocks(student, data, last_blocks)
    return _train(
        student,
        data,
        "CFk",
        blocks,
        lr=unlearn_lr,
        decay=weight_decay,
        epochs=unlearn_epochs,
        size=batch_size,
    )


@register(
    "EUk",
    "EU-k",
    source=SOURCE,
    resolve=(check_fresh,),
    needs=("retain", "labels"),
    augments=("retain",),
    source_augments="crop and flip",
    parallel=True,
)
def euk(
    model: nn.Module,
    data: ForgetData,
    *,
    last_blocks: CountFromZero = 1,
    unlearn_epochs: Epochs = 10,
    unlearn_lr: LearningRate = 0.01,
    batch_size: BatchSize = 64,
    weight_decay: WeightDecay = 5e-4,
) -> Unlearned:
    """Draw the classifier and the last blocks anew and train them on the retain set, the rest frozen.

        theta_last ~ its initial distribution        then theta_last <- SGD(theta_last, g_r)    momentum .9

    As CFk otherwise. The initial distribution is that of each layer's reset_parameters().

    Flags:
        last_blocks: number of blocks before the classifier that are trained with it
        unlearn_epochs: passes over the retain set
        unlearn_lr: learning rate of SGD with momentum .9

    Raises ValueError as CFk does, and for a block with weights but without reset_parameters();
    FloatingPointError if it diverges.

    Departures: those of CFk.
    """
    student = copy_of(model)
    blocks = trained_blocks(student, data, last_blocks)
    draw_anew(student, blocks, data)
    return _train(
        student,
        data,
        "EUk",
        blocks,
        lr=unlearn_lr,
        decay=weight_decay,
        epochs=unlearn_epochs,
        size=batch_size,
    )


def draw_anew(student: nn.Module, blocks: list[Block], data: ForgetData) -> None:
    """Call reset_parameters() of every layer in the blocks, seeded by the data's seed."""
    # reset_parameters() takes no generator: torch's own is seeded while it draws
    with train_mode(nn.ModuleList(), data.generator("EUk", "initial weights"), data.device):
        for _, module in _modules(student, blocks):
            if (redraw := redraw_of(module)) is not None:
                redraw()


def _modules(model: nn.Module, blocks: list[Block]) -> list[tuple[str, nn.Module]]:
    units = [(name, model.get_submodule(name)) for name in itertools.chain(*blocks)]
    return [
        (f"{name}.{inner}".rstrip("."), module)
        for name, unit in units
        for inner, module in unit.named_modules()
    ]


def _train(
    student: nn.Module,
    data: ForgetData,
    name: str,
    blocks: list[Block],
    *,
    lr: float,
    decay: float,
    epochs: int,
    size: int,
) -> Unlearned:
    """Tune the blocks on the retain set by SGD, everything else frozen and in eval mode."""
    trained = nn.ModuleList(student.get_submodule(unit) for unit in itertools.chain(*blocks))
    student.requires_grad_(False)
    trained.requires_grad_(True)
    weights = [p for p in student.parameters() if p.requires_grad]
    done = tune_on_retain(
        student,
        data,
        name,
        optimizer=SGD(weights, lr=lr, momentum=0.9, weight_decay=decay),
        unlearn_epochs=epochs,
        batch_size=size,
        trained=trained,
    )
    student.requires_grad_(True)
    return done
