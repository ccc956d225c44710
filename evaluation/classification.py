"""Loss, probability of the true class, and score of the image sets."""

from __future__ import annotations

from torch import Tensor

from lethe.evaluation.impl import register
from lethe.evaluation.model_outputs import ModelOutputs


def mean(values: Tensor) -> float:
    """Return the mean over images, not over batches.

        sum_i v_i / N    values (N,), summed in float64

    Raises ValueError if there is no image.
    """
    if not len(values):
        raise ValueError("expected at least 1 image, got 0. Evaluate on a set that is not empty.")
    return values.double().mean().item()


def percent(correct: Tensor) -> float:
    """Return the percentage of True in correct (N,) bool. Raises ValueError if it is empty."""
    return 100 * mean(correct)


@register(
    "forget_loss",
    unit="nats",
    better="higher",
    better_of_images="near the ideal's",
    groups=("headline", "overview", "kappa"),
)
def forget_loss(model: ModelOutputs) -> float:
    """Mean cross-entropy of the forget set.

        mean over (x, y) in forget of -log p_y

    Infinite where a true class has probability 0.

    Trap: without a bound. Where a part of a class was forgotten, a loss above the ideal's gives away what was
    forgotten as well as one below does.
    """
    return mean(model.forget.losses)


@register("retain_loss", unit="nats", better="near the ideal's", groups=("headline", "overview", "kappa"))
def retain_loss(model: ModelOutputs) -> float:
    """Mean cross-entropy of the retain set.

        mean over (x, y) in retain of -log p_y

    0 for a model that is sure and right; infinite where a true class has probability 0.
    """
    return mean(model.retain.losses)


@register(
    "forget_probability",
    unit="fraction",
    better="lower",
    better_of_images="near the ideal's",
    groups=("headline", "overview", "kappa"),
)
def forget_probability(model: ModelOutputs) -> float:
    """Mean softmax probability of the true class on the forget set.

        mean over (x, y) in forget of p_y

    Trap: low is the aim where a whole class was forgotten. Otherwise compare with the ideal's.
    """
    return mean(model.forget.true_probabilities)


@register(
    "forget_score",
    unit="percent",
    better="lower",
    better_of_images="near the ideal's",
    groups=("headline", "summary", "overview", "kappa"),
    column="UA",
    complement=True,
)
def forget_score(model: ModelOutputs) -> float:
    """Percent correct on the forget set: 100 - UA, not UA.

        100 |{(x, y) in forget : argmax f(x) = y}| / |forget|

    Trap: UA is not forget accuracy. UA = 100 - forget_score; published tables mix up the two.

    Trap: where a whole class was forgotten, 0 is what the ideal model has; where a part of a class was, the
    ideal model is about as right on it as on test images, and lower is not better.
    """
    return percent(model.forget.correct)


@register(
    "retain_score",
    unit="percent",
    better="higher",
    groups=("headline", "summary", "overview", "kappa"),
    column="RA",
)
def retain_score(model: ModelOutputs) -> float:
    """Percent correct on the retain set: RA.

        100 |{(x, y) in retain : argmax f(x) = y}| / |retain|

    Trap: on the training images that remain. What the model is worth on new ones is TA.
    """
    return percent(model.retain.correct)


@register("test_loss", unit="nats", better="lower")
def test_loss(model: ModelOutputs) -> float:
    """Mean cross-entropy of the whole test set.

        mean over (x, y) in test of -log p_y

    0 for a model that is sure and right; infinite where a true class has probability 0.
    """
    return mean(model.test.losses)


@register("test_score", unit="percent", better="higher", groups=("headline", "summary"), column="TA")
def test_score(model: ModelOutputs) -> float:
    """Percent correct on the whole test set: TA where no whole class was forgotten.

        100 |{(x, y) in test : argmax f(x) = y}| / |test|

    Trap: where a whole class was forgotten, this counts its test images too, and a model that forgot well
    loses them. TA is then test_retain_score.
    """
    return percent(model.test.correct)


@register("test_forget_loss", unit="nats", better="higher", whole_class=True, groups=("headline",))
def test_forget_loss(model: ModelOutputs) -> float:
    """Mean cross-entropy of the test images of the forgotten classes.

        mean over (x, y) in test_forget of -log p_y

    0 for a model that is sure and right; infinite where a true class has probability 0.
    """
    return mean(model.test_forget.losses)


@register("test_retain_loss", unit="nats", better="near the ideal's", whole_class=True, groups=("headline",))
def test_retain_loss(model: ModelOutputs) -> float:
    """Mean cross-entropy of the test images of the other classes.

        mean over (x, y) in test_retain of -log p_y

    0 for a model that is sure and right; infinite where a true class has probability 0.
    """
    return mean(model.test_retain.losses)


@register("test_forget_probability", unit="fraction", better="lower", whole_class=True, groups=("headline",))
def test_forget_probability(model: ModelOutputs) -> float:
    """Mean softmax probability of the true class on the test images of the forgotten classes.

        mean over (x, y) in test_forget of p_y

    In [0, 1].
    """
    return mean(model.test_forget.true_probabilities)


@register(
    "test_forget_score", unit="percent", better="lower", whole_class=True, groups=("headline", "summary")
)
def test_forget_score(model: ModelOutputs) -> float:
    """Percent correct on the test images of the forgotten classes.

        100 |{(x, y) in test_forget : argmax f(x) = y}| / |test_forget|

    Trap: on images that no model was trained on. forget_score is on the training images.
    """
    return percent(model.test_forget.correct)


@register(
    "test_retain_score",
    unit="percent",
    better="higher",
    whole_class=True,
    groups=("headline", "summary"),
    column="TA",
)
def test_retain_score(model: ModelOutputs) -> float:
    """Percent correct on the test images of the other classes: TA where a whole class was forgotten.

        100 |{(x, y) in test_retain : argmax f(x) = y}| / |test_retain|

    In [0, 100]. The first of equal logits is the prediction.
    """
    return percent(model.test_retain.correct)
