"""Compare every method with the ideal model: forgetting, loss, time, and passes of a step.

    python benchmarks/methods.py
    python benchmarks/methods.py --timing                       the passes alone
    python benchmarks/methods.py --methods FT --set unlearn_lr=0.01,0.1 --part validation --seeds 101 --timing
    skip

Every registered method with its default flags, on digits (mlp) and MNIST (cnn), forgetting class 0 (class0)
or a tenth of the training images (random10); then, on digits, every method that takes an add-on with every
add-on. UA = 100 - accuracy on the forget images, RA = on the retain images, TA = on the test images (of the
retained classes, where one is forgotten), MIA = percent of the forget images that an attack on the confidence
takes for never seen, "undecided" where that hangs on the images that the attack is trained on; avg_gap = mean
distance in these four to `retrain`, the ideal model of the same seed, points, and without MIA = in the first
three: the tables are sorted by that, which every row has. "(2 of 3)": on the third seed MIA is undecided.
`default` is the initial model.

x passes: seconds of a step over those of one plain forward and backward pass on the same batches, the same
model, in the same process (medians); beside it the passes that the formula needs. x steps: over a plain
training step, which also fetches its batch and moves the weights, and that is most of it in a model as small
as digits' mlp. A ! where both are above 1.5 times what is needed. made: passes in a step by the images
forwarded, a forward alone being a third, a backward alone nothing. run: seconds of the whole run over those
of all passes that it makes; where there are no steps, `needs` is in this unit, with a ! above 1.5 times as
much: fisher needs a pass and the squares of each image's own gradient, fisher_new both for each label,
wfisher two passes and the inner products of all pairs of images, these beyond a pass timed as plain tensor
operations. Timed on an untrained model and at most 512 images to forget and 1024 to retain; where an epoch is
a single step (the 128 zeros of digits), what is done once an epoch is part of the step.

Finished cells are kept and used again: an interrupted run goes on where it stopped, and a method is measured
anew only if its own code, or what it shares with others, has changed.
"""

from __future__ import annotations

import itertools
import operator
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line
from lethe.experiment import shared_flags

MODELS = {"digits": "mlp", "MNIST": "cnn"}
WITH_ADD_ONS = ("digits",)
METHODS_TABLE, ADD_ONS_TABLE = "methods", "add-ons"

Row = dict[str, Any]


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each dataset and request, the add-ons and the passes; write them with --json."""
    options = options_of(argv)

    from benchmarks import cells, machine, method_cells, method_passes

    tables = trials_of(options)
    splits = splits_of(options)
    kept = cells.Cells(
        cells_file(options), method_cells.__file__, method_passes.__file__, code=method_cells.SHARED_CODE
    )
    timings = [] if options.timing == "skip" else timed(options, tables, splits, kept)
    rows = [] if options.timing == "only" else list(measured(options, tables, splits, kept))
    tables_of = operator.itemgetter("dataset", "request", "table")
    for table in dict.fromkeys(map(tables_of, rows)):
        own = [row for row in rows if tables_of(row) == table]
        print(heading(own, options), quality_table(own, timings), sep="\n", end="\n\n")
    for dataset in dict.fromkeys(row["dataset"] for row in timings):
        print(timing_table([row for row in timings if row["dataset"] == dataset]), end="\n\n")
    print(kept.note(), machine.describe(), sep="\n")
    machine.write_json(options.json, __file__, argv, rows=rows, timings=timings)
    return 0


def options_of(argv: Sequence[str] | None) -> Any:
    from lethe.experiment.base_config import FLAGS

    parser = BenchmarkParser(__doc__)
    add, number = parser.add_argument, parser.add_number
    seed = shared_flags.flag_type(FLAGS.hyperparameters["seed"])
    requests, parts, also = ("class0", "random10"), ("test", "validation"), ("also", "only", "skip")
    add("--datasets", nargs="+", metavar="NAME", help="default: digits MNIST, those whose files are there")
    add("--methods", nargs="+", metavar="NAME", help="these alone, beside default and retrain (default: all)")
    add("--requests", nargs="+", choices=requests, default=list(requests), help="default: both")
    add("--seeds", nargs="+", type=seed, default=[1, 2, 3], metavar="N", help="default: 1 2 3")
    flag_help = "a flag of the given methods; VALUE,VALUE is a row each"
    add("--set", action="append", default=[], metavar="NAME=VALUE", help=flag_help)
    part_help = (
        "score these images: validation is for choosing defaults, with other seeds (LoTUS uses validation "
        "itself) (default: %(default)s)"
    )
    add("--part", choices=parts, default="test", help=part_help)
    add("--addons", choices=also, default="also", help="the add-on part (default: %(default)s)")
    timing = (
        "the passes: with the rest, alone, or not at all (default: %(default)s; --timing is --timing only)"
    )
    add("--timing", nargs="?", choices=also, const="only", default="also", help=timing)
    number("timing_epochs", 3, "epochs of a timed run, at most")
    number("repeats", 20, "timed runs of a method, medians are shown")
    number("seconds", 4.0, "no timed run begins after these", least=0)
    add("--epochs", type=int, metavar="N", help="of the base models' training (default: the dataset's own)")
    add("--split_seed", type=seed, default=0, metavar="N", help="default: %(default)s")
    parser.add_place("data", "device")
    folder = "checkpoints, below it in a folder for each dataset (default: %(default)s)"
    add("--save_dir", default="results", metavar="FOLDER", help=folder)
    cells_help = "where the cells are kept (default: <save_dir>/benchmarks/methods.jsonl)"
    add("--cells", metavar="FILE", help=cells_help)
    options = parser.options(argv)
    if options.set and not options.methods:
        raise ValueError("--set: expected --methods too, to say whose flags these are. Name the methods")
    return options


def cells_file(options: Any) -> Path:
    return Path(options.cells) if options.cells else Path(options.save_dir) / "benchmarks" / "methods.jsonl"


def trials_of(options: Any) -> dict[str, list[Any]]:
    """Return the lines of both tables. ValueError for an unknown method or a setting that one lacks."""
    from benchmarks.method_cells import RETRAIN, Trial
    from lethe.unlearn import METHODS
    from lethe.unlearn.add_ons import ADD_ONS

    entries = chosen_entries(options.methods)
    ends = [Trial(RETRAIN), Trial("default")]
    alone = [
        Trial(name, settings)
        for name, entry in entries.items()
        for settings in settings_of(entry, options.set)
    ]
    taking = {name: entry for name, entry in entries.items() if "addon" in entry.hyperparameters}
    pairs = [
        Trial(name, {"addon": addon, **settings})
        for name, entry in taking.items()
        for settings in settings_of(entry, options.set)
        for addon in (None, *ADD_ONS.names)
        if "addon" not in settings
    ]
    for trial in (*alone, *pairs):
        METHODS[trial.method].settings(trial.settings)
    tables = {METHODS_TABLE: unique([*ends, *alone]), ADD_ONS_TABLE: unique([*ends, *pairs]) if pairs else []}
    left_out = {"only": METHODS_TABLE, "skip": ADD_ONS_TABLE}.get(options.addons)
    return {table: trials for table, trials in tables.items() if trials and table != left_out}


def chosen_entries(names: Sequence[str] | None) -> dict[str, Any]:
    """Return the entries of these names, or all but joint names (a method with its add-on) and retrain.

    By the name, or for a function of a file that registers nothing by path/to/file.py:function.
    """
    from benchmarks.method_cells import RETRAIN
    from lethe.unlearn import METHODS

    if names is None:
        chosen = {entry.name: entry for entry in METHODS if not entry.facts.add_on}
    else:
        entries = [(name, METHODS[name]) for name in names]
        chosen = {entry.name if entry.name in METHODS.names else name: entry for name, entry in entries}
    return {name: entry for name, entry in chosen.items() if name != RETRAIN}


def settings_of(entry: Any, given: Sequence[str]) -> Iterator[Row]:
    """Each combination of the given NAME=VALUE,VALUE, parsed as the method's flags are."""
    from lethe.nearest_name import did_you_mean

    if entry.name == "default":  # an end of the table, whatever is tried
        given = []
    columns = []
    for text in given:
        name, equals, values = text.partition("=")
        if not equals or not values:
            raise ValueError(f"--set: expected NAME=VALUE, got {text!r}. Write e.g. --set unlearn_lr=0.1")
        if name not in entry.hyperparameters:
            kind, plural = f"flag of {entry.name}", f"flags of {entry.name}"
            raise ValueError(f"--set: {did_you_mean(kind, name, entry.hyperparameters, plural)}")
        columns.append([(name, entry.hyperparameters[name].parse(value)) for value in values.split(",")])
    return (dict(pairs) for pairs in itertools.product(*columns))


def unique(trials: Sequence[Any]) -> list[Any]:
    return list({trial.label: trial for trial in trials}.values())


def splits_of(options: Any) -> dict[str, Any]:
    """Return the splits. Prints a line for missing files; FileNotFoundError if the dataset was named."""
    from lethe.data import load_splits

    found = {}
    for dataset in options.datasets or MODELS:
        try:
            found[dataset] = load_splits(dataset, options.data, options.split_seed)
        except FileNotFoundError as missing:
            if options.datasets:
                raise
            print(f"{dataset}: not measured, {missing}", file=sys.stderr)
    return found


def base_config(options: Any, dataset: str, seed: int) -> Any:
    from lethe.experiment.base_config import BaseConfig

    return BaseConfig(
        dataset=dataset,
        data=options.data,
        arch=MODELS.get(dataset),
        epochs=options.epochs,
        seed=seed,
        split_seed=options.split_seed,
        device=options.device,
        save_dir=Path(options.save_dir) / dataset,
    )


def measured(
    options: Any, tables: Mapping[str, list[Any]], splits: Mapping[str, Any], kept: Any
) -> Iterator[Row]:
    """A row for each dataset, request, seed and line of a table."""
    from benchmarks import method_cells

    show = command_line.progress_bar
    for dataset, request, seed in itertools.product(splits, options.requests, options.seeds):
        world = method_cells.world_of(
            base_config(options, dataset, seed), request, splits[dataset], options.part, show
        )
        about = {
            "dataset": dataset,
            "arch": world.base.architecture.name,
            "request": request,
            "seed": seed,
            "part": options.part,
        }
        about |= {
            "forget_images": len(world.base.division.forget),
            "training_images": len(splits[dataset].train),
        }
        wanted = {
            table: trials
            for table, trials in tables.items()
            if table != ADD_ONS_TABLE or dataset in WITH_ADD_ONS
        }
        lines = [(table, trial) for table, trials in wanted.items() for trial in trials]
        for table, trial in show(lines, f"{dataset} {request} seed {seed}"):
            numbers = method_cells.measured(trial, world, kept)
            yield (
                about
                | {"table": table, "label": trial.label, "method": trial.method, "settings": trial.settings}
                | numbers
            )


def timed(options: Any, tables: Mapping[str, list[Any]], splits: Mapping[str, Any], kept: Any) -> list[Row]:
    """A row for each dataset and method with its add-on, as far as it can be run."""
    from benchmarks.method_cells import RETRAIN
    from lethe.experiment.base_models import BaseModels

    pairs = dict.fromkeys(
        (trial.method, trial.addon)
        for trials in tables.values()
        for trial in trials
        if trial.method != RETRAIN
    )
    bases = [BaseModels(base_config(options, dataset, 1), splits=splits[dataset]) for dataset in splits]
    steps = command_line.progress_bar([(base, *pair) for base in bases for pair in pairs], "passes")
    return [timing_cell(options, base, method, addon, kept) for base, method, addon in steps]


def timing_cell(options: Any, base: Any, method: str, addon: str | None, kept: Any) -> Row:
    """The numbers of one method, or `failed` with the reason why it can't be timed."""
    from benchmarks.meter import Meter
    from benchmarks.method_cells import method_code
    from benchmarks.method_passes import cost
    from lethe.unlearn import METHODS

    def make() -> Row:
        meter = Meter(base.device, options.repeats, options.seconds)
        try:
            return cost(method, addon, base.untrained(), base.splits, meter, options.timing_epochs)
        except (ValueError, FloatingPointError) as error:
            return {"failed": f"not timed: {' '.join(str(error).split())}"}

    key = {
        "what": "passes",
        "dataset": base.splits.dataset,
        "arch": base.architecture.name,
        "method": method,
        "addon": addon,
    }
    key |= {"method_code": method_code(METHODS[method])}
    key |= {"device": str(base.device), "split": base.splits.digest, "settings": METHODS[method].settings({})}
    key |= {name: getattr(options, name) for name in ("timing_epochs", "repeats", "seconds")}
    try:
        return key | kept.measured(key, make)
    except RuntimeError as error:  # too little memory, for one: tried again by the next call
        return key | {"failed": f"failed: {type(error).__name__}: {' '.join(str(error).split())}"}


def heading(rows: Sequence[Row], options: Any) -> str:
    row = rows[0]
    seeds = " ".join(map(str, options.seeds))
    several = f"mean ± standard deviation, and 95 % t-interval of avg_gap, over seeds {seeds}"
    numbers = several if len(options.seeds) > 1 else f"seed {seeds}"
    of = f"{row['request']}: {row['forget_images']} of {row['training_images']} training images forgotten"
    return f"{row['dataset']}, {row['arch']}, {row['table']}, {of}, {row['part']} images, {numbers}"


def quality_table(rows: Sequence[Row], timings: Sequence[Row]) -> str:
    """A line per method, nearest to the ideal model first; below, why cells are missing."""
    from statistics import mean

    from benchmarks.method_cells import COLUMNS, GAPS
    from lethe.report.seeds_text import interval
    from lethe.report.text_table import number, text_table

    lines, unchanged = [], False
    seeds = len({row["seed"] for row in rows})
    for label in dict.fromkeys(row["label"] for row in rows):
        own = [row for row in rows if row["label"] == label and "failed" not in row]
        if not own:
            continue
        same = not any(row["changed"] for row in own)
        unchanged |= same
        name = label + " =" * same + f" ({len(own)} of {seeds} seeds)" * (len(own) < seeds)
        units = dict.fromkeys(COLUMNS, "percent") | dict.fromkeys(GAPS, "points")
        overs = {name: decided(own, name, unit) for name, unit in units.items()}
        gap = overs["avg_gap"][0]
        values = [text_of(over, of) for over, of in overs.values()]
        values += [interval(gap)] if seeds > 1 else []
        seconds = number(mean(row["seconds"] for row in own), 2)
        passes = [passes_of(own[0], timings)] if timings else []
        lines.append((mean(row["avg_gap_without_mia"] for row in own), [name, *values, seconds, *passes]))
    lines.sort(key=lambda line: line[0])
    header = [
        "method",
        *COLUMNS,
        "avg_gap",
        "without MIA",
        *(["95 % interval"] if seeds > 1 else []),
        "seconds",
    ]
    header += ["x passes"] if timings else []
    table = text_table(header, [line for _, line in lines])
    notes = ["= no image is predicted differently than by the initial model"] * unchanged
    return "\n".join([table, *notes, *reasons(rows)])


def decided(rows: Sequence[Row], name: str, unit: str) -> tuple[Any, int]:
    """Return the statistics of a column's values, None without a value, and the number of rows."""
    from lethe.evaluation.over_seeds import over_seeds

    values = [row[name] for row in rows if row[name] is not None]
    return (over_seeds(values, unit) if values else None), len(rows)


def text_of(over: Any, rows: int) -> str:
    """Return mean and standard deviation, with the number of seeds if some lack; else "undecided"."""
    from lethe.evaluation import UNDECIDED
    from lethe.report.seeds_text import spread

    if over is None:
        return UNDECIDED
    return spread(over) + (f" ({over.n} of {rows})" if over.n < rows else "")


def passes_of(row: Row, timings: Sequence[Row]) -> str:
    """What a step costs and what its formula needs, where that was timed."""
    key = (row["dataset"], row["method"], row["settings"].get("addon"))
    found = [
        timing
        for timing in timings
        if (timing["dataset"], timing["method"], timing["addon"]) == key and "x_passes" in timing
    ]
    if not found:
        return ""
    needs = "" if found[0]["needs"] is None else f" of {found[0]['needs']:.3g}"
    return f"{found[0]['x_passes']:.2f}{needs}" + " !" * found[0]["slow"]


def reasons(rows: Sequence[Row]) -> list[str]:
    """A line for each method and reason, with the seeds that it holds for."""
    failed: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "failed" in row:
            failed.setdefault((row["label"], row["failed"]), []).append(str(row["seed"]))
    every = len({row["seed"] for row in rows})
    return [
        f"{label}{'' if len(seeds) == every else f', seed {chr(32).join(seeds)}'}: {reason}"
        for (label, reason), seeds in failed.items()
    ]


def timing_table(rows: Sequence[Row]) -> str:
    """A line per method, with a ! where it is slow; below, why others were not timed."""
    from lethe.report.text_table import number, text_table

    lines, missing = [], []
    for row in rows:
        name = row["method"] + (f" + {row['addon']}" if row["addon"] else "")
        if "failed" in row:
            missing.append(f"{name}: {row['failed']}")
            continue
        columns = (
            ("step_ms", 2),
            ("pass_ms", 2),
            ("x_passes", 2),
            ("needs", 2),
            ("passes_made", 2),
            ("x_training_steps", 2),
            ("run_ratio", 2),
        )
        shown = [number(row.get(column), digits) for column, digits in columns]
        lines.append([name, *shown, number(row["run_ms"], 1), "!" * row["slow"]])
    header = ["method", "step ms", "pass ms", "x passes", "needs", "made", "x steps", "run", "run ms", ""]
    return "\n".join(
        [f"{rows[0]['dataset']}, {rows[0]['arch']}: passes a step", text_table(header, lines), *missing]
    )


if __name__ == "__main__":
    sys.exit(main())
