"""Truth of the requests by memorisation: what a model that is retrained without the images says of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from lethe.data import ForgetRequest
from lethe.experiment.base_config import BaseConfig
from lethe.experiment.base_models import BaseModels, score_of
from lethe.experiment.memorised import memorisation_csv, memorisation_of

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("empty_place")]


def test_retrained_models_get_the_worst_right_and_the_hardest_wrong():
    base = BaseModels(BaseConfig())
    found = memorisation_of(base, shadows=32)
    table = memorisation_csv(found, base.splits.train, base.splits.class_names)
    Path("memorisation.csv").write_text(table)

    def retrained_score(request):
        asked = BaseModels(replace(base.config, request=request), splits=base.splits)
        return score_of(asked.ideal().model, asked.division.forget, asked.device)

    ends = ("worst", "easiest", "hardest")
    worst, easiest, hardest = (
        retrained_score(ForgetRequest.chosen(**{end: 60}, scores="memorisation.csv")) for end in ends
    )
    some = retrained_score(ForgetRequest((-1,), 60))
    assert worst == easiest == 100
    assert hardest < some - 30
