"""Writes ledgers as the controller would, without calls: transitions by the SOP's own table, and the rows beside."""

from __future__ import annotations

import random
from datetime import date, datetime, time
from itertools import count
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session

from ari_app.flow.duty import What
from ari_app.flow.matters import Matter
from ari_app.flow.sop import Heard, Need, Progress, State, step
from ari_app.outcomes import Result, disposition_row, row_of
from ari_app.store import models

ZONE = ZoneInfo("Asia/Shanghai")

QUEUED = ((0.0, Heard.RANG_ENOUGH), (4.0, Heard.WANTS_A_PERSON), (4.0, Heard.ADMITTED))
"""To the queue, 4 s after the call came."""
QUEUED_S = 4.0
LAWYER_QUEUED = (QUEUED[0], (2.0, Heard.SAID_LAWYER), *QUEUED[1:])
AFTER_TALK = (Heard.PROMPT_ENDED, Heard.FIVE_SECONDS_PASSED)


def moment(day: date, clock: str) -> float:
    """Unix seconds of ``"23:59:30"`` on that day."""
    return datetime.combine(day, time.fromisoformat(clock), ZONE).timestamp()


class Ledger:
    """Rows of calls that are over, and of agents' states."""

    def __init__(self, session: Session, instance: str = "demo") -> None:
        self.session, self.instance = session, instance
        self._states, self._calls = count(1), count(1)

    def steps(self, call_id: str, heard: list[tuple[float, Heard]]) -> State:
        """Transitions at those moments; the state that the call is in then."""
        progress = Progress()
        for n, (at, one) in enumerate(heard):
            was = progress
            progress, actions = step(was, one)
            assert progress is not was or actions, f"{was.state} does not hear {one}"
            self.session.add(
                models.Transition(
                    call_id=call_id, n=n, at=at, state=was.state.name, heard=one.name, next=progress.state.name,
                    actions=" ".join(do.name for do in actions), agent=None,
                )
            )  # fmt: skip
        return progress.state

    def arrives(self, at: float, number: str | None = "15400001001") -> str:
        call_id = f"{self.instance}-{at:.0f}.{next(self._calls)}"
        self.session.add(models.Call(id=call_id, caller_number=number, called_number="12368", at=at))
        self.session.flush()
        return call_id

    def ends(self, call_id: str, at: float, outcome: str, agent: str | None = None, **what: float | None) -> None:
        figures: dict[str, float | None] = {"answered_after_s": 1.0, "wait_s": 0.0, "talk_s": 0.0} | what
        self.session.add(
            models.Ending(
                call_id=call_id, at=at, outcome=outcome, hung_up_by="caller", agent=agent, after_closing_s=None,
                **figures,
            )
        )  # fmt: skip

    def offer(self, call_id: str, n: int, agent: str, *events: tuple[float, str]) -> None:
        for at, event in events:
            self.session.add(models.OfferEvent(call_id=call_id, n=n, event=event, at=at, agent=agent))

    def state(self, agent: str, at: float, was: str, now: str, call_id: str | None = None, *, why: str = "") -> None:
        reason = why or (What.TALK_ENDED if (was, now) == ("talking", "wrap_up") else "")
        self.session.add(
            models.AgentState(
                id=next(self._states), agent=agent, at=at, was=was, now=now, reason=reason, call_id=call_id
            )
        )  # fmt: skip

    def gives_up(self, at: float, wait_s: float) -> str:
        """A caller who hangs up after so long in the queue."""
        call_id, until = self.arrives(at), at + QUEUED_S + wait_s
        self.steps(call_id, [(at + s, heard) for s, heard in QUEUED] + [(until, Heard.HUNG_UP)])
        self.ends(call_id, until, "abandoned", wait_s=wait_s)
        return call_id

    def served(
        self, at: float, agent: str, *, wait_s: float, talk_s: float, wrap_up_s: float, score: int | None = None,
        lawyer: bool = False, answers_s: float = 3.0, result: Result | None = None,
    ) -> str:  # fmt: skip
        """A call by one agent, who is idle before and after: the phone rings `answers_s` before the talk."""
        call_id = self.arrives(at)
        joined = at + QUEUED_S + wait_s
        over, offered = joined + talk_s, joined - min(answers_s, wait_s)
        rated = {None: Heard.NO_ENTRY, 5: Heard.RATED_5, 4: Heard.RATED_4, 3: Heard.RATED_3}[score]
        heard = [(at + s, one) for s, one in (LAWYER_QUEUED if lawyer else QUEUED)]
        heard += [(offered, Heard.AGENT_RESERVED), (joined, Heard.AGENT_ANSWERED), (joined, Heard.WHISPER_ENDED)]
        heard += [(over, Heard.CLOSING_ASKED), (over + 4, rated)]
        heard += [(over + 4 + n, one) for n, one in enumerate(AFTER_TALK, start=1)]
        assert self.steps(call_id, heard) is State.ENDED
        self.offer(call_id, 1, agent, (offered, "offered"), (joined, "answered"), (joined, "joined"))
        self.session.add(
            models.TalkTime(
                call_id=call_id, n=len(heard) - 4, agent=agent, company="caller", at=joined, until=over
            )
        )  # fmt: skip
        self.state(agent, offered, "idle", "reserved", call_id)
        self.state(agent, joined, "reserved", "talking", call_id)
        self.state(agent, over, "talking", "wrap_up")
        self.state(agent, over + wrap_up_s, "wrap_up", "idle")
        if score is not None:
            self.session.add(models.Rating(call_id=call_id, n=len(heard) - 3, at=over + 4, agent=agent, score=score))
        if result is not None:
            self.session.add(disposition_row(call_id, agent, over + 6, Need.TIME, result))
        self.ends(call_id, over + 6, "handled", agent, wait_s=wait_s, talk_s=talk_s)
        return call_id

    def matter(self, call_id: str, at: float, until: float, agent: str | None, case_id: int = 1) -> None:
        self.session.add(row_of(Matter(call_id, at, until, agent, 1, None, case_id, Need.TIME), None))

    def a_day(self, day: date, agents: list[str], calls: int, seed: int) -> None:
        """Calls from 08:00 on, drawn by chance: each agent takes one after the other, one caller in ten gives up."""
        chance = random.Random(seed)
        free = {agent: moment(day, "08:00:00") for agent in agents}
        for agent, at in free.items():
            self.state(agent, at, "signed_out", "idle")
        for _ in range(calls):
            agent = min(free, key=lambda one: free[one])
            at = free[agent] + chance.expovariate(1 / 30)
            if chance.random() < 0.1:
                self.gives_up(at, chance.expovariate(1 / 40))
                continue
            wait_s, talk_s = chance.expovariate(1 / 10), chance.expovariate(1 / 120)
            wrap_up_s = chance.uniform(5, 40)
            self.served(
                at, agent, wait_s=wait_s, talk_s=talk_s, wrap_up_s=wrap_up_s, score=chance.choice([None, 3, 4, 5, 5]),
                lawyer=chance.random() < 0.5, result=chance.choice([None, *Result]),
            )  # fmt: skip
            free[agent] = at + QUEUED_S + wait_s + talk_s + wrap_up_s + 10
        for agent, at in free.items():
            self.state(agent, at, "idle", "signed_out")
