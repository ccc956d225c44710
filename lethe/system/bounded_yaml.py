"""Read untrusted YAML: of a bounded size and depth with its aliases expanded, and without cycles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

MOST_VALUES = 100_000  # with aliases expanded
DEEPEST = 100  # nested lists and mappings
LONGEST_REASON = 160


class NotYaml(ValueError):
    """The reason why a text can't be read, and its line if known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason if line is None else f"line {line}: {reason}")
        self.reason, self.line = reason, line


@dataclass
class Branch:
    """A list or a mapping: its anchor, its number of values (itself included), and its depth."""

    anchor: str | None = None
    values: int = 1
    depth: int = 1


@dataclass
class ExpandedSize:
    """The size of a text with its aliases expanded, counted event by event."""

    open: list[Branch] = field(default_factory=list)
    anchors: dict[str | None, Branch] = field(default_factory=dict)
    values: int = 0

    def add(self, values: int, depth: int, line: int) -> None:
        """Add a value that has `values` values. Raises NotYaml for too many, and for too deep ones."""
        self.values += values
        if self.values > MOST_VALUES:
            raise NotYaml(
                f"expected at most {MOST_VALUES} values, aliases followed, got more. Write fewer", line
            )
        if len(self.open) + depth > DEEPEST:
            raise NotYaml(
                f"expected at most {DEEPEST} nested lists and mappings, got more. Write fewer", line
            )
        self._into_the_open(values, depth)

    def alias(self, anchor: str | None, line: int) -> None:
        if any(branch.anchor == anchor for branch in self.open):
            raise NotYaml(
                f"expected values, got *{anchor} inside of &{anchor}, which has no end. Write the values",
                line,
            )
        meant = self.anchors.get(anchor, Branch())  # the parser reports an unknown anchor
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
    """Read a YAML text. Raises NotYaml for another text, and, before it is built, for too large a one."""
    return content_of(nodes_of(text))


def nodes_of(text: str | bytes) -> Any:
    """Parse a YAML text into nodes with their lines; None for an empty one. Raises as `read_yaml`."""
    import yaml

    with _as_not_yaml():
        _check_size(text)
        return yaml.compose(text, Loader=_loader_class())


def content_of(root: Any) -> Any:
    """Construct the values of nodes. Raises NotYaml for a value that can't be read."""
    from yaml.constructor import ConstructorError, SafeConstructor

    class Constructor(SafeConstructor):
        """Adds the line to errors of values that PyYAML fails on."""

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            # For 99...9, 2026-13-45, !!int x
            except (ValueError, OverflowError, LookupError, AttributeError, TypeError) as error:
                raise ConstructorError(None, None, _of_value(node, error), node.start_mark) from error

    with _as_not_yaml():
        return None if root is None else Constructor().construct_document(root)


@contextmanager
def _as_not_yaml() -> Iterator[None]:
    """Convert PyYAML's errors to NotYaml."""
    import yaml

    try:
        yield
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or " ".join(str(error).split())[:LONGEST_REASON]
        raise NotYaml(reason, None if mark is None else mark.line + 1) from error
    except UnicodeDecodeError as error:
        raise NotYaml(f"{error.reason} at byte {error.start}") from error


def _check_size(text: str | bytes) -> None:
    """Count the values of a text by its events, without expanding aliases."""
    import yaml

    size = ExpandedSize()
    event: Any
    for event in yaml.parse(text, Loader=_loader_class()):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            size.alias(event.anchor, line)
        elif isinstance(event, yaml.ScalarEvent):
            size.anchors.pop(event.anchor, None)
            size.add(1, 0, line)
        elif isinstance(event, yaml.CollectionStartEvent):
            size.begin(event.anchor, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            size.end()


def _loader_class() -> Any:
    """Return PyYAML's safe loader, the one in C if available: ten times faster."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _of_value(node: Any, error: Exception) -> str:
    """Describe a value that can't be read; Python's own message on a long number names a setting."""
    value = str(node.value)
    shown = value if len(value) <= 40 else f"{value[:40]}... of {len(value)} characters"
    kind = node.tag.rpartition(":")[2]
    article = "an" if kind[0] in "aeiou" else "a"
    got = f"{shown} ({type(error).__name__})"
    return f"expected {article} {kind}, got {got}. Correct it, or put it in quotes"
