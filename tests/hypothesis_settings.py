"""How hypothesis draws where an example has no time limit, or takes a while."""

from hypothesis import settings

UNTIMED = settings(deadline=None)
FEW = settings(deadline=None, max_examples=25)
