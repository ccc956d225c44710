"""Audits of a method by many models, of two models made elsewhere, or of a finished run.

    python -u audit.py klom --unlearn NAME     N unlearned models beside N oracles: KLoM, NeurIPS 2023 score
    python -u audit.py ulira --unlearn NAME    a per-image attack on unlearned shadow models
    python -u audit.py memorisation            which training images models learn by heart
    python -u audit.py evaluate --initial FILE --unlearned FILE    two models made elsewhere
    python -u audit.py verify RUN_ID           recompute every number of a run from its artifacts

Models are trained many at once and kept for the next audit. Each audit is one MLflow run.
python -u audit.py klom --help lists the flags of klom; with --unlearn NAME, those of the method too.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lethe import command_line
from lethe.commands import as_started, named
from lethe.experiment import shared_flags
from lethe.experiment.flag_sources import described_first

if TYPE_CHECKING:
    import argparse

    from lethe.audits.foreign_models import ForeignResult
    from lethe.audits.klom import KlomAudit
    from lethe.audits.many_models import AuditResult
    from lethe.audits.ulira import UliraAudit
    from lethe.audits.verified import Verification
    from lethe.registry import Entry
    from lethe.tracking.record import Record

    Parsed = tuple[argparse.Namespace, Entry[Any] | None, Entry[Any]]


@command_line.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the audit named by the first argument."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(as_started((__doc__ or "").strip()))
        return 0 if words else command_line.MISTAKE
    if words[0] not in COMMANDS:
        from lethe.nearest_name import did_you_mean

        raise ValueError(did_you_mean("audit", words[0], COMMANDS))
    return COMMANDS[words[0]](words[1:])


def klom(argv: Sequence[str]) -> int:
    """KLoM audit: compare N unlearned models of different seeds with N oracles.

    The initial models and the oracles have --seed and the N - 1 seeds after it; missing ones are trained.
    """
    options, method, architecture = described_first(lambda: _klom_options(argv))

    from lethe.audits.klom import KlomAudit, KlomConfig

    config = KlomConfig(
        **_common(options, method, architecture),
        models=options.models,
        oracle_margins=shared_flags.path_or_none(options.oracle_margins),
        also=options.metrics,
        klom_direction=options.klom_direction,
    )
    return _audited(KlomAudit(config, progress=command_line.progress_bar, notice=print))


def _klom_options(argv: Sequence[str]) -> Parsed:
    parser, method, architecture = _parser(argv, klom)
    group = parser.add_argument_group("the audit")
    group.add_argument(
        "--models", type=int, default=100, metavar="N", help="models a side (default: %(default)s)"
    )
    from_file = (
        "the oracles' margins, made elsewhere: a row per model; a column per forget, retain and validation "
        "image (see docs/audits.md)"
    )
    group.add_argument("--oracle_margins", metavar="FILE.npy", help=from_file)
    of_each = (
        "metrics of one model, such as mia_confidence, measured of every model; logs the means "
        "(default: none)"
    )
    group.add_argument("--metrics", type=shared_flags.words, default=(), metavar="NAME,...", help=of_each)
    direction = (
        "KL(unlearned || oracles), or as in data-unlearning-bench KL(oracles || unlearned) "
        "(default: %(default)s)"
    )
    directions = ("unlearned_oracle", "oracle_unlearned")
    group.add_argument("--klom_direction", choices=directions, default=directions[0], help=direction)
    options = _parsed(parser, argv, method, architecture)
    shared_flags.check_metric_names(options.metrics)
    return options, method, architecture


def ulira(argv: Sequence[str]) -> int:
    """U-LiRA audit: attack each forget image, unlearned or never seen, with shadow models.

    Shadow models are trained on random halves of the training set; each unlearns its part of the forget
    images.
    """
    options, method, architecture = described_first(lambda: _ulira_options(argv))

    from lethe.audits.ulira import UliraAudit, UliraConfig

    common = _common(options, method, architecture)
    config = UliraConfig(**common, shadows=options.shadows, out=options.ulira_out)
    return _audited(UliraAudit(config, progress=command_line.progress_bar, notice=print))


def _ulira_options(argv: Sequence[str]) -> Parsed:
    parser, method, architecture = _parser(argv, ulira)
    group = parser.add_argument_group("the audit")
    shadows = "shadow models; every image is in half of them (default: %(default)s)"
    group.add_argument("--shadows", type=int, default=128, metavar="N", help=shadows)
    out = (
        "models that never saw an image: shadow models that unlearned others, or oracles (default: "
        "%(default)s)"
    )
    group.add_argument("--ulira_out", choices=("unlearned", "retrained"), default="unlearned", help=out)
    return _parsed(parser, argv, method, architecture), method, architecture


def memorisation(argv: Sequence[str]) -> int:
    """Memorisation audit: score each training image by shadow models with it and without it.

    A score is the share of the models trained with the image that predict its label, less that of the models
    trained without it. Writes memorisation.csv, and pictures of each class. Missing shadow models are
    trained. The forget request does not matter.
    """
    options, architecture = described_first(lambda: _memorisation_options(argv))

    from lethe.audits.memorisation import MemorisationAudit, MemorisationConfig
    from lethe.experiment.memorised import MEMORISATION_FILE
    from lethe.tracking.record import read_record

    config = MemorisationConfig(
        shared_flags.base_config(options, architecture, options.seed, requested=False),
        options.shadows,
        options.experiment,
    )
    result = MemorisationAudit(config, progress=command_line.progress_bar).run()
    print(report(result))
    table = read_record(result.run_id).folder / MEMORISATION_FILE
    print(f"the scores, for --forget_scores: {shlex.quote(str(table))}")
    return 0


def _memorisation_options(argv: Sequence[str]) -> tuple[argparse.Namespace, Entry[Any]]:
    architecture = shared_flags.architecture_named(argv)
    parser = _described(memorisation)
    group = parser.add_argument_group("the audit")
    shadows = "shadow models; every image is in half of them (default: %(default)s)"
    group.add_argument("--shadows", type=int, default=128, metavar="N", help=shadows)
    group.add_argument("--experiment", metavar="NAME", help="MLflow experiment (default: <dataset>-<arch>)")
    shared_flags.add_base_flags(parser)
    shared_flags.add_signature_flags(parser, architecture, "architecture")
    options = command_line.parsed(parser, argv)
    shared_flags.check_shared_settings(options, architecture)
    return options, architecture


def _described(of: Callable[..., int]) -> command_line.OneLineParser:
    """Return the parser of an audit, described by its docstring."""
    summary, _, details = as_started(of.__doc__ or "").partition("\n")
    parser = command_line.OneLineParser(summary, details.strip())
    parser.prog = f"{parser.prog} {of.__name__}"
    return parser


def _audited(audit: KlomAudit | UliraAudit) -> int:
    print(f"to forget: {audit.job.base.forgotten}")
    print(report(audit.run()))
    return 0


def evaluate(argv: Sequence[str]) -> int:
    """Evaluate two models made elsewhere, before and after unlearning.

    FILE is a safetensors file, or a pickle of a state dict (.pt, .pth, .pth.tar), of the architecture that
    --arch names. The forget request is Lethe's: --forget_indexes with the positions in the published training
    part, or a class.
    """
    options, architecture = described_first(lambda: _evaluate_options(argv))

    from lethe.audits.foreign_models import ForeignConfig, ForeignModels

    config = ForeignConfig(
        Path(options.initial),
        Path(options.unlearned),
        shared_flags.base_config(options, architecture, options.seed),
        shared_flags.path_or_none(options.ideal),
        options.trained_on,
        options.metrics,
        options.experiment,
    )
    models = ForeignModels(config, progress=command_line.progress_bar)
    print(f"to forget: {models.forgotten}")
    print(measured_report(models.run()))
    return 0


def _evaluate_options(argv: Sequence[str]) -> tuple[argparse.Namespace, Entry[Any]]:
    architecture = shared_flags.architecture_named(argv)
    parser = _described(evaluate)
    group = parser.add_argument_group("the models")
    group.add_argument("--initial", metavar="FILE", help="the model before unlearning, trained on everything")
    group.add_argument("--unlearned", metavar="FILE", help="the model after unlearning")
    group.add_argument(
        "--ideal", metavar="FILE", help="the model retrained without the forget set (default: none)"
    )
    trained_on = (
        "training images of the initial model: Lethe's train split (without a tenth for validation), or all "
        "(default: %(default)s)"
    )
    group.add_argument("--trained_on", choices=("train", "all"), default="train", help=trained_on)
    which = "all, default, or names (default: all)"
    group.add_argument("--metrics", type=shared_flags.words, default=("all",), metavar="NAME,...", help=which)
    group.add_argument("--experiment", metavar="NAME", help="MLflow experiment (default: <dataset>-<arch>)")
    shared_flags.add_shared_flags(parser)
    shared_flags.add_signature_flags(parser, architecture, "architecture")
    options = command_line.parsed(parser, argv)
    missing = [f"--{name}" for name in ("initial", "unlearned") if getattr(options, name) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing. Name the model's file")
    shared_flags.check_shared_settings(options, architecture)
    shared_flags.check_metric_names(options.metrics)
    return options, architecture


def verify(argv: Sequence[str]) -> int:
    """Recompute every number of a run from its artifacts, and list differences and unchecked parts.

    Checks the digests of models, forget list and images; reads the images and evaluates the models again;
    recomputes the table of images, the mask, the verdict and the config_hash. Compares artifacts, params,
    tags and metrics with the manifest of the run's end. Does not run code that the run names. Exit code 1 if
    something differs or was not checked.
    """
    parser = _described(verify)
    parser.add_argument(
        "run_id", metavar="RUN_ID", help=f"32 digits and letters; {named('parse')} lists them"
    )
    moved = "the folder of the experiments' artifacts, if they were moved or copied (default: from the store)"
    parser.add_argument("--artifact_root", metavar="FOLDER", help=moved)
    trusted = "run a user's architecture, dataset or metric: the artifacts' copy, if its digest is right"
    parser.add_argument("--trust_code", action="store_true", help=trusted)
    sealed = (
        f"the public key of who sealed the run with {named('seal')}: checks the signature of the manifest"
    )
    parser.add_argument("--key", metavar="FILE", help=sealed)
    options = command_line.parsed(parser, argv)

    from lethe.audits.verification import verify as verified
    from lethe.tracking.record import read_record

    record = read_record(options.run_id, shared_flags.path_or_none(options.artifact_root))
    key = shared_flags.path_or_none(options.key)
    done = verified(record, progress=command_line.progress_bar, trust_code=options.trust_code, key=key)
    print(verification_report(record, done))
    return 0 if done.holds and done.complete else command_line.FAILED


LONGEST_LINE = 1000
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "klom": klom,
    "ulira": ulira,
    "memorisation": memorisation,
    "evaluate": evaluate,
    "verify": verify,
}


def verification_report(record: Record, done: Verification) -> str:
    """Return a line per check, the numbers that differ or can't be recomputed, and the unchecked parts."""
    from lethe.evaluation.impl import by_reason
    from lethe.report.text_table import text_table

    lines = [f"run: {record.name}", f"artifacts in {record.folder}"]
    for check in done.checks:
        if check.holds:
            lines.append(f"same: {check.what}")
        elif check.found is None:
            lines.append(f"GONE: {check.what}")
        else:
            lines += [f"DIFFERS: {check.what}", f"    expected {check.named}, got {check.found}"]
    wrong = [number for number in done.numbers if not number.same and number.name not in done.lost]
    if wrong:
        rows = [[_one_line(number.name), repr(number.logged), repr(number.recomputed)] for number in wrong]
        table = text_table(["number that differs", "the run has", "recomputed"], rows)
        lines += ["", *table.splitlines()]
    lines.append("")
    if done.left_out:
        lines.append(f"can't be recomputed from artifacts (seconds, histories): {', '.join(done.left_out)}")
    lines += [f"missing now: {one}" for one in done.gone]
    lost = by_reason(done.lost.items()).items()
    lines += [f"could not be recomputed ({why}): {', '.join(sorted(names))}" for why, names in lost]
    count = f"{sum(number.same for number in done.numbers)} of {len(done.numbers)} numbers"
    verdict = _verdict(done)
    ends = [f"{verdict}: {count} follow from the artifacts"]
    for what, found in (
        ("as the run logged it, not recomputed", done.only_logged),
        ("not checked", done.unchecked),
        ("what no run can show", done.outside),
    ):
        ends += [f"{what}: {'; '.join(map(_one_line, found))}"] if found else []
    return "\n".join([*map(_one_line, lines), "; ".join(ends)])


def _verdict(done: Verification) -> str:
    if not done.holds:
        return "NOT verified"
    return "verified" if done.complete else "verified IN PART"


def _one_line(text: str) -> str:
    """Return text of a run on one line of bounded length, without control characters."""
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= LONGEST_LINE else f"{plain[:LONGEST_LINE]}..."


def measured_report(result: ForeignResult) -> str:
    """Return a table of the models' metrics, and the reasons of missing ones."""
    from lethe.evaluation.impl import by_reason, reasons_of
    from lethe.report.metric_cell import metric_cell
    from lethe.report.text_table import text_table
    from lethe.tracking.store_uri import shown_uri

    measured = result.measured
    sides, undefined = measured.sides, measured.undefined
    undecided = [name for name, why in reasons_of("unlearned", undefined).items() if why.undecided]
    names = dict.fromkeys(name for side in (measured.model, undecided, *sides.values()) for name in side)
    rows = [
        [name, *(metric_cell(name, values, undefined, model, 4) for model, values in sides.items())]
        for name in names
    ]
    missing = [
        f"not measured ({why}): {', '.join(names)}" for why, names in by_reason(undefined.items()).items()
    ]
    warnings = [f"warning: {warning.text}" for warning in result.warnings]
    table = text_table(["metric", "initial", "unlearned", "ideal"], rows)
    return "\n".join(
        ["", table, "", *missing, *result.notes, *warnings, f"run in {shown_uri()}: {result.run_id}"]
    )


def report(result: AuditResult) -> str:
    """Return a table of the values with their references."""
    from lethe.report.text_table import number, text_table
    from lethe.tracking.store_uri import shown_uri

    rows = [
        [name, number(value, 4), against(name, result), verdict(name, result)]
        for name, value in result.values.items()
    ]
    rows += [
        [name, number(value, 4), "", ""]
        for name, value in result.beside.items()
        if "_mean_" in name or "_undecided_" in name or name.startswith("memorisation_")
    ]
    missing = [f"not measured: {name}: {reason}" for name, reason in result.undefined.items()]
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in result.stages.items())
    where = f"run in {shown_uri()}: {result.run_id}"
    table = text_table(["metric", "value", "against", "in words"], rows)
    return "\n".join(["", table, "", *result.notes, *missing, f"seconds: {seconds}", where])


def against(name: str, result: AuditResult) -> str:
    """Return the reference of a value: KLoM's noise floor, an attack's interval, the least reliability."""
    if name == "memorisation_reliability":
        from lethe.experiment.warnings import LEAST_RELIABILITY

        return f"at least {LEAST_RELIABILITY}"
    if name.startswith("klom"):
        return f"floor {result.beside['klom_floor_p95']:.4f} (N = {result.beside['klom_models']:.0f})"
    if name in result.intervals:
        low, high = result.intervals[name]
        return f"{low:.4f} to {high:.4f} (95 %)"
    return ""


def verdict(name: str, result: AuditResult) -> str:
    """Return the meaning of a value's interval; "" without one."""
    from lethe.audits.ulira import interval_message

    return interval_message(name, result.intervals[name]) if name in result.intervals else ""


def _parser(
    argv: Sequence[str], of: Callable[..., int]
) -> tuple[command_line.OneLineParser, Entry[Any] | None, Entry[Any]]:
    """Return a parser with the shared flags and those of the named method and architecture."""
    method, architecture = shared_flags.method_named(argv), shared_flags.architecture_named(argv)
    summary, _, details = as_started(of.__doc__ or "").partition("\n")
    about = method.about if method else shared_flags.methods_listed()
    parser = command_line.OneLineParser(summary, f"{details.strip()}\n\n{about}")
    parser.prog = f"{parser.prog} {of.__name__}"
    job = parser.add_argument_group("the method")
    job.add_argument("--unlearn", metavar="METHOD", help="name, or path/to/file.py:function")
    job.add_argument("--experiment", metavar="NAME", help="MLflow experiment (default: <dataset>-<arch>)")
    shared_flags.add_shared_flags(parser)
    shared_flags.add_signature_flags(parser, architecture, "architecture")
    if method is not None:
        shared_flags.add_signature_flags(parser, method, "method")
    return parser, method, architecture


def _parsed(
    parser: command_line.OneLineParser,
    argv: Sequence[str],
    method: Entry[Any] | None,
    architecture: Entry[Any],
) -> argparse.Namespace:
    options = command_line.parsed(parser, argv, method)
    if method is None:
        raise ValueError("--unlearn is missing. Name a method: " + ", ".join(shared_flags.method_names()))
    shared_flags.settings_from(options, method)
    shared_flags.check_shared_settings(options, architecture)
    return options


def _common(
    options: argparse.Namespace, method: Entry[Any] | None, architecture: Entry[Any]
) -> dict[str, Any]:
    """Return the settings that every audit of a method has."""
    return {
        "unlearn": options.unlearn,
        "settings": {} if method is None else shared_flags.settings_from(options, method),
        "base": shared_flags.base_config(options, architecture, options.seed),
        "experiment": options.experiment,
    }
