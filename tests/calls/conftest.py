from __future__ import annotations

import pytest

from tests.calls.house import FakeHouse, Script


@pytest.fixture
def hotline(request: pytest.FixtureRequest) -> Script:
    marker = request.node.get_closest_marker("hotline_settings")
    return FakeHouse(**(marker.kwargs if marker else {}))
