"""The names that other programs give to a model's weights: prefixes, pruned layers, the wrappers of torch.compile and DataParallel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from training.state_dicts import Unfit, Weights, listed, same

WRAPPERS = (("_orig_mod",), ("_orig_mod", "module"))  # parts of names that torch.compile and DataParallel put in, anywhere
COUNTS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")  # kept beside weights; no output depends on them
ORIGINAL, KEPT = "_orig", "_mask"  # torch.nn.utils.prune: weight = weight_orig x weight_mask


@dataclass(frozen=True)
class Named:
    """A state dict under a model's names: `weights` of the model, `others` that it has no place for, by the names that the file has.

    `prefix`: what the file's names of the model begin with. `said`: what was done, a phrase each.
    """

    weights: Weights
    others: Weights
    prefix: str = ""
    said: tuple[str, ...] = ()


def named(weights: Weights, wanted: Mapping[str, Tensor]) -> Named | None:
    """A file's weights by the names of the model whose state dict is `wanted`; None where they can't be.

    Tried in turn: the names as they are or under a prefix; pruned layers multiplied out; without _orig_mod and module, anywhere.
    Raises Unfit where two prefixes would do.
    """
    for variant, done in _variants(weights):
        found = _under_a_prefix(variant, wanted)
        if found is not None:
            return Named(found.weights, found.others, found.prefix, (*done, *found.said))
    return None


def is_count(name: str) -> bool:
    return name.rpartition(".")[2] in COUNTS


def _variants(weights: Weights) -> Iterator[tuple[Weights, tuple[str, ...]]]:
    """The weights as they are, then what is left of them once pruning, then wrappers, are taken away; and what was done."""
    yield weights, ()
    plain: Weights = weights
    done: tuple[str, ...] = ()
    pruned = _pruned(weights)
    if pruned:
        plain, done = _multiplied_out(weights, pruned), (f"pruned weights multiplied by their masks ({listed(pruned)})",)
        yield plain, done
    for parts in WRAPPERS:
        shorter = {_without(name, parts): value for name, value in plain.items()}
        if len(shorter) == len(plain):  # else two names become one
            yield shorter, (*done, f"names without {' and '.join(repr(part) for part in parts)}")


def _pruned(weights: Weights) -> list[str]:
    """The names of weights that are kept as an original and a mask."""
    stems = [name.removesuffix(ORIGINAL) for name in weights if name.endswith(ORIGINAL)]
    return [stem for stem in stems if stem + KEPT in weights and weights[stem + KEPT].shape == weights[stem + ORIGINAL].shape]


def _multiplied_out(weights: Weights, pruned: list[str]) -> Weights:
    parts = {stem + part for stem in pruned for part in (ORIGINAL, KEPT)}
    others = {name: value for name, value in weights.items() if name not in parts}
    return others | {stem: weights[stem + ORIGINAL] * weights[stem + KEPT] for stem in pruned}


def _without(name: str, parts: tuple[str, ...]) -> str:
    return ".".join(part for part in name.split(".") if part not in parts)


def _under_a_prefix(weights: Weights, wanted: Mapping[str, Tensor]) -> Named | None:
    """The weights of the model by its names: after a prefix that these have not, or without one that all of them have."""
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
    """ "", and what all names begin with, a part at a time: "", "model.", "model.net."."""
    yield ""
    parts = names[0].split(".")[:-1] if names else []
    for count in range(1, len(parts) + 1):
        prefix = ".".join(parts[:count]) + "."
        if not all(name.startswith(prefix) for name in names):
            return
        yield prefix


def _prefixes(weights: Weights, names: list[str]) -> list[str]:
    """What has to stand before each of the names for all of them to be in the file; "" alone where nothing has to."""
    first = names[0] if names else ""
    ends = [name for name in weights if name == first or name.endswith(f".{first}")]
    prefixes = sorted((name.removesuffix(first) for name in ends), key=len)
    fits = [prefix for prefix in prefixes if all(prefix + name in weights for name in names)]
    return fits[:1] if "" in fits else fits


def _mostly_alike(weights: Weights, wanted: Mapping[str, Tensor], bare: Mapping[str, str], prefix: str) -> bool:
    """Whether more than half of the shapes agree: else a short name, as 1.weight, is found in any model."""
    alike = sum(weights[prefix + own].shape == wanted[name].shape for name, own in bare.items())
    return 2 * alike > len(bare)


def _the_one(prefixes: list[str], weights: Weights, bare: Mapping[str, str]) -> str:
    """The prefix that is meant. Unfit where weights under several fit, and differ."""
    models = [{own: weights[prefix + own] for own in bare.values()} for prefix in prefixes]
    if any(not same(models[0], model) for model in models[1:]):
        raise Unfit(f"several that fit, under {listed(prefixes)}. Save the one that is meant alone, under the model's own names")
    return prefixes[0]


def _taken(weights: Weights, wanted: Mapping[str, Tensor], prefix: str, added: str) -> Named:
    sources = {name: prefix + name.removeprefix(added) for name in wanted}
    there = {name: source for name, source in sources.items() if source in weights}
    used = set(there.values())
    said = [f"names without {prefix!r}"] * bool(prefix) + [f"names with {added!r} before them"] * bool(added)
    return Named(
        weights={name: weights[source] for name, source in there.items()},
        others={name: value for name, value in weights.items() if name not in used},
        prefix=prefix,
        said=tuple(said),
    )
