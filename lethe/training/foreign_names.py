"""Match other programs' names of weights: prefixes, pruning, torch.compile, DataParallel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from lethe.training.state_dicts import Unfit, Weights, listed, same

# Parts that torch.compile and DataParallel insert into names.
WRAPPERS = (("_orig_mod",), ("_orig_mod", "module"))
# Buffers that no output depends on.
COUNTS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
ORIGINAL, KEPT = "_orig", "_mask"  # torch.nn.utils.prune: weight = weight_orig x weight_mask


@dataclass(frozen=True)
class Named:
    """A state dict's weights of the model, under its names, and its others, under the file's names.

    prefix: of the model's weights in the file
    notes: the changes of names and values, a phrase each
    """

    weights: Weights
    others: Weights
    prefix: str = ""
    notes: tuple[str, ...] = ()


def named(weights: Weights, wanted: Mapping[str, Tensor]) -> Named | None:
    """Rename a file's weights for the model with the state dict `wanted`; None if they don't match.

    Tries in turn: the names as they are or with a prefix; pruned layers multiplied out; names without
    _orig_mod and module. Raises Unfit if several prefixes match.
    """
    for variant, done in _variants(weights):
        found = _under_a_prefix(variant, wanted)
        if found is not None:
            return Named(found.weights, found.others, found.prefix, (*done, *found.notes))
    return None


def is_count(name: str) -> bool:
    return name.rpartition(".")[2] in COUNTS


def _variants(weights: Weights) -> Iterator[tuple[Weights, tuple[str, ...]]]:
    """Yield the weights as they are, then without pruning, then without wrappers, each with its notes."""
    yield weights, ()
    plain: Weights = weights
    done: tuple[str, ...] = ()
    pruned = _pruned(weights)
    if pruned:
        plain, done = (
            _multiplied_out(weights, pruned),
            (f"pruned weights multiplied by their masks ({listed(pruned)})",),
        )
        yield plain, done
    for parts in WRAPPERS:
        shorter = {_without(name, parts): value for name, value in plain.items()}
        if len(shorter) == len(plain):  # else two names are the same now
            yield shorter, (*done, f"names without {' and '.join(repr(part) for part in parts)}")


def _pruned(weights: Weights) -> list[str]:
    """Return the names of pruned weights, stored as an original and a mask."""
    stems = [name.removesuffix(ORIGINAL) for name in weights if name.endswith(ORIGINAL)]
    return [
        stem
        for stem in stems
        if stem + KEPT in weights and weights[stem + KEPT].shape == weights[stem + ORIGINAL].shape
    ]


def _multiplied_out(weights: Weights, pruned: list[str]) -> Weights:
    parts = {stem + part for stem in pruned for part in (ORIGINAL, KEPT)}
    others = {name: value for name, value in weights.items() if name not in parts}
    return others | {stem: weights[stem + ORIGINAL] * weights[stem + KEPT] for stem in pruned}


def _without(name: str, parts: tuple[str, ...]) -> str:
    return ".".join(part for part in name.split(".") if part not in parts)


def _under_a_prefix(weights: Weights, wanted: Mapping[str, Tensor]) -> Named | None:
    """Match names after adding a prefix to the model's names, or removing one that they all have."""
    needed = [name for name in wanted if not is_count(name)]
    for added in _common_prefixes(needed):
        bare = {name: name.removeprefix(added) for name in needed}
        prefixes = _prefixes(weights, list(bare.values()))
        if added or "" not in prefixes:
            prefixes = [prefix for prefix in prefixes if _mostly_alike(weights, wanted, bare, prefix)]
        if prefixes:
            prefix = _the_one(prefixes, weights, bare)
            return _taken(weights, wanted, prefix, added)
    return None


def _common_prefixes(names: list[str]) -> Iterator[str]:
    """Yield the common prefixes of the names, shortest first: "", "model.", "model.net."."""
    yield ""
    parts = names[0].split(".")[:-1] if names else []
    for count in range(1, len(parts) + 1):
        prefix = ".".join(parts[:count]) + "."
        if not all(name.startswith(prefix) for name in names):
            return
        yield prefix


def _prefixes(weights: Weights, names: list[str]) -> list[str]:
    """Return the prefixes under which the file has all names; [""] if it has them without a prefix."""
    first = names[0] if names else ""
    ends = [name for name in weights if name == first or name.endswith(f".{first}")]
    prefixes = sorted((name.removesuffix(first) for name in ends), key=len)
    fits = [prefix for prefix in prefixes if weights.keys() >= {prefix + name for name in names}]
    return fits[:1] if "" in fits else fits


def _mostly_alike(
    weights: Weights, wanted: Mapping[str, Tensor], bare: Mapping[str, str], prefix: str
) -> bool:
    """Return whether more than half of the shapes agree; short names such as 1.weight match in any model."""
    alike = sum(weights[prefix + own].shape == wanted[name].shape for name, own in bare.items())
    return 2 * alike > len(bare)


def _the_one(prefixes: list[str], weights: Weights, bare: Mapping[str, str]) -> str:
    """Return the first prefix. Raises Unfit if the weights under the others differ."""
    models = [{own: weights[prefix + own] for own in bare.values()} for prefix in prefixes]
    if any(not same(models[0], model) for model in models[1:]):
        raise Unfit(
            f"several that fit, under {listed(prefixes)}. Save one of them alone, under the model's own names"
        )
    return prefixes[0]


def _taken(weights: Weights, wanted: Mapping[str, Tensor], prefix: str, added: str) -> Named:
    sources = {name: prefix + name.removeprefix(added) for name in wanted}
    there = {name: source for name, source in sources.items() if source in weights}
    used = set(there.values())
    notes = [f"names without {prefix!r}"] * bool(prefix) + [f"names with {added!r} before them"] * bool(added)
    return Named(
        weights={name: weights[source] for name, source in there.items()},
        others={name: value for name, value in weights.items() if name not in used},
        prefix=prefix,
        notes=tuple(notes),
    )
