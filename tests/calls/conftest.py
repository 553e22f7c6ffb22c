from __future__ import annotations

import os

import pytest

from tests.calls.house import FakeHouse, Script


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Takes away the real calls of a script marked `fake_only`, or `real_for` others, which differ from those that are
    made in the words or in a decision alone.
    """
    too_many = [item for item in items if _is_too_many(item)]
    config.hook.pytest_deselected(items=too_many)
    items[:] = [item for item in items if item not in set(too_many)]


def _is_too_many(item: pytest.Item) -> bool:
    name = item.name.partition("[")[2].removesuffix("]")
    if not (name == "real" or name.startswith("real-")):
        return False
    suffice = item.get_closest_marker("real_for")
    return item.get_closest_marker("fake_only") is not None or (
        suffice is not None and name.removeprefix("real-") not in suffice.args
    )


@pytest.fixture(params=["fake", pytest.param("real", marks=[pytest.mark.asterisk, pytest.mark.timeout(240)])])
def hotline(request: pytest.FixtureRequest) -> Script:
    marker = request.node.get_closest_marker("hotline_settings")
    changed = marker.kwargs if marker else {}
    if request.param == "fake":
        return FakeHouse(**changed)
    from tests.calls.real import RealHouse, Running

    return RealHouse(Running.of(os.environ.get("PYTEST_XDIST_WORKER", "alone"), changed))
