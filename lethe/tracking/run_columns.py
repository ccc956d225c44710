"""The columns of the parser's table, unless --all asks for every one.

In this order: what the run is; what was forgotten, and of which model; the method with its settings; the
metrics that matter; the gaps to the ideal model; other metrics; seconds.
"""

from __future__ import annotations

from collections.abc import Collection

from lethe.tracking.run_table import KINDS, PARENT, WARNING, Layout, Names, column_names

# There is no end_time: start_time and duration_s have it. compare.py --csv knows a whole table by it.
IDENTITY = ("run_id", "run_name", "experiment", "status", WARNING, "start_time", "duration_s", PARENT)
# split_seed: which images a number means, so that runs with another one forget others.
REQUEST = ("dataset", "request", "class_to_replace", "num_indexes_to_replace", "split_seed", "forget_count")
MODEL = ("arch", "epochs", "training", "seed")  # training: what differs from the default recipe
METHOD = ("unlearn", "unlearn_augment")
SCORES = ("forget_score", "retain_score", "test_score", "test_forget_score", "test_retain_score")
ATTACKS = ("mia", "mia_auc")
LOSSES = ("forget_loss", "retain_loss", "test_forget_loss", "test_retain_loss")
PROBABILITIES = ("forget_probability", "test_forget_probability")
GAPS = ("avg_gap", "avg_gap_without_mia", "rUA")
SECONDS = ("unlearn_seconds", "ideal_seconds", "speedup")

# Columns where runs differ in them: such runs are not of one setting.
SHOWN_IF_VARIED = frozenset(
    {
        "arch_file",
        "dataset_file",
        "device",
        "duplicates",
        "forget_easiest",
        "forget_hardest",
        "forget_indexes",
        "forget_scores",
        "forget_subclass",
        "forget_typical",
        "forget_where",
        "forget_worst",
        "ideal",
        "image_channels",
        "mask",
        "normalize",
        "num_classes",
        "test_split",
        "train_augment",
        "train_batch_size",
        "train_compile",
        "train_deterministic",
        "train_label_smoothing",
        "train_lr",
        "train_memory_format",
        "train_optimizer",
        "train_precision",
        "train_schedule",
        "train_split",
        "train_weight_decay",
        "unlearn_file",
    }
)
PARAMS_LEFT_OUT = SHOWN_IF_VARIED | {
    "checkpoint_epochs",
    "data",
    "experiment",  # a column of its own has it
    "forget_request",
    "metrics",
    "processes",
    "report",
    "retain_count",
    "save_dir",
}
METRICS_LEFT_OUT = frozenset(
    {
        "activation_distance",
        "fidelity",
        "js_divergence",
        "mia_confidence",
        "mia_correctness",
        "mia_entropy",
        "mia_lr",
        "mia_m_entropy",
        "mia_prob",
        "mia_tpr_at_1_fpr",
        "rf_js_divergence",
        "test_loss",
        "tow",
        "weight_distance",
        "weights_changed",
        "zrf",
    }
)
OF_LETHE = {"unlearn", "request"}  # params of every run of Lethe; other programs have a flag --unlearn too
OF_BASE_MODELS = ("initial_", "ideal_")  # params and metrics
DIGESTS = ("_code", "_digest")
HISTORIES = ("epoch_", "stage_", "unlearn_")  # metrics


def default_layout(
    params: set[str], metrics: set[str], asked: Collection[str] = (), varied: Collection[str] = ()
) -> Layout:
    """Return the layout of the columns that matter in a store of Lethe's runs, with empty cells for None.

    asked: the metrics, in small letters, that runs were told to measure by name: they matter. varied: those
    of SHOWN_IF_VARIED in which runs differ. In another store these names mean something else: all of them are
    kept, in the same order.
    """
    of_params, of_metrics = column_names(params, metrics)
    if params >= OF_LETHE:
        kept = [name for name in of_params if name in varied or not _secondary_param(name)]
        of_params = {name: of_params[name] for name in kept}
        shown = [name for name in of_metrics if name.casefold() in asked or not _secondary_metric(name)]
        of_metrics = {name: of_metrics[name] for name in shown}
    return Layout(_in_order(of_params, of_metrics), of_params, of_metrics, empty_none=True)


def _secondary_param(name: str) -> bool:
    return name in PARAMS_LEFT_OUT or name.startswith(OF_BASE_MODELS) or name.endswith(DIGESTS)


def _secondary_metric(name: str) -> bool:
    if name in SECONDS:
        return False
    return name in METRICS_LEFT_OUT or name.startswith((*OF_BASE_MODELS, *HISTORIES))


def _in_order(params: Names, metrics: Names) -> dict[str, str]:
    """Return the columns in order with their kinds. What is named nowhere is a setting, or another metric."""
    known_params = [*REQUEST, *MODEL, *METHOD]
    headline = [*SCORES, *ATTACKS, *LOSSES, *PROBABILITIES, *GAPS]
    settings = [name for name in params if name not in known_params]
    other_metrics = [name for name in metrics if name not in headline and name not in SECONDS]
    columns = {name: KINDS.get(name, "text") for name in IDENTITY}
    for name in (*known_params, *settings):
        if name in params:
            columns[params[name]] = "text"
    for name in (*headline, *other_metrics, *SECONDS):
        if name in metrics:
            columns[metrics[name]] = "number"
    return columns
