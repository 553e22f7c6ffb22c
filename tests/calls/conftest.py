from __future__ import annotations

import os

import pytest

from tests.calls.house import FakeHouse, Script


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Takes away the real calls of a script marked `real_for` that differ in nothing but the words."""
    too_many = [item for item in items if _is_too_many(item)]
    config.hook.pytest_deselected(items=too_many)
    items[:] = [item for item in items if item not in set(too_many)]


def _is_too_many(item: pytest.Item) -> bool:
    suffice = item.get_closest_marker("real_for")
    name = item.name.partition("[")[2].removesuffix("]")
    return suffice is not None and name.startswith("real-") and name.removeprefix("real-") not in suffice.args


@pytest.fixture(params=["fake", pytest.param("real", marks=[pytest.mark.asterisk, pytest.mark.timeout(240)])])
def hotline(request: pytest.FixtureRequest) -> Script:
    marker = request.node.get_closest_marker("hotline_settings")
    changed = marker.kwargs if marker else {}
    if request.param == "fake":
        return FakeHouse(**changed)
    from tests.calls.real import RealHouse, Running

    return RealHouse(Running.of(os.environ.get("PYTEST_XDIST_WORKER", "alone"), changed))
