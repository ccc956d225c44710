"""How well a datamodel by gradient attribution predicts retraining.

    python benchmarks/datamodels.py
    python benchmarks/datamodels.py --class_to_replace -1 --num_indexes_to_replace 60 --damping 0.1 1 10

lds              linear datamodeling score: Spearman's correlation of an image's margin with the sum of the
                 training images' scores for it, over --shadows models, each trained on another half of the
                 training set; the mean over the validation images. The scores are computed without shadows.
forget, others   Pearson's correlation, over images and classes, of dm_direct's change of the logits with the
                 change from the initial model to the mean of --oracles retrained ones, for the forget images
                 and for the validation images.
scale            factor that brings the predicted change of the forget images' logits nearest to the real one:
                 dm_direct's --multiplier.

Shadows and oracles are made where they are not there yet, many at once. All training images take part in the
scores.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line
from lethe.experiment import shared_flags

if TYPE_CHECKING:
    from torch import Tensor

    from lethe.experiment.base_models import BaseModels

Row = dict[str, Any]
COLUMNS = ("damping", "lds", "forget", "others", "scale")


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, and write the same numbers with --json."""
    parser = BenchmarkParser(__doc__)
    parser.add_number("shadows", 64, "models of random halves", least=4)
    parser.add_number("oracles", 16, "retrained models")
    parser.add_argument(
        "--damping", type=float, nargs="+", default=[0.1, 1.0, 10.0], help="default: 0.1 1 10"
    )
    parser.add_number("sketch_size", 4096, "numbers of a gradient")
    architecture = parser.add_experiment(argv)
    options = parser.options(argv)
    if not min(options.damping) > 0:
        raise ValueError(f"--damping: expected numbers > 0, got {options.damping}. Correct them")

    from benchmarks.machine import describe, write_json
    from lethe.experiment.base_models import BaseModels
    from lethe.report.text_table import text_table

    base = BaseModels(
        shared_flags.base_config(options, architecture, options.seed), progress=command_line.progress_bar
    )
    rows = measured(base, options)
    models = f"{options.shadows} shadows, {options.oracles} oracles, seed {options.seed}"
    task = f"{base.splits.dataset}, {base.architecture.name}, {base.request_slug}"
    print(f"{task}: {models}, sketch of {options.sketch_size}")
    digits = {name: ".4g" if name == "damping" else ".3f" for name in COLUMNS}
    print(text_table(list(COLUMNS), [[f"{row[name]:{digits[name]}}" for name in COLUMNS] for row in rows]))
    print(describe())
    write_json(options.json, __file__, argv, rows=rows)
    return 0


def measured(base: BaseModels, options: Namespace) -> list[Row]:
    """A row for each damping."""
    import torch

    from lethe.experiment.model_sets import load_set, train_set
    from lethe.unlearn import ForgetData
    from lethe.unlearn.attribution import Attribution, Shifted
    from lethe.unlearn.forget_and_retain import logits_of
    from lethe.unlearn.oracle_matching import mean_logits

    train_set(base, "shadows", options.shadows)
    train_set(base, "oracles", options.oracles)
    data = ForgetData.of_division(
        base.splits, base.division, seed=base.config.seed, device=base.device, progress=base.progress
    )
    initial, train, validation = base.initial().model, base.splits.train, base.splits.validation
    shadows = load_set(base, "shadows", options.shadows)
    oracles = [kept.model for kept in load_set(base, "oracles", options.oracles)]
    real = torch.stack(
        [
            margins_of(logits_of(kept.model, validation, base.device).cpu(), validation.labels)
            for kept in shadows
        ]
    )
    sets = {"forget": data.forget, "others": validation}
    before = {name: logits_of(initial, images, base.device) for name, images in sets.items()}
    changes = {
        name: mean_logits(oracles, images, base.device) - before[name] for name, images in sets.items()
    }
    forgets = torch.isin(train.indexes, data.forget.indexes)
    rows = []
    for damping in options.damping:
        attribution = Attribution(initial, train, data, sketch_size=options.sketch_size, damping=damping)
        scores = attribution.scores(validation).cpu()
        predicted = torch.stack([scores[:, kept.rows].sum(1) for kept in shadows])
        shifted = Shifted(initial, attribution.shift(forgets)).eval()
        guesses = {
            name: logits_of(shifted, images, base.device) - before[name] for name, images in sets.items()
        }
        row: Row = {name: pearson(guesses[name], changes[name]) for name in sets}
        scale = float((guesses["forget"] * changes["forget"]).sum() / guesses["forget"].square().sum())
        rows.append(
            {"damping": damping, "lds": linear_datamodeling_score(predicted, real), **row, "scale": scale}
        )
    return rows


def margins_of(logits: Tensor, labels: Tensor) -> Tensor:
    """log p_y / (1 - p_y) (N,)."""
    true = logits.gather(1, labels[:, None]).squeeze(1)
    return true - logits.scatter(1, labels[:, None], -float("inf")).logsumexp(1)


def linear_datamodeling_score(predicted: Tensor, real: Tensor) -> float:
    """Spearman's correlation over the models (rows) of both (M, N), the mean over the N images."""
    from scipy.stats import spearmanr

    pairs = zip(predicted.T.numpy(), real.T.numpy(), strict=True)
    return float(sum(spearmanr(one, other).statistic for one, other in pairs) / real.shape[1])


def pearson(one: Tensor, other: Tensor) -> float:
    import torch

    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


if __name__ == "__main__":
    sys.exit(main())
