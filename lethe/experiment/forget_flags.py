"""The flags that say what to forget, and the request that they mean."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lethe.commands import named
from lethe.flag_error import FlagError, errors_of

if TYPE_CHECKING:
    from lethe.data import ForgetRequest

BY_ATTRIBUTE = ("forget_subclass", "forget_where")
BY_SCORE = ("forget_hardest", "forget_easiest", "forget_typical", "forget_worst")
CHOICE = (*BY_ATTRIBUTE, *BY_SCORE, "forget_scores")


def add_forget_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a forget request. Each narrows what the others mean, or is refused beside them."""
    request = parser.add_argument_group("what to forget")
    request.add_argument(
        "--class_to_replace",
        type=class_word,
        nargs="+",
        metavar="C",
        help="these classes, by their names or numbers; -1 is any class (default: 0)",
    )
    request.add_argument(
        "--num_indexes_to_replace", type=int, metavar="N", help="N images of them instead of all"
    )
    request.add_argument(
        "--forget_indexes", metavar="FILE", help="exactly the images with these indexes, one a line"
    )
    request.add_argument(
        "--forget_subclass",
        nargs="+",
        metavar="NAME",
        help="the images of these subclasses, of any class or of --class_to_replace",
    )
    request.add_argument(
        "--forget_where",
        metavar="CONDITION",
        help="the images with this attribute, such as 'source == \"B\"' or 'source != \"B\"'",
    )
    which = (
        "are memorised the most",
        "are memorised the least",
        "are memorised as the median image is",
        "models predict best that did not see them: the worst case for methods that lower the forget score",
    )
    for flag, words in zip(BY_SCORE, which, strict=True):
        request.add_argument(f"--{flag}", type=int, metavar="N", help=f"the N images of these that {words}")
    request.add_argument(
        "--forget_scores",
        metavar="FILE",
        help=f"the memorisation of each image, from {named('audit')} memorisation: a CSV file with the "
        "columns index and memorisation",
    )


def class_word(text: str) -> int | str:
    """Return -1, any class, as a number, and other classes as they are: only their dataset has the names."""
    return -1 if text == "-1" else text


def request_from(options: argparse.Namespace) -> ForgetRequest:
    """Return the forget request of the flags. Raises ValueError if they contradict each other."""
    from lethe.data import ForgetRequest, read_indexes

    classes, number = options.class_to_replace, options.num_indexes_to_replace
    given = [name for name in CHOICE if getattr(options, name, None) is not None]
    if options.forget_indexes is not None:
        others = ["class_to_replace", "num_indexes_to_replace"]
        _check_alone(options, "forget_indexes", others if not given else [*others, *given])
        with errors_of("forget_indexes"):
            indexes = read_indexes(options.forget_indexes)
        return ForgetRequest((), None, indexes, options.forget_indexes)
    if not given:
        return ForgetRequest(tuple(classes or (0,)), number)
    choice = {name.removeprefix("forget_"): getattr(options, name) for name in given}
    return ForgetRequest.chosen(classes=tuple(classes or ()), number=number, **choice)


def _check_alone(options: argparse.Namespace, flag: str, others: list[str]) -> None:
    """Raise ValueError if one of the other flags is given too."""
    if any(getattr(options, name) is not None for name in others):
        listed = " and ".join(f"--{name}" for name in others)
        raise FlagError(flag, f"--{flag} names every image itself. Leave out {listed}", named=False)
