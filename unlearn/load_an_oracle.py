"""load_an_oracle: a retrained model outside the reference set; the score of a perfect method."""

from __future__ import annotations

from torch import nn

from lethe.unlearn.impl import ForgetData, Oracles, Unlearned, copy_of, register
from lethe.unlearn.retrain import check_architecture
from lethe.unlearn.settings import Seed


def check_seed(model: nn.Module, data: ForgetData, *, oracle_seed: int | None) -> None:
    """Raise ValueError for a seed of the reference set, FileNotFoundError for a missing oracle.

    The seed is a fact of the run, not a setting: runs of several seeds share their settings.
    """
    if data.oracles is not None:
        data.oracles.apart([_seed(data.seed, data.oracles, oracle_seed)])


def _seed(own: int, oracles: Oracles, asked: int | None) -> int:
    return own + len(oracles.judges) if asked is None else asked


@register(
    "load_an_oracle",
    needs=("oracles",),
    source="Georgiev et al. 2024, arXiv:2410.23232",
    resolve=(check_seed,),
    augments=(),
)
def load_an_oracle(model: nn.Module, data: ForgetData, *, oracle_seed: Seed | None = None) -> Unlearned:
    """Return an oracle: the ideal model of a seed outside the reference set.

        theta <- theta of the model trained on retain alone, with oracle_seed

    The distance between this model and the reference set is the noise of training: no method can be expected
    to come nearer.

    Flags:
        oracle_seed: seed of the oracle; by default the model's own seed plus the number of oracles in the
            reference set

    Raises ValueError if the data has no `oracles`, for a seed of the reference set and for an oracle of
    another architecture; FileNotFoundError, with the command that makes it, for a missing oracle.
    """
    if data.oracles is None:
        raise ValueError("load_an_oracle: expected oracles, got none. Give ForgetData `oracles`")
    seed = _seed(data.seed, data.oracles, oracle_seed)
    (found,) = data.oracles.apart([seed])
    oracle = copy_of(found)
    check_architecture(model, oracle, "load_an_oracle")
    return Unlearned(oracle, facts={"oracle_seed_used": seed})
