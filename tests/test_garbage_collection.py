"""The collector while a command runs."""

import gc

from lethe import command_line
from lethe.system.garbage_collection import NEW_OBJECTS


def test_a_command_collects_rarely_and_leaves_the_threshold_as_it_was():
    before, during = gc.get_threshold(), []

    @command_line.command
    def main(argv=None):
        during.append(gc.get_threshold()[0])
        raise ValueError("a mistake")

    assert main([]) == command_line.MISTAKE
    assert (during, gc.get_threshold()) == ([NEW_OBJECTS], before)
