"""How a caller gets to each state of the SOP, by keys alone."""

from __future__ import annotations

import asyncio
from typing import Any

from ari_app.flow.sop import State
from tests.calls.house import PARTY, FakeHouse, Script

KEYS = {
    State.GREETING: "",
    State.ASKING_ROLE: "*",
    State.LAWYER_FIRM: "1",
    State.LAWYER_NAME: "154#",
    State.LAWYER_LICENCE: "154#954#",
    State.LAWYER_NUMBER: "154#954#0417#",
    State.LAWYER_MOBILE: "154#954#0417#2",
    State.PARTY_NUMBER: "2",
    State.PARTY_MOBILE: "22",
    State.PARTY_CASE: "21",
    State.PARTY_NAME: "2112345#",
    State.ASKING_NEED: "2112345#99#",
    State.WAITING: "0",
}
"""From the opening; the caller's own number is PARTY."""

AFTER_TALK = (State.RATING, State.RATING_REASON, State.CLOSING, State.LEAVING)
WITH_AGENT = (State.OFFERING, State.WHISPERING, State.TALKING, *AFTER_TALK)
RATES = {State.RATING_REASON: "1", State.CLOSING: "5", State.LEAVING: "5"}
"""What the caller keys when asked how it was."""


async def reach(hotline: Script, state: State, agent: Any = None, from_: str = PARTY) -> tuple[Any, Any]:
    """A caller in `state`, and the agent's side of the call where there is one.

    Raises AssertionError if the call does not get there.
    """
    caller = await hotline.rings(from_=from_)
    if state is State.RINGING:
        await caller.ringing()
        await asyncio.sleep(0.4)
        return caller, None
    await caller.answered()
    await asyncio.sleep(0.5)
    await caller.keys(KEYS.get(state, "0"))
    offer = None
    if state in WITH_AGENT:
        offer = await agent.rings()
        if state is not State.OFFERING:
            await offer.picks_up()
        if state in (State.TALKING, *AFTER_TALK):
            await is_opened(hotline, caller, f"opening-agent-{agent.number}")
        if state in AFTER_TALK:
            await offer.keys("*6")
        if state in RATES:
            await hotline.call_is(State.RATING)
            await asyncio.sleep(0.5)
            await caller.keys(RATES[state])
        if state is State.LEAVING:
            await caller.hears("closing")
    await hotline.call_is(state)
    return caller, offer


async def is_opened(hotline: Script, caller: Any, opening: str) -> None:
    """Joined, and the opening over. A real phone's jitter buffer may throw parts of it away as the stream changes: who
    wants to know what was heard listens for it.
    """
    if isinstance(hotline, FakeHouse):
        await caller.hears(opening)
    else:
        await hotline.call_is(State.TALKING)
        await asyncio.sleep(caller.phone.phones.ear.seconds(opening) + 0.6)
