"""Random callers and agents. Everything they decide comes from the seed; what they meet does not.

A caller's plan is made before the call and follows from the seed and the call's number alone. Its moves are timed by
what it hears: it keys an answer once it has heard a question for a while, so that an apology or a question asked
again does not leave it keying into nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from ari_app.flow.identity import firm_initials, initials
from ari_app.sample import CASES, FIRMS, LAWYERS, PARTIES
from ari_app.staff import Access
from tests.faults.lightphone import EndedBy, Leg, Line

HOTLINE = "12368"
LONGEST_CALL_S = 60.0
"""A caller who got nowhere gives up, at the latest."""
KINDS = {"person": 30, "party": 16, "lawyer": 8, "wrong": 14, "muddled": 8, "silent": 4, "leaver": 20}
"""What callers do, by weight."""

AfterClosing = Literal["stays", "leaves", "again"]
RATINGS = {"": 6, "5": 5, "3": 2, "1": 2, "9": 1, "leaves": 2}
"""What callers key when asked how it was, by weight; nothing, and they stay silent."""


# ---------------------------------------------------------------- callers


@dataclass(frozen=True)
class CallerPlan:
    """What one caller means to do. Times in seconds."""

    n: int
    kind: str
    number: str
    at_s: float
    """From the beginning of the run to the INVITE."""
    keys: tuple[str, ...]
    """One item a question."""
    reacts_s: tuple[float, ...]
    """How long each question has been heard when the keys come."""
    leaves_after_s: float | None
    """From the INVITE; None: not before the talk."""
    patience_s: float
    talks_s: float
    hangs_up_first: bool
    after_closing: AfterClosing
    rates: str = ""
    """A key, nothing, or ``leaves``: hangs up instead."""


def plan_caller(seed: int, n: int, at_s: float) -> CallerPlan:
    """Call `n` of the run with this seed: the same whenever it is asked for."""
    rng = Random(f"{seed} call {n}")
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    mobile = rng.random() < 0.8
    keys = _keys(
        rng, kind if kind != "leaver" else rng.choice(["person", "party", "lawyer", "wrong", "silent"]), mobile
    )
    return CallerPlan(
        n=n,
        kind=kind,
        number=f"{'1549' if mobile else '0209'}{n:07d}",
        at_s=at_s,
        keys=keys,
        reacts_s=tuple(rng.uniform(0.2, 0.9) for _ in keys),
        leaves_after_s=rng.uniform(0.1, 16.0) if kind == "leaver" else None,
        patience_s=rng.uniform(10.0, 30.0),
        talks_s=rng.uniform(1.0, 6.0),
        hangs_up_first=rng.random() < 0.3,
        after_closing=rng.choices(("stays", "leaves", "again"), (5, 4, 1))[0],
        rates=rng.choices(list(RATINGS), list(RATINGS.values()))[0],
    )


def _keys(rng: Random, kind: str, mobile: bool) -> tuple[str, ...]:
    own = ("2",) if mobile else ()  # "another number": whoever calls from a landline is not asked
    need = rng.choice("1234")
    serial, *_, party, lawyer, _ = rng.choice(CASES)
    case, name = f"{serial}#", _keyed(initials(PARTIES[party][0]))
    match kind:
        case "person":
            return ("0",)
        case "party":
            return ("2", *own, f"{PARTIES[party][2]}#", case, f"{name}#", need)
        case "lawyer":
            who, licence, number, firm = LAWYERS[lawyer]
            return (
                "1", f"{_keyed(firm_initials(*FIRMS[firm]))}#", f"{_keyed(initials(who))}#", f"{licence[-4:]}#",
                *own, f"{number}#", need,
            )  # fmt: skip
        case "wrong":
            wrong = ("2", *own, "15400009999#", f"{rng.randrange(100_000):05d}#", "23#")
            rounds = rng.randint(1, 3)
            return wrong * rounds + ((need,) if rounds == 3 else ("0",))
        case "muddled":
            keys = rng.choices("1234567890*#", k=rng.randint(2, 5))
            return (*keys, rng.choice(["12#", "0#", "*", "99999#"]), "0", "0")
        case _:
            return ()


def _keyed(ways: frozenset[str]) -> str:
    return min(ways)


@dataclass
class Tape:
    """What one phone call was, as the caller's phone has it. Times are Unix seconds."""

    n: int
    kind: str
    number: str
    began_at: float
    rang_at: float | None = None
    answered_at: float | None = None
    ended_at: float = 0.0
    ended_by: EndedBy | None = None
    code: int = 0
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """Silences between answer and end."""
    keyed: list[tuple[float, float]] = field(default_factory=list)
    """When the caller was pressing keys."""
    talked: bool = False
    sounded_s: float = 0.0

    @property
    def known(self) -> bool:
        """It rang or was answered: the hotline has it."""
        return self.rang_at is not None or self.answered_at is not None


class Caller:
    """Carries a plan out."""

    def __init__(self, plan: CallerPlan, line: Line, longest_s: float = LONGEST_CALL_S) -> None:
        self.plan = plan
        self._line = line
        self._longest_s = longest_s

    async def call(self) -> Tape:
        """Returns once the call is over."""
        plan = self.plan
        leg = self._line.invite(HOTLINE, plan.number)
        loop = asyncio.get_running_loop()
        alarms = [loop.call_later(self._longest_s, leg.hang_up)]
        if plan.leaves_after_s is not None:
            alarms.append(loop.call_later(plan.leaves_after_s, leg.hang_up))
        try:
            if await leg.wait(20.0, lambda: leg.answered_at is not None):
                await self._through(leg)
            leg.hang_up()
        finally:
            for alarm in alarms:
                alarm.cancel()
        return tape_of(leg, plan.n, plan.kind, plan.number)

    async def _through(self, leg: Leg) -> None:
        plan = self.plan
        for keys, reacts_s in zip(plan.keys, plan.reacts_s, strict=True):
            if not await self._hears_question(leg, reacts_s) or not await leg.keys(keys):
                break
        if leg.over or not await leg.wait(plan.patience_s, lambda: leg.talking):
            return
        if plan.hangs_up_first:
            await leg.wait(plan.talks_s)
            return
        await leg.wait(LONGEST_CALL_S, lambda: not leg.talking and _quiet_for(leg) > 1.5)
        if plan.rates == "leaves":
            return
        if plan.rates and not leg.over:
            await leg.keys(plan.rates)
        if plan.rates == "1":  # is asked why, and says it
            await self._hears_question(leg, 2.0)
            await leg.wait(plan.talks_s / 2)
            await leg.keys("#")
        if plan.after_closing == "leaves":
            await leg.wait(plan.talks_s / 2)
            return
        if plan.after_closing == "again":
            await leg.keys("0")
            await leg.wait(plan.patience_s, lambda: leg.talking)
            await leg.wait(plan.talks_s)
            return
        await leg.wait(LONGEST_CALL_S)

    @staticmethod
    async def _hears_question(leg: Leg, reacts_s: float) -> bool:
        """Has heard something new for `reacts_s`; False if nothing came, or the call is over."""
        stream = leg.stream
        if stream is None:
            return False
        heard = stream.meter.sounded_s
        return await leg.wait(12.0, lambda: stream.meter.sounded_s - heard >= reacts_s) and not leg.over


def _quiet_for(leg: Leg) -> float:
    """Since the other side's tone was heard."""
    return time.time() - leg.stream.tone_at if leg.stream is not None else 0.0


def tape_of(leg: Leg, n: int, kind: str, number: str) -> Tape:
    stream = leg.stream
    return Tape(
        n=n,
        kind=kind,
        number=number,
        began_at=leg.began_at,
        rang_at=leg.rang_at,
        answered_at=leg.answered_at if stream is not None else None,
        ended_at=leg.ended_at or time.time(),
        ended_by=leg.ended_by,
        code=leg.code,
        gaps=list(stream.meter.gaps) if stream is not None else [],
        keyed=list(leg.keyed),
        talked=stream is not None and stream.tones > 0,
        sounded_s=stream.meter.sounded_s if stream is not None else 0.0,
    )


# ---------------------------------------------------------------- people who are called back

CALLED = {"answers": 80, "busy": 8, "declines": 6, "is not there": 6}


class CalledBack:
    """Whoever is called by the hotline, one after the other, at the callers' line."""

    def __init__(self, seed: int, tapes: list[Tape]) -> None:
        """Of each that answered a tape is added to `tapes`."""
        self._seed = seed
        self._tapes = tapes
        self._tasks: set[asyncio.Task[None]] = set()

    def rung(self, number: str, leg: Leg) -> None:
        """An INVITE for `number`."""
        n = len(self._tasks)
        task = asyncio.get_running_loop().create_task(self._called(n, number, leg), name=f"called back {number}")
        self._tasks.add(task)

    async def _called(self, n: int, number: str, leg: Leg) -> None:
        rng = Random(f"{self._seed} called back {n}")
        does = rng.choices(list(CALLED), list(CALLED.values()))[0]
        if does in ("busy", "declines"):
            leg.refuse(486 if does == "busy" else 603)
            return
        leg.rings()
        await leg.wait(rng.uniform(0.3, 3.0) if does == "answers" else LONGEST_CALL_S)
        if does == "answers":
            leg.pick_up()
            if await leg.wait(20.0, lambda: leg.talking):
                await leg.wait(rng.uniform(1.0, 6.0))
            leg.hang_up()
            self._tapes.append(tape_of(leg, n, "called back", number))


# ---------------------------------------------------------------- agents

OFFERS = {"answers": 84, "busy": 4, "declines": 3, "lets it ring": 4, "drops the whisper": 2, "dies": 3}
TALKS = {"*6": 35, "hangs up": 25, "waits": 25, "*5*6": 15}
REGISTER_EVERY_S = 40.0
LOOKS_EVERY_S = 1.0
CROSSES_S = 0.5
"""A call may ring so long before the end of the one before it has come through."""


@dataclass(frozen=True)
class Ring:
    """One call that rang an agent's phone. Times are Unix seconds."""

    agent: str
    caller: str
    """The number that the phone displayed."""
    at: float
    until: float
    talked: bool
    """Both heard each other."""
    ended_by: EndedBy | None
    ended_it: bool
    """The agent keyed ``*6``."""


class AgentPhone:
    """An agent at a phone, who takes offers as the seed has it and comes back when paused."""

    def __init__(self, seed: int, access: Access, line: Line, rings: list[Ring]) -> None:
        self.number = access.number
        self._seed = seed
        self._access = access
        self._line = line
        self._rings = rings
        self._rng = Random(f"{seed} agent {access.number}")
        self._offers = 0
        self._dead = False
        self._feature = False
        self.at_once: list[tuple[float, str, str]] = []
        """When a call came while another was there: the moment and both callers."""
        self._legs: list[Leg] = []
        self._ended_it: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # The phone

    async def register(self) -> bool:
        return not self._dead and await self._line.register(self.number, self._access.password)

    async def stay_registered(self) -> None:
        while True:
            await asyncio.sleep(REGISTER_EVERY_S * self._rng.uniform(0.8, 1.2))
            await self.register()

    def rung(self, leg: Leg) -> None:
        """An INVITE for this phone."""
        if self._dead:
            return
        there = [one for one in self._legs if not one.over]
        if there:
            asyncio.get_running_loop().call_later(CROSSES_S, self._still_there, there[0], leg)
        if there or self._feature:
            leg.refuse(486)
            return
        self._legs = [leg]
        self._offers += 1
        task = asyncio.get_running_loop().create_task(self._offered(leg), name=f"agent {self.number}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _still_there(self, before: Leg, leg: Leg) -> None:
        if not before.over:
            self.at_once.append((leg.began_at, _caller_of(before), _caller_of(leg)))

    # The person

    async def _offered(self, leg: Leg) -> None:
        rng = Random(f"{self._seed} agent {self.number} offer {self._offers}")
        does = rng.choices(list(OFFERS), list(OFFERS.values()))[0]
        leg.rings()
        try:
            await leg.wait(rng.uniform(0.1, 2.0))
            match does:
                case "busy" | "declines":
                    leg.refuse(486 if does == "busy" else 603)
                case "lets it ring":
                    await leg.wait(20.0)
                case "dies":
                    await self._dies(leg, rng)
                case _:
                    leg.pick_up()
                    await (leg.wait(rng.uniform(0.0, 3.0)) if does == "drops the whisper" else self._talks(leg, rng))
        finally:
            leg.hang_up()
            talked = leg.stream is not None and leg.stream.tones > 0
            self._rings.append(
                Ring(
                    self.number, _caller_of(leg), leg.began_at, leg.ended_at or time.time(), talked, leg.ended_by,
                    leg.call_id in self._ended_it,
                )
            )  # fmt: skip

    async def _talks(self, leg: Leg, rng: Random) -> None:
        does = rng.choices(list(TALKS), list(TALKS.values()))[0]
        if not await leg.wait(14.0, lambda: leg.talking):
            return
        await leg.wait(rng.uniform(1.0, 6.0))
        match does:
            case "*6":
                self._ended_it.add(leg.call_id)
                await leg.keys("*6")
                await leg.wait(8.0)
            case "*5*6":
                await leg.keys("*5")
                await leg.wait(rng.uniform(0.5, 6.0))
                self._ended_it.add(leg.call_id)
                await leg.keys("*6")
                await leg.wait(12.0)
            case "waits":
                await leg.wait(10.0)

    async def _dies(self, leg: Leg, rng: Random) -> None:
        """The phone loses power, and comes back after some seconds."""
        self._dead = True
        leg.cut(time.time())
        await asyncio.sleep(rng.uniform(3.0, 8.0))
        self._dead = False
        await self.register()

    async def come_back(self, state: str) -> None:
        """What an agent does who sees on the wall that the hotline has them as `state`."""
        if self._dead or self._feature or any(not leg.over for leg in self._legs):
            return
        if state == "idle" and self._rng.random() < 0.003:
            await self.dial("*13")
        elif state in ("no_answer", "paused"):
            await self.dial("*14")
        elif state == "signed_out":
            await self.dial("*11")
        elif state == "wrap_up" and self._rng.random() < 0.1:
            await self.dial("*15", pin=False)

    async def dial(self, code: str, *, pin: bool = True) -> bool:
        """Dials a feature code and listens to what is said; False if it was not taken up."""
        self._feature = True
        try:
            to = f"{code}{self._access.pin}" if pin else code
            leg = self._line.invite(to, self.number, (self.number, self._access.password))
            await leg.wait(10.0)
            leg.hang_up()
            return leg.answered_at is not None
        finally:
            self._feature = False


def _caller_of(leg: Leg) -> str:
    """The number that the phone displays."""
    return leg.incoming.one("from").partition("sip:")[2].partition("@")[0] if leg.incoming else ""


class Floor:
    """All agents of a house on one line."""

    def __init__(self, seed: int, access: dict[str, Access], line: Line) -> None:
        self.rings: list[Ring] = []
        self.phones = {number: AgentPhone(seed, one, line, self.rings) for number, one in access.items()}
        self._tasks: list[asyncio.Task[None]] = []
        self._busy: set[asyncio.Task[None]] = set()

    def rung(self, user: str, leg: Leg) -> None:
        phone = self.phones.get(user)
        if phone is None:
            leg.refuse(480)
        else:
            phone.rung(leg)

    async def open(self) -> int:
        """Registers every phone and signs every agent in; how many are."""
        signed_in = 0
        phones = list(self.phones.values())
        for some in (phones[i : i + 16] for i in range(0, len(phones), 16)):
            await asyncio.gather(*(phone.register() for phone in some))
            signed_in += sum(await asyncio.gather(*(phone.dial("*11") for phone in some)))
        self._tasks += [asyncio.create_task(phone.stay_registered()) for phone in phones]
        return signed_in

    async def watch_the_wall(self, states: Callable[[], Awaitable[dict[str, str]]]) -> None:
        """Agents look at their state now and then, and come back from a pause. `states` tells number → state."""
        while True:
            await asyncio.sleep(LOOKS_EVERY_S)
            for number, state in (await states()).items():
                if number in self.phones:
                    task = asyncio.create_task(self.phones[number].come_back(state))
                    self._busy.add(task)
                    task.add_done_callback(self._busy.discard)

    async def register_again(self) -> None:
        """After a restart of Asterisk: what phones do once their keep-alive fails."""
        await asyncio.gather(*(phone.register() for phone in self.phones.values()))

    def close(self) -> None:
        for task in (*self._tasks, *self._busy):
            task.cancel()
