"""The clock on which whole calls are tested."""

import asyncio
import time

import pytest

from tests.fake.virtual_time import PastTheHorizon, WaitsForever, run_virtual


def test_hours_pass_in_no_time() -> None:
    async def sleeps() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run_virtual(sleeps()) == pytest.approx(3600)
    assert time.monotonic() - began < 1


def test_timers_fire_in_their_order() -> None:
    async def waits(order: list[int]) -> None:
        async def after(s: int) -> None:
            await asyncio.sleep(s)
            order.append(s)

        await asyncio.gather(*(after(s) for s in (30, 10, 20)))

    order: list[int] = []
    run_virtual(waits(order))
    assert order == [10, 20, 30]


def test_waiting_for_what_never_comes_is_an_error_that_says_where() -> None:
    async def a_call_that_waits() -> None:
        await asyncio.Event().wait()

    with pytest.raises(WaitsForever) as stuck:
        run_virtual(a_call_that_waits())
    assert "a_call_that_waits" in "".join(stuck.value.__notes__)


def test_a_periodic_task_does_not_keep_a_stuck_test_alive() -> None:
    async def stuck() -> None:
        def sweeps() -> None:
            asyncio.get_running_loop().call_later(10, sweeps)

        sweeps()
        await asyncio.Event().wait()

    with pytest.raises(PastTheHorizon):
        run_virtual(stuck(), horizon_s=600)


def test_the_clock_stands_still_while_a_thread_works() -> None:
    def asks() -> str:
        time.sleep(0.05)
        return "row"

    async def asks_a_database() -> tuple[str, float]:
        ticking = asyncio.create_task(asyncio.sleep(1000))
        answer = await asyncio.to_thread(asks)
        ticking.cancel()
        return answer, asyncio.get_running_loop().time()

    assert run_virtual(asks_a_database()) == ("row", 0.0)


def test_a_task_that_fails_behind_the_tests_back_fails_the_test() -> None:
    async def looks_away() -> None:
        def fails() -> None:
            raise LookupError("nobody looked")

        asyncio.get_running_loop().call_soon(fails)
        await asyncio.sleep(1)

    with pytest.raises(BaseExceptionGroup) as group:
        run_virtual(looks_away())
    assert group.group_contains(LookupError, match="nobody looked")


class Fixture:
    """Entered around the test that takes it."""

    def __init__(self) -> None:
        self.entered_at = -1.0

    async def __aenter__(self) -> "Fixture":
        self.entered_at = asyncio.get_running_loop().time()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(1)


@pytest.fixture
def inside() -> Fixture:
    return Fixture()


async def test_a_fixture_is_entered_inside_the_loop(inside: Fixture) -> None:
    assert inside.entered_at == 0.0


@pytest.mark.real_time
async def test_real_time_is_to_be_had(inside: Fixture) -> None:
    assert inside.entered_at > 0.0
