"""Facts of a run that never ran, of any size, for the tests of reports."""

from dataclasses import replace

import torch

from lethe.evaluation import METRICS, Missing, ModelOutputs, Outputs, evaluate
from lethe.report.layer_charts import Layer
from lethe.report.run_facts import ForgetImages, History, RunFacts
from lethe.report.verdict import Measurements

NAMES = ("tench, Tinca tinca", "goldfish <Carassius>", "great white shark & other sharks", "ox")
DEFAULT = (
    "forget_loss",
    "retain_loss",
    "forget_probability",
    "forget_score",
    "retain_score",
    "test_score",
    "mia_auc",
)
ON_TEST = (
    "test_forget_score",
    "test_retain_score",
    "test_forget_loss",
    "test_retain_loss",
    "test_forget_probability",
)


def outputs(labels, classes, *, sure, seed, avoid=()):
    """Logits that favour the label by `sure`, and are low for the classes to avoid."""
    logits = torch.randn(len(labels), classes, generator=torch.Generator().manual_seed(seed))
    logits[torch.arange(len(labels)), labels] += sure
    for label in avoid:
        logits[:, label] -= 12
    return Outputs(logits, labels)


def model_outputs(classes, *, sure=6.0, avoid=(), seed=0, test=0):
    forget = torch.zeros(60, dtype=torch.int64)
    retain = torch.arange(3 * classes) % (classes - 1) + 1
    tested = torch.arange(test or 4 * classes) % classes
    made = [
        outputs(own, classes, sure=sure, seed=seed + n, avoid=avoid)
        for n, own in enumerate((forget, retain, tested))
    ]
    return ModelOutputs(*made, validation=None, forget_classes=(0,), seed=1)


def facts(classes=10, *, rows=64, columns=128, ideal=True, test=0):
    models = {
        "initial": model_outputs(classes, test=test),
        "unlearned": model_outputs(classes, avoid=(0,), seed=10, test=test),
    }
    if ideal:
        models["ideal"] = model_outputs(classes, avoid=(0,), seed=20, test=test)
    kinds = [METRICS[name] for name in (*DEFAULT, *ON_TEST)]
    numbers = {name: evaluate(names=kinds, model=own)[0] for name, own in models.items()}
    own = models["unlearned"]
    counts = {name: len(some) for name, some in own.sets.items()} | {
        "test_forget": len(own.test_forget),
        "test_retain": len(own.test_retain),
    }
    names = [
        NAMES[c] if c < len(NAMES) else f"class number {c}" if classes > 10 else str(c)
        for c in range(classes)
    ]
    keep = torch.rand(rows, columns, generator=torch.Generator().manual_seed(1)) > 0.1
    measured = Measurements(
        "class 0",
        True,
        classes,
        numbers,
        counts,
        masked="some weights are switched off",
        commands={"all": "COMMAND --metrics all", "ideal": "MAKE"},
    )
    draw = torch.Generator().manual_seed(2)
    return RunFacts(
        name="method <b>class0</b> seed1",
        run_id="0" * 32,
        asked="Forget class 0.",
        method="method",
        about="One line & more.",
        source="Somebody 2020",
        measured=measured,
        kinds=kinds,
        undefined={
            "avg_gap": Missing("needs an ideal model", "MAKE"),
            "rUA": Missing("needs an ideal model", "MAKE"),
        },
        outputs=models,
        names=names,
        params={"kappa": 0.1, "data": "<./data>", "note": "a & b"},
        command="python -u mlflow_forget.py --unlearn method --data '<./data>'",
        layer=Layer("linear2", torch.randn(rows, columns, generator=draw), keep),
        images=ForgetImages(
            torch.randint(256, (60, 3, 224, 224), dtype=torch.uint8, generator=draw),
            255,
            torch.arange(60) * 7,
        ),
        histories=[
            History(
                "Unlearning",
                [{"loss": 10.0 / (n + 1), "score": float(n)} for n in range(1000)],
                "unlearned",
                "step",
            )
        ],
        stages={"unlearn": 1.5},
        versions={"torch": "2"},
        notes=("A note.",),
    )


def with_numbers(own, model, **values):
    """The same facts with other values of a model's metrics; None removes one."""
    numbers = {
        name: value
        for name, value in (dict(own.measured.models[model]) | values).items()
        if value is not None
    }
    return replace(own, measured=replace(own.measured, models=dict(own.measured.models) | {model: numbers}))
