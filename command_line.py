"""The flags that every script shares, flags from signatures, and what a mistake looks like: one line, exit
code 2.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import re
import signal
import stat
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol

import needed_platform  # noqa: F401  # before anything asks for what Windows has not
from flag_words import text_of
from machine_limits import limit_met
from tracking.shown_uri import without_password
from tracking.signals import ENDING

STARTED = time.perf_counter()

# Threads that wait for microseconds before they sleep: two processes on the same cores would otherwise stop
# each other, and to wake one
# takes longer than many a product. Read when torch loads; GNU's OpenMP counts turns, the others know the
# policy alone.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from base_models import BaseConfig, BaseModels, Trained
    from model_sets import Kind
    from registry import Entry
    from vision_data import ForgetRequest

FAILED, MISTAKE, INTERRUPTED, BY_SIGNAL = (
    1,
    2,
    130,
    128,
)  # the last one: and the signal's number, as a shell has it
BROKEN_PIPE = BY_SIGNAL + 13  # what a shell says of a program that such a signal ends
SHORT = {
    "image_channels": "channels"
}  # a flag's other name, unless an architecture or a method has a flag of that name
ENDED_WITHIN = 10.0  # seconds in which torchrun ends the other processes where one has failed


class Terminated(KeyboardInterrupt):
    """A signal that ends a process: ends a run as Ctrl-C does."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number


class OneLineParser(argparse.ArgumentParser):
    """argparse, but a mistake is a ValueError, flags can't be abbreviated, and --some-flag means --some_flag."""

    def __init__(self, description: str, epilog: str = "", add_help: bool = True) -> None:
        shape = argparse.RawDescriptionHelpFormatter
        super().__init__(
            description=description,
            epilog=epilog,
            formatter_class=shape,
            allow_abbrev=False,
            add_help=add_help,
        )

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}. See --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else args
        return super().parse_known_args([_in_home(_with_underscores(arg)) for arg in args], namespace)


def _with_underscores(argument: str) -> str:
    flag = re.match(r"--[A-Za-z][\w-]*", argument)
    return argument if flag is None else "--" + flag[0][2:].replace("-", "_") + argument[flag.end() :]


def _in_home(argument: str) -> str:
    """~/x with the home folder in its place, where no shell put it: after a flag's equals sign, in a config
    or a grid.
    """
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return flag + equals + str(Path(value).expanduser()) if value.startswith("~") else argument


class Main(Protocol):
    """A script's main: the command line's words (the process's own if None) to the exit code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def command(main: Main) -> Main:
    """A script's main: a mistake becomes one line on stderr and exit code 2; divergence, and what the machine
    or the store could not do, 1.

    Ctrl-C is 130, another signal 128 and its number, as a shell has it.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        with contextlib.suppress(ValueError):  # not the main thread: signals are somebody else's
            heed_signals()
        _print_anything()
        warnings.showwarning = _warning_line
        sys.excepthook = _traceback
        try:
            code = main(argv)
            print(end="", flush=True)  # what can't be written is told here, and not by the interpreter's end
            return code
        except BrokenPipeError:  # who reads what is printed, as head does, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return BROKEN_PIPE
        except (
            FloatingPointError
        ) as error:  # something diverged: no mistake in the command, and nothing a traceback would add
            _say(error)
            return FAILED
        except (ValueError, FileNotFoundError) as error:
            _say(error)
            return MISTAKE
        except (RuntimeError, MemoryError, ImportError, SystemError, OSError) as error:
            line = limit_met(error) or (" ".join(str(error).split()) if isinstance(error, OSError) else None)
            if (
                line is None
            ):  # nothing to do with the machine: of a method, perhaps a user's own, who wants to see where
                raise
            _say(line)
            return FAILED
        except Terminated as ended:
            _last_word(
                "terminated"
                if ended.number == signal.SIGTERM
                else f"ended by {signal.Signals(ended.number).name}"
            )
            return BY_SIGNAL + ended.number
        except KeyboardInterrupt:
            _last_word("interrupted")
            return INTERRUPTED

    return run


def _last_word(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal is gone, or the disk is full
        print(text, file=sys.stderr)


def heed_signals() -> None:
    """The signals that end a process raise Terminated, but for those that are ignored, as SIGHUP is after
    nohup.

    ValueError outside of the main thread.
    """
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)
    sys.unraisablehook = _raise_again


def _print_anything() -> None:
    """A console that can't show a sign (±, or a class's name in a Latin-1 terminal) gets its code, \\xb1, and
    no traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _warning_line(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning as one line, without the source line that raised it."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"warning: {without_password(' '.join(str(message).split()))}", file=sys.stderr)


def _traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What nobody foresaw, as Python prints it, but without a password."""
    print(without_password("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")


def _say(error: Exception | str) -> None:
    """An error as one line on stderr.

    Of several processes that torchrun has started on a machine, which mostly make the same mistake, the first
    says it: then torchrun ends the others, and only one that is not ended has something of its own to say.
    """
    line, rank = f"error: {without_password(' '.join(str(error).split()))}", os.environ.get("LOCAL_RANK", "0")
    if rank != "0":
        try:
            time.sleep(ENDED_WITHIN)
        except KeyboardInterrupt:
            return
        line = f"process {os.environ.get('RANK', rank)}: {line}"
    _last_word(line)


def _raise_again(dropped: sys.UnraisableHookArgs) -> None:
    """Python drops what a signal raises inside a destructor or a weak reference's callback: raise it again, a
    moment later.
    """
    if not isinstance(dropped.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
        return
    again = dropped.exc_value

    def handle(number: int, frame: FrameType | None) -> NoReturn:
        raise again

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.05)


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    """Those that come by themselves come more than once: SIGXCPU each second, SIGHUP from the kernel and from
    the shell.
    """
    if number != signal.SIGTERM:
        signal.signal(number, signal.SIG_IGN)
    if signal.Signals(number).name == "SIGHUP":
        _leave_terminal()
    raise Terminated(number)


def _leave_terminal() -> None:
    """What is written to a terminal that was closed is an error, where a run is to be ended: let it go
    nowhere.
    """
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # closed
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def benchmark_parser(description: str | None, argv: Sequence[str] | None) -> tuple[OneLineParser, Entry[Any]]:
    """The flags of an experiment and of its architecture, under a module's docstring, for a benchmark to add
    its own; the architecture.
    """
    architecture = architecture_named(argv)
    summary, _, details = (description or "").partition("\n")
    parser = OneLineParser(summary, details.strip("\n"))
    add_shared_flags(parser)
    add_signature_flags(parser, architecture, "architecture")
    return parser, architecture


def add_shared_flags(parser: argparse.ArgumentParser, *, several_seeds: bool = False) -> None:
    """Data, model, forget request, places: what every script has."""
    data = parser.add_argument_group("data and model")
    data.add_argument(
        "--dataset",
        default="digits",
        help="name, folder:PATH (a class per folder), hf:NAME (of the hub, or a local copy), or path/to/file.py:function; a wrong name "
        "lists them all (default: %(default)s)",
    )
    data.add_argument(
        "--data",
        default="./data",
        metavar="FOLDER",
        help="where the dataset's files are, and where what is decoded of them is kept (default: %(default)s)",
    )
    data.add_argument(
        "--arch",
        help="name, or path/to/file.py:function (default: the dataset's own; for folder:PATH mlp where images are grey and up to 32 x 32, "
        "else, as for hf:NAME, resnet18 on a GPU, cnn without)",
    )
    data.add_argument(
        "--num_classes", type=int, metavar="N", help="refused if the dataset has another number"
    )
    data.add_argument(
        "--epochs", type=int, metavar="N", help="epochs of training (default: the dataset's own)"
    )
    seeds: dict[str, Any] = {"nargs": "+", "default": [1]} if several_seeds else {"default": 1}
    data.add_argument("--seed", type=seed_number, metavar="N", help="all randomness (default: 1)", **seeds)
    data.add_argument(
        "--split_seed",
        type=seed_number,
        default=0,
        metavar="N",
        help="the train / validation / test split (default: %(default)s)",
    )
    data.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")

    data.add_argument(
        "--normalize",
        default="auto",
        metavar="HOW",
        help="how images are normalised: data, by the training images' mean and deviation; none, pixels in [0, 1]; MEAN,...:STD,..., a "
        "number a channel or one for all; auto, as the models' own files say, else data (default: "
        "%(default)s)",
    )

    from training.recipe import FLAGS
    from vision_data.reading import FLAGS as READING

    add_signature_flags(parser, READING, "images")
    add_signature_flags(parser, FLAGS, "training", default="as --arch and --dataset have it")

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

    places = parser.add_argument_group("places")
    places.add_argument(
        "--save_dir", metavar="FOLDER", help="checkpoints and caches (default: ./results/<dataset>)"
    )
    places.add_argument(
        "--mask",
        "--checkpoint",
        metavar="FILE",
        help="the initial model's checkpoint: loaded if it exists, else trained and saved there "
        "(default: <save_dir>/<seed><arch>_ep<epochs>.safetensors)",
    )


def class_word(text: str) -> int | str:
    """A class's name or number, which only its dataset can tell apart; -1 is any class."""
    return -1 if text == "-1" else text


def seed_number(text: str) -> int:
    if not re.fullmatch(r"\d+", text) or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected an integer from 0 to 2^63 - 1, got {text!r}")
    return int(text)


def epochs(text: str) -> tuple[int, ...]:
    """Epochs separated by commas."""
    if not re.fullmatch(r"[+-]?\d{1,18}(,[+-]?\d{1,18})*", text):
        raise argparse.ArgumentTypeError(
            f"expected integers separated by commas, got {text!r}. Write e.g. 1,3,5"
        )
    return tuple(map(int, text.split(",")))


def words(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def add_signature_flags(
    parser: argparse.ArgumentParser,
    entry: Entry[Any],
    kind: str,
    *,
    several: bool = False,
    default: str | None = None,
) -> None:
    """The hyperparameters of a registered function as flags; with `several`, more than one value of each
    makes a sweep.

    default: what is shown for None.
    """
    group = parser.add_argument_group(f"{kind} {entry.name}")
    for parameter in entry.hyperparameters.values():
        usual = default if default is not None and parameter.default is None else text_of(parameter.default)
        own = "" if parameter.required else f"; default: {usual}"
        expects = parameter.expects.removesuffix(" or none") if default is not None else parameter.expects
        try:
            _free(parser, parameter.name)
            group.add_argument(
                f"--{parameter.name}",
                *(f"--{short}" for name, short in SHORT.items() if name == parameter.name),
                nargs="+" if several else None,
                metavar="VALUE",
                help=f"{parameter.help} ({expects}{own})".replace("%", "%%"),
            )
        except argparse.ArgumentError as error:
            raise ValueError(
                f"{kind} {entry.name}: --{parameter.name} is a flag of the job already. Rename the parameter"
            ) from error


def _free(parser: argparse.ArgumentParser, name: str) -> None:
    """Take a name from the flag that has it as its short one: --channels is cnn's own where that is the
    architecture.
    """
    flag = f"--{name}"
    if name in SHORT.values() and flag in parser._option_string_actions:
        parser._option_string_actions.pop(flag).option_strings.remove(flag)  # type: ignore[attr-defined]


def settings_from(options: argparse.Namespace, entry: Entry[Any]) -> dict[str, Any]:
    """The values given on the command line for an entry's hyperparameters, parsed and checked."""
    given = {name: getattr(options, name) for name in entry.hyperparameters}
    return {name: entry.hyperparameters[name].parse(text) for name, text in given.items() if text is not None}


def several_settings_from(options: argparse.Namespace, entry: Entry[Any]) -> dict[str, list[Any]]:
    """As `settings_from`, a list of values for each."""
    given = {name: getattr(options, name) for name in entry.hyperparameters}
    return {
        name: [entry.hyperparameters[name].parse(text) for text in texts]
        for name, texts in given.items()
        if texts is not None
    }


def first_pass(argv: Sequence[str] | None, flags: Mapping[str, str | None]) -> dict[str, Any]:
    """The values of the flags that decide which other flags there are, everything else left alone."""
    parser = OneLineParser("", add_help=False)
    for flag, default in flags.items():
        parser.add_argument(f"--{flag}", default=default)
    return vars(parser.parse_known_args(argv)[0])


def named_on(argv: Sequence[str] | None, flags: Iterable[str]) -> set[str]:
    """Which of these flags the command line has, everything else left alone."""
    parser = OneLineParser("", add_help=False)
    for flag in flags:
        parser.add_argument(f"--{flag}", nargs="*")
    given = vars(parser.parse_known_args(argv)[0])
    return {flag for flag, value in given.items() if value is not None}


def parsed(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, entry: Entry[Any] | None = None
) -> argparse.Namespace:
    """The flags' values. An unknown flag is a ValueError with the nearest match and the flags that the entry
    has.
    """
    from nearest_name import did_you_mean

    options, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [
            flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")
        ]
        name = next((word for word in unknown if word.startswith("-")), unknown[0])
        own = None if entry is None else [f"--{flag}" for flag in entry.hyperparameters]
        plural = (
            "flags" if entry is None else f"flags of {entry.name} itself (--help shows those of the job too)"
        )
        raise ValueError(did_you_mean("flag", name.partition("=")[0], flags, plural, own))
    return options


def request_from(options: argparse.Namespace) -> ForgetRequest:
    """The forget request that the flags spell. ValueError where they contradict each other."""
    from vision_data import ForgetRequest, read_indexes

    if options.forget_indexes is None:
        return ForgetRequest(tuple(options.class_to_replace or (0,)), options.num_indexes_to_replace)
    if options.class_to_replace is not None or options.num_indexes_to_replace is not None:
        raise ValueError(
            "--forget_indexes names every image itself. Leave out --class_to_replace and "
            "--num_indexes_to_replace"
        )
    return ForgetRequest((), None, read_indexes(options.forget_indexes), options.forget_indexes)


def path_or_none(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def architecture_of(arch: str | None, dataset: str) -> Entry[Any]:
    """The architecture of that name, or the dataset's own. ValueError for an unknown name."""
    from models import ARCHITECTURES
    from vision_data import DATASETS

    default = DATASETS[dataset].facts.arch
    return ARCHITECTURES[arch or default]


def architecture_named(argv: Sequence[str] | None) -> Entry[Any]:
    """The architecture that the command line names, so that its flags can be added."""
    return architecture_of(**first_pass(argv, {"arch": None, "dataset": "digits"}))


def method_names() -> list[str]:
    from unlearn import METHODS

    return METHODS.names


def base_config(options: argparse.Namespace, architecture: Entry[Any], seed: int) -> BaseConfig:
    """The shared flags as the config of the base models."""
    from base_models import BaseConfig
    from training.recipe import FLAGS
    from vision_data.reading import FLAGS as READING

    return BaseConfig(
        dataset=options.dataset,
        data=options.data,
        arch=options.arch,
        arch_options=settings_from(options, architecture),
        num_classes=options.num_classes,
        epochs=options.epochs,
        seed=seed,
        split_seed=options.split_seed,
        device=options.device,
        normalize=options.normalize,
        request=request_from(options),
        save_dir=path_or_none(options.save_dir),
        mask=path_or_none(options.mask),
        training=settings_from(options, FLAGS),
        reading=settings_from(options, READING),
    )


def progress_bar(steps: Iterable[Any], label: str, total: int | None = None) -> Iterable[Any]:
    """A bar on stderr for what takes longer than two seconds."""
    from tqdm import tqdm

    slow = 0.1 if sys.stderr.isatty() else 10  # a log file gets a line every ten seconds
    bar: Iterable[Any] = tqdm(
        steps, desc=label, total=total, delay=2, leave=False, dynamic_ncols=True, mininterval=slow
    )
    return bar


def train_base_model(argv: Sequence[str] | None, about: str, which: Literal["initial", "ideal"]) -> int:
    """What main_baseline.py and main_ideal.py do."""
    architecture = architecture_named(argv)
    summary, _, details = about.partition("\n")
    parser = OneLineParser(summary, details.strip())
    add_shared_flags(parser)
    add_signature_flags(parser, architecture, "architecture")
    kinds = _add_set_flags(parser, which)
    options = parsed(parser, argv)

    from base_models import BaseModels, device_named
    from training import silent
    from training.process_group import joined, own_device

    options.device = own_device(options.device)
    config = base_config(options, architecture, options.seed)
    wanted = {kind: count for flag, kind in kinds.items() if (count := getattr(options, flag)) is not None}
    if wanted:
        with _divergence_as_error():
            return _make_sets(BaseModels(config, progress=progress_bar), wanted)
    with _divergence_as_error(), joined(device_named(options.device)) as group:
        base = BaseModels(config, progress=progress_bar if group.first else silent, group=group)
        trained = base.initial() if which == "initial" else base.ideal()
        if group.first:
            print(_told(base, trained, which))
    return 0


@contextlib.contextmanager
def _divergence_as_error() -> Iterator[None]:
    """A training that diverges is a mistake in the flags of the command that trains."""
    try:
        yield
    except FloatingPointError as error:
        raise ValueError(str(error)) from error


def _told(base: BaseModels, trained: Trained, which: Literal["initial", "ideal"]) -> str:
    """Where a model is and how good it is."""
    from base_models import score_of

    verb = "loaded" if trained.loaded else f"trained in {trained.seconds:.1f} s"
    left_out = base.division.gone if which == "ideal" else ()
    of_which = " of the retained classes" if left_out else ""
    scores = {
        name: score_of(trained.model, images.without_classes(*left_out), base.device)
        for name, images in (("validation", base.splits.validation), ("test", base.splits.test))
    }
    how_good = ", ".join(f"{name} score{of_which} {score:.2f} %" for name, score in scores.items())
    forgotten = f" without {base.forgotten}" if which == "ideal" else ""
    return f"{which} model{forgotten} {verb}: {trained.path}\n{how_good}"


def _add_set_flags(parser: argparse.ArgumentParser, which: Literal["initial", "ideal"]) -> dict[str, Kind]:
    """The flags that ask for many models at once; the kind of set that each of them makes."""
    group = parser.add_argument_group("many models at once", "killed, it goes on where it stopped")
    if which == "initial":
        group.add_argument(
            "--models", type=int, metavar="N", help="the initial models of N seeds, from --seed on"
        )
        return {"models": "initial models"}
    group.add_argument("--oracles", type=int, metavar="N", help="the ideal models of N seeds, from --seed on")
    group.add_argument(
        "--shadows",
        type=int,
        metavar="N",
        help="N models of random halves of the training set, for U-LiRA and datamodels",
    )
    return {"oracles": "oracles", "shadows": "shadows"}


def _make_sets(base: BaseModels, wanted: Mapping[Kind, int]) -> int:
    from model_sets import specs_of, train_set

    for kind, count in wanted.items():
        specs_of(base, kind, count)  # before anything is trained
    for kind, count in wanted.items():
        made = train_set(base, kind, count)
        trained = count - made.loaded
        each = (
            f"{trained} trained in {made.seconds:.1f} s, {made.seconds / trained:.2f} s each"
            if trained
            else "none to train"
        )
        print(
            f"{count} {kind}: {made.loaded} were there, {each}: {made.specs[0].path} to "
            f"{made.specs[-1].path.name}"
        )
    return 0
