"""What CT, MSG, CFk and EUk share: the length of an epoch, and divergence."""

import pytest
import torch

from lethe.unlearn import unlearn
from tests.three_classes import convolutional, data_of


@pytest.mark.parametrize("method", ["CT", "MSG"])
@pytest.mark.parametrize(("forget", "steps"), [([0], 1), (list(range(11)), 3)])
def test_an_epoch_is_a_pass_over_forget_whichever_is_shorter(method, forget, steps, monkeypatch):
    from lethe.unlearn import retain_tuning

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
    reason = rf"{method} diverged in epoch \d: loss .* Choose a smaller --unlearn_lr"
    with pytest.raises(FloatingPointError, match=reason):
        unlearn(method, convolutional(), data_of(), unlearn_lr=1e30)


@pytest.mark.parametrize("method", ["MSG", "CT"])
def test_the_next_epoch_goes_on_where_the_retain_stream_is(method):
    """A step of five of the 17 retain images in each epoch, the last two in the fourth: no image twice."""
    model, seen = convolutional(), []
    model.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0]) if module.training else None
    )
    unlearn(method, model, data_of(forget=[0]), unlearn_epochs=4, batch_size=4)
    assert len(torch.cat(seen)) == 17 == len(torch.cat(seen).unique(dim=0))
