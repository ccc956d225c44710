"""YAML that somebody else wrote: of a bounded size once its aliases are followed, of a bounded depth, and never inside of itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

MOST_VALUES = 100_000  # once aliases are followed
DEEPEST = 100  # lists and mappings in each other
LONGEST_REASON = 160


class NotYaml(ValueError):
    """What is wrong with a text, and on which line, where that is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason if line is None else f"line {line}: {reason}")
        self.reason, self.line = reason, line


@dataclass
class Branch:
    """A list or a mapping: its anchor, how many values it has, itself among them, and how many are in each other."""

    anchor: str | None = None
    values: int = 1
    depth: int = 1


@dataclass
class Weighed:
    """How large a text gets once its aliases are followed, event by event."""

    open: list[Branch] = field(default_factory=list)
    anchors: dict[str | None, Branch] = field(default_factory=dict)
    values: int = 0

    def add(self, values: int, depth: int, line: int) -> None:
        """A value, with all that is in it. Raises NotYaml for too many or too deep."""
        self.values += values
        if self.values > MOST_VALUES:
            raise NotYaml(f"expected at most {MOST_VALUES} values, aliases followed, got more. Write fewer", line)
        if len(self.open) + depth > DEEPEST:
            raise NotYaml(f"expected at most {DEEPEST} lists and mappings in each other, got more. Write fewer", line)
        self._into_the_open(values, depth)

    def alias(self, anchor: str | None, line: int) -> None:
        if any(branch.anchor == anchor for branch in self.open):
            raise NotYaml(f"expected values, got *{anchor} inside of &{anchor}, which has no end. Write the values", line)
        meant = self.anchors.get(anchor, Branch())  # one that is not there is for the parser to say
        self.add(meant.values, meant.depth, line)

    def begin(self, anchor: str | None, line: int) -> None:
        self.add(1, 1, line)
        self.open.append(Branch(anchor))

    def end(self) -> None:
        done = self.open.pop()
        if done.anchor is not None:
            self.anchors[done.anchor] = done
        self._into_the_open(done.values - 1, done.depth)  # itself was counted when it began

    def _into_the_open(self, values: int, depth: int) -> None:
        if self.open:
            around = self.open[-1]
            around.values += values
            around.depth = max(around.depth, depth + 1)


def read_yaml(text: str | bytes) -> Any:
    """What a YAML text says. Raises NotYaml for none, and for one that exceeds the bounds, before anything is made of it."""
    return content_of(nodes_of(text))


def nodes_of(text: str | bytes) -> Any:
    """The nodes of a YAML text, which know their lines; None for an empty one. Raises as `read_yaml`."""
    import yaml

    with _told():
        _weigh(text)
        return yaml.compose(text, Loader=_loader_class())


def content_of(root: Any) -> Any:
    """What nodes say. Raises NotYaml for a value that can't be read."""
    from yaml.constructor import ConstructorError, SafeConstructor

    class Constructor(SafeConstructor):
        """A value that PyYAML fails on is an error that knows its line."""

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except (ValueError, OverflowError, LookupError, AttributeError, TypeError) as error:  # 99...9, 2026-13-45, !!int x
                raise ConstructorError(None, None, _of_value(node, error), node.start_mark) from error

    with _told():
        return None if root is None else Constructor().construct_document(root)


@contextmanager
def _told() -> Iterator[None]:
    """PyYAML's errors as NotYaml."""
    import yaml

    try:
        yield
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or " ".join(str(error).split())[:LONGEST_REASON]
        raise NotYaml(reason, None if mark is None else mark.line + 1) from error
    except UnicodeDecodeError as error:
        raise NotYaml(f"{error.reason} at byte {error.start}") from error


def _weigh(text: str | bytes) -> None:
    """Follow the events of a text, of which none is larger than what stands in it."""
    import yaml

    weighed = Weighed()
    event: Any
    for event in yaml.parse(text, Loader=_loader_class()):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            weighed.alias(event.anchor, line)
        elif isinstance(event, yaml.ScalarEvent):
            weighed.anchors.pop(event.anchor, None)
            weighed.add(1, 0, line)
        elif isinstance(event, yaml.CollectionStartEvent):
            weighed.begin(event.anchor, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            weighed.end()


def _loader_class() -> Any:
    """PyYAML's safe loader, in C where there is that: ten times faster."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _of_value(node: Any, error: Exception) -> str:
    """Why a value can't be read. Python's own words for a number that is too long name a setting of Python."""
    value = str(node.value)
    shown = value if len(value) <= 40 else f"{value[:40]}... of {len(value)} characters"
    kind = node.tag.rpartition(":")[2]
    return f"expected {'an' if kind[0] in 'aeiou' else 'a'} {kind}, got {shown} ({type(error).__name__}). Correct it, or put it in quotes"
