"""Audit every method: against N oracles (KLoM, the challenge's score) and by shadow models (U-LiRA).

    python benchmarks/audit.py
    python benchmarks/audit.py --methods FT NegGrad --dataset MNIST --arch mlp

KLoM is the 95th percentile over the images of a set, nats, beside the noise floor of N models a side: what
two samples of one normal come to. quality, score: forgetting_quality and forgetting_score. U-LiRA: AUC and
TPR at 1 % FPR with 95 % intervals; 0.5 and 0.01 where nothing can be told. mia_confidence is the percentage
of forget images that an attack on the confidence of one model takes for never seen: the mean over the N
models, less the oracles', with the 95 % interval of the difference per seed. It passes where 0 is within the
interval; U-LiRA is passed where 0.5 is, or where all of it is below. Where the interval of the AUC goes from
0.5 to above 0.75, there are too few shadow models to tell.

`default` is the initial model, which has to be caught, `retrain` the ideal model of another seed than the
oracle, which has to pass. Finished audits are kept and used again: an interrupted run goes on where it
stopped.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.arguments import BenchmarkParser
from lethe import command_line
from lethe.experiment import shared_flags

METHODS = ("default", "retrain", "MIMU", "SFT", "FT", "NegGrad", "NGPlus", "SRL", "SalUn", "SCRUB", "SSD")
MIA = "mia_confidence"
CODE = ("lethe/audits", "lethe/experiment/model_sets.py")

Row = dict[str, Any]


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Print one table and where the two attacks disagree; write the same numbers with --json."""
    options = options_of(argv)

    from benchmarks.cells import MEASURED_CODE, Cells
    from benchmarks.machine import describe, write_json

    shared = tuple(place for place in MEASURED_CODE if place != "unlearn")
    kept = Cells(cells_file(options), __file__, code=(*shared, *CODE))
    methods = command_line.progress_bar(options.methods, "methods")
    rows = [measured(options, method, kept) for method in methods]
    print(heading(rows, options), table(rows), "", *in_words(rows), "", kept.note(), describe(), sep="\n")
    write_json(options.json, __file__, argv, rows=rows)
    return 0


def options_of(argv: Sequence[str] | None) -> Any:
    parser = BenchmarkParser(__doc__)
    parser.add_argument("--methods", nargs="+", default=METHODS, help="default: " + " ".join(METHODS))
    parser.add_number("models", 100, "KLoM: models a side")
    parser.add_number("shadows", 128, "U-LiRA: shadow models, half of them a side")
    cells_help = "where the audits are kept (default: <save_dir>/benchmarks/audit.jsonl)"
    parser.add_argument("--cells", metavar="FILE", help=cells_help)
    parser.add_experiment(argv)
    parser.set_defaults(class_to_replace=[-1], num_indexes_to_replace=130)
    options = parser.options(argv)

    from lethe.unlearn import METHODS as REGISTERED

    options.methods = [REGISTERED[name].name for name in options.methods]
    return options


def cells_file(options: Any) -> Path:
    return (
        Path(options.cells)
        if options.cells
        else Path(options.save_dir or f"results/{options.dataset}") / "benchmarks" / "audit.jsonl"
    )


def measured(options: Any, method: str, kept: Any) -> Row:
    """Return both audits of a method, or `failed` with the reason."""
    from benchmarks.method_cells import method_code
    from lethe.unlearn import METHODS as REGISTERED

    architecture = shared_flags.architecture_of(options.arch, options.dataset)
    base = shared_flags.base_config(options, architecture, options.seed)
    entry = REGISTERED[method]
    key = {
        "what": "audits",
        "method": method,
        "settings": entry.settings({}),
        "method_code": method_code(entry),
        "base": repr(base),
    }
    key |= {"models": options.models, "shadows": options.shadows}
    try:
        return {"method": method} | kept.measured(key, lambda: audited(options, method, base))
    except (
        ValueError
    ) as error:  # of the surroundings, as a tracking server that does not answer: another time it may
        return {"method": method, "failed": f"not run: {_line(error)}"}


def audited(options: Any, method: str, base: Any) -> Row:
    """Return the numbers of both audits, or the method's error: a refused request, or divergence."""
    from lethe.audits.klom import KlomAudit, KlomConfig
    from lethe.audits.ulira import UliraAudit, UliraConfig
    from lethe.unlearn import Refused

    def told(line: str) -> None:
        print(line, file=sys.stderr)

    shown: dict[str, Any] = {"progress": command_line.progress_bar, "notice": told}
    try:
        beside_oracles = KlomAudit(KlomConfig(method, base=base, models=options.models, also=(MIA,)), **shown)
        attacked = UliraAudit(UliraConfig(method, base=base, shadows=options.shadows), **shown)
        klom, ulira = beside_oracles.run(), attacked.run()
    except (Refused, FloatingPointError) as error:
        return {"failed": _line(error)}
    gaps = gaps_of(klom.models)
    return {
        **klom.values,
        **klom.beside,
        **ulira.values,
        **ulira.beside,
        "intervals": {name: list(ends) for name, ends in ulira.intervals.items()},
        "gap": gaps and gaps.mean,
        "gap_interval": gaps and list(gaps.interval),
        "gap_seeds": gaps.n if gaps else 0,
        "seconds": klom.stages["total"] + ulira.stages["total"],
        "runs": [klom.run_id, ulira.run_id],
    }


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def gaps_of(models: Sequence[Mapping[str, Any]]) -> Any:
    """mia_confidence less the oracle's of the same seed, of the seeds for which neither is undecided.

    None where that is half of them or fewer.
    """
    from lethe.evaluation.over_seeds import gaps, over_seeds

    ours, theirs = (
        {row["seed"]: float(row[MIA]) for row in models if row["side"] == side and row[MIA] is not None}
        for side in ("unlearned", "oracle")
    )
    both = ours.keys() & theirs.keys()
    if 2 * len(both) <= len({row["seed"] for row in models}):
        return None
    return over_seeds(
        gaps({seed: ours[seed] for seed in both}, {seed: theirs[seed] for seed in both}), "points"
    )


def passes_mia(row: Row) -> bool | None:
    """None where the attack is undecided."""
    if row["gap_interval"] is None:
        return None
    low, high = row["gap_interval"]
    return bool(low <= 0 <= high)


def passes_ulira(row: Row) -> bool | None:
    """None where there are too few shadow models to tell."""
    from lethe.audits.ulira import CAUGHT, INCONCLUSIVE, interval_message

    low, high = row["intervals"]["ulira_auc"]
    said = interval_message("ulira_auc", (low, high))
    return None if said == INCONCLUSIVE else said != CAUGHT


def heading(rows: Sequence[Row], options: Any) -> str:
    found = [row for row in rows if "failed" not in row]
    floor = f"; noise floor of KLoM {found[0]['klom_floor_p95']:.2f}" if found else ""
    classes = " ".join(map(str, options.class_to_replace or (0,)))
    request = f"{options.num_indexes_to_replace or 'all'} images of class {classes}"
    if options.forget_indexes:
        request = f"the images of {options.forget_indexes}"
    models = f"{options.models} models a side{floor}; {options.shadows} shadow models"
    return f"{options.dataset}, forgetting {request} (-1 is any), {models}"


def table(rows: Sequence[Row]) -> str:
    """Return a line per method, the largest AUC first, and the reasons of missing ones below."""
    from lethe.report.text_table import text_table

    found = sorted((row for row in rows if "failed" not in row), key=lambda row: -row["ulira_auc"])
    header = ["method", "KLoM forget", "retain", "validation", "quality", "score", "U-LiRA AUC"]
    header += ["TPR at 1 % FPR", "mia_confidence gap, seeds", "seconds"]
    lines = text_table(header, [line(row) for row in found])
    return "\n".join([lines, *(f"{row['method']}: {row['failed']}" for row in rows if "failed" in row)])


def line(row: Row) -> list[str]:
    from lethe.evaluation import UNDECIDED

    numbers = [f"{row[name]:.2f}" for name in ("klom_forget_p95", "klom_retain_p95", "klom_validation_p95")]
    numbers += [f"{row[name]:.3f}" for name in ("forgetting_quality", "forgetting_score")]
    numbers += [
        with_ends(row[name], row["intervals"][name], 3) for name in ("ulira_auc", "ulira_tpr_at_1_fpr")
    ]
    gap = UNDECIDED
    if row["gap"] is not None:
        gap = f"{with_ends(row['gap'], row['gap_interval'], 1)} of {row['gap_seeds']}"
    return [row["method"], *numbers, gap, f"{row['seconds']:.0f}"]


def with_ends(value: float, ends: Sequence[float], digits: int) -> str:
    return f"{value:.{digits}f} ({ends[0]:.{digits}f} to {ends[1]:.{digits}f})"


def in_words(rows: Sequence[Row]) -> list[str]:
    """Return a line for each pair of results of the two attacks, with its methods."""
    lira = {False: "fail U-LiRA", True: "pass U-LiRA", None: "are undecided by U-LiRA: too few shadow models"}
    mia = {True: f"pass {MIA}", False: f"fail {MIA}", None: f"are undecided by {MIA}"}
    notes: dict[tuple[bool | None, bool | None], str] = {
        (True, False): ": attackable, though not by the attack of most tables",
        (
            False,
            True,
        ): ": confidence differs from the oracles', but does not tell which images were forgotten",
        (True, None): ", the interval goes from chance to above 0.75",
    }
    methods: dict[tuple[bool | None, bool | None], list[str]] = {}
    for row in rows:
        if "failed" not in row:
            methods.setdefault((passes_mia(row), passes_ulira(row)), []).append(row["method"])
    lines = []
    for by_lira, by_mia in itertools.product(lira, mia):
        kind = (by_mia, by_lira)
        if kind in methods:
            results = f"{mia[by_mia]} and {lira[by_lira]}{notes.get(kind, '')}"
            lines.append(f"{results}: {', '.join(methods[kind])}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
