"""What CT, MSG, CFk and EUk share: the length of an epoch, and divergence."""

import pytest

from tests.three_classes import convolutional, data_of
from unlearn import unlearn


@pytest.mark.parametrize("method", ["CT", "MSG"])
@pytest.mark.parametrize(("forget", "steps"), [([0], 1), (list(range(11)), 3)])
def test_an_epoch_is_a_pass_over_forget_whichever_is_shorter(method, forget, steps, monkeypatch):
    from unlearn import retain_tuning

    seen, descend = [], retain_tuning.descend

    def spy(model, batches, **settings):
        batches = list(batches)
        seen.append([len(y) for _, y in batches])
        return descend(model, batches, **settings)

    monkeypatch.setattr(retain_tuning, "descend", spy)
    unlearn(method, convolutional(), data_of(forget=forget), unlearn_epochs=2, batch_size=4)
    assert [len(sizes) for sizes in seen] == [steps, steps]
    assert all(size > 1 for sizes in seen for size in sizes)  # batch norm


@pytest.mark.parametrize("method", ["MSG", "CT", "CFk", "EUk"])
def test_divergence_is_raised(method):
    with pytest.raises(FloatingPointError, match=rf"{method} diverged in epoch \d: loss .* Choose a smaller --unlearn_lr"):
        unlearn(method, convolutional(), data_of(), unlearn_lr=1e30)
