"""How hypothesis draws where an example takes a while. No example has a time limit: see conftest.py."""

from hypothesis import settings

FEW = settings(max_examples=25)
