from __future__ import annotations

import os

import pytest

from tests.calls.house import FakeHouse, Script


@pytest.fixture(params=["fake", pytest.param("real", marks=[pytest.mark.asterisk, pytest.mark.timeout(240)])])
def hotline(request: pytest.FixtureRequest) -> Script:
    marker = request.node.get_closest_marker("hotline_settings")
    changed = marker.kwargs if marker else {}
    if request.param == "fake":
        return FakeHouse(**changed)
    from tests.calls.real import RealHouse, Running

    return RealHouse(Running.of(os.environ.get("PYTEST_XDIST_WORKER", "alone"), changed))
