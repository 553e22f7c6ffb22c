"""The suite's own order names tests that are there."""

import re

from ari_app.settings import PROJECT
from tests.conftest import LONG


def test_every_test_that_begins_first_is_there():
    there = {
        name
        for file in (PROJECT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.M)
    }
    assert set(LONG) <= there
