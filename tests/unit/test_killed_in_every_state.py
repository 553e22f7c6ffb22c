"""The controller is killed in every state of the table, somewhere: a state that is new fails here until it is."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

import pytest

from ari_app.flow.sop import State
from tests.calls import test_killed, test_killed_outbound, test_killed_outside_hours, test_second_line_killed

SCRIPTS = (test_killed, test_killed_outbound, test_killed_outside_hours, test_second_line_killed)
IN_SO_MANY_WORDS = re.compile(r"\bKilled\(hotline, State\.(\w+)")


def killed_in(scripts: ModuleType) -> set[State]:
    """States in which the controller is killed by `scripts`: those they are run for, and those they name."""
    marks = [mark for _, test in inspect.getmembers(scripts) for mark in getattr(test, "pytestmark", ())]
    runs = [mark.args[1] for mark in marks if mark.name == "parametrize" and mark.args[0] == "state"]
    named = {State[name] for name in IN_SO_MANY_WORDS.findall(inspect.getsource(scripts))}
    return named | {state for states in runs for state in states}


@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_the_controller_is_killed_in_it(state):
    assert state in {one for scripts in SCRIPTS for one in killed_in(scripts)}
