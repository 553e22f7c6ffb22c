"""Asynchronous tests, without a plugin.

An `async def test_…` runs in virtual time (tests/fake/virtual_time.py), or on a real loop if it is marked
`real_time`, `asterisk`, `s3` or `postgres`. An argument that is an asynchronous context manager is entered around
the test, in the order of the arguments, and the test receives what entering it gave: this is how a fixture that
must live inside the loop is written.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack
from typing import Any
from zlib import crc32

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.fake.virtual_time import HORIZON_S, run_virtual

TOGETHER = ("test_agi_server", "test_recordings_s3", "test_store_postgres", "test_metrics_dashboard")
"""Files whose tests share a server that is costly to start: all of a file's go to one worker."""

OWN_HOTLINE = {"test_outside_hours": 2, "test_second_line_heard": 1}
"""Files whose real calls need a hotline with settings of their own, which costs ten seconds of processor time: how many
of them.
"""

COMPUTES = ("test_alert_rules",)
"""Files of tests/integration that wait for nothing and use all of the processor."""

LONG = (
    "test_the_demo_s_call_is_heard_and_every_figure_is_right",
    "test_one_kill_and_callers_in_every_kind_of_state",
    "test_what_freezes_or_dies_is_replaced_and_the_rest_stays",
    "test_a_call_has_a_ceiling_warned_a_minute_before",
    "test_party_is_verified_served_and_hung_up_five_seconds_after_the_closing",
    "test_party_with_a_wrong_element_three_times_hears_nothing_of_the_case_and_reaches_an_agent_as_unverified",
    "test_lawyer_with_a_wrong_element_three_times_hears_nothing_of_the_case_and_reaches_an_agent_as_unverified",
    "test_who_sends_nothing_is_counted_and_who_is_held_or_heard_is_not",
    "test_two_callers_and_one_agent",
    "test_the_number_is_read_back_and_the_person_called_once_an_agent_is_there",
    "test_asterisk_ends_and_whoever_was_cut_off_is_called_back_first",
    "test_three_shifts_are_as_erlang_a_says_and_nobody_is_overtaken",
    "test_the_known_figures_come_out_of_the_desk",
    "test_the_index_answers_as_the_specification_in_thousands_of_days",
    "test_whatever_comes_in_whatever_order_an_agent_is_sound_and_holds_one_call_until_it_is_over",
)
"""Tests of a minute's call or ten seconds' computing. They begin first: one that began last would be waited for."""

REAL_TIME = ("real_time", "asterisk", "s3", "postgres")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_time: an asynchronous test that needs a real clock or real sockets")
    config.addinivalue_line("markers", "by_the_clock: runs with real processes, phones or sockets; is set by itself")
    config.addinivalue_line("markers", f"horizon(seconds): virtual seconds a test may take ({HORIZON_S:.0f})")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """What runs by the machine's clock, with real processes and phones, is marked, so that nothing that only computes
    takes the processor away from it: a machine that stands still for half a second swallows syllables. What fails is
    made again in `make test`, twice at most, with fewer beside it. Virtual time has no such excuse.
    """
    for item in items:
        real_time = any(item.get_closest_marker(mark) for mark in REAL_TIME)
        if real_time or ({"integration", "asterisk"} & set(item.path.parts) and item.path.stem not in COMPUTES):
            item.add_marker(pytest.mark.by_the_clock)
            if item.get_closest_marker("alone"):
                item.add_marker(pytest.mark.flaky(reruns=1))
    yield
    items.sort(key=lambda item: item.name.partition("[")[0] not in LONG)  # after they were shuffled


def pytest_sessionfinish() -> None:
    """Ends hotlines and Asterisks. Not at the interpreter's exit: a worker that has said it is done is killed after ten
    seconds, and a hotline that was still ending would be left behind.
    """
    with ExitStack() as ending:
        if (real := sys.modules.get("tests.calls.real")) is not None:
            ending.callback(real.Running.stop_all)
        if (kept := sys.modules.get("tests.asterisk.kept")) is not None:
            ending.callback(kept.end_all)


class OneServerEach(LoadScopeScheduling):
    """pytest-xdist's scheduling test by test, but for `TOGETHER` and the real calls of `OWN_HOTLINE`."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        name = file.rpartition("/")[2].removesuffix(".py")
        if name in OWN_HOTLINE and "[real" in nodeid:
            return f"{file} {crc32(nodeid.encode()) % OWN_HOTLINE[name]}"
        return file if name in TOGETHER else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneServerEach:
    return OneServerEach(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names if name in pyfuncitem.funcargs}
    coro = _inside_its_fixtures(pyfuncitem.obj, arguments)
    if any(pyfuncitem.get_closest_marker(mark) for mark in REAL_TIME):
        asyncio.run(coro)
    else:
        horizon = pyfuncitem.get_closest_marker("horizon")
        run_virtual(coro, horizon_s=horizon.args[0] if horizon else HORIZON_S)
    return True


async def _inside_its_fixtures(test: Callable[..., Coroutine[Any, Any, None]], arguments: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        for name, value in arguments.items():
            if hasattr(type(value), "__aenter__"):
                arguments[name] = await stack.enter_async_context(value)
        await test(**arguments)
