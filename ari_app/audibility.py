"""One-way audio: after each call the recording is asked whether both sides of its talks could be heard.

Asked only once the call is over and its recording is stored, of the worker that sealed it, so that no call waits for
it. The verdict is a row of ``talk_sounds`` (`ari_app.flow.audibility` says how it is come to); the counters follow the
rows. What an earlier controller did not live to judge is judged at the start.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app.errors import StoreUnavailable
from ari_app.flow.audibility import Span, Verdict, held, in_the_recording, verdict, worth_hearing
from ari_app.flow.billing import Company
from ari_app.flow.sop import ROLES, Heard
from ari_app.ledger import AgentChange, Ledger
from ari_app.store import models
from metrics.hotline import HotlineMetrics, ServedLine, Side
from recordings.levels import Loudness, Unreadable
from recordings.stores import StoreError
from recordings.worker import WorkerDied

log = logging.getLogger("sanling.audibility")

EVERY_S = 5.0
"""A call's end and its recording are told apart from each other; and several calls are one question."""
LOOKS_BACK_S = 86_400.0
"""What is older when a controller starts stays unjudged."""
ASKED_AT_ONCE = 500
WITH_THE_CALLER = (Company.CALLER.value, Company.BOTH.value)
TRANSFERS = {
    Heard.TRANSFER_TO_PARTY_LINE: "party",
    Heard.TRANSFER_TO_LAWYER_LINE: "lawyer",
    Heard.TRANSFER_TO_SECOND_LINE: "second_line",
}
LINE_SAID = {heard.name: role.value for heard, role in ROLES.items()} | {
    heard.name: line for heard, line in TRANSFERS.items()
}
"""What is heard in a call that says, from then on, which line serves it."""


class Tapes(Protocol):
    async def loudness(self, call_id: str, spans: Sequence[Span]) -> Loudness:
        """Raises StoreError, Unreadable, WorkerDied."""


@dataclass(frozen=True)
class Talk:
    """One agent's part in a call; `spans` are seconds of the call's recording."""

    call_id: str
    agent: str
    line: str
    spans: tuple[Span, ...]


class Audibility:
    """To be made before the first call ends: it hears of each row as it is written."""

    def __init__(
        self, ledger: Ledger, metrics: HotlineMetrics, tapes: Tapes, clock: Callable[[], float], instance: str
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._tapes = tapes
        self._clock = clock
        self._instance = instance
        self._waiting: set[str] = set()
        ledger.watch(self._hear)

    def _hear(self, row: models.Table | AgentChange) -> None:
        match row:
            case models.Recording(call_id=call_id):
                self._waiting.add(call_id)
            case models.Ending(call_id=call_id, talk_s=talk_s) if talk_s > 0:
                self._waiting.add(call_id)

    async def run(self) -> None:
        """Until cancelled."""
        looked_back = False
        while True:
            try:
                if not looked_back:
                    since = self._clock() - LOOKS_BACK_S
                    self._waiting |= await self._ledger.ask(partial(unjudged, instance=self._instance, since=since))
                    looked_back = True
                await self.judge_all()
            except StoreUnavailable:  # what waits is judged when it is back
                pass
            except Exception:  # a figure is not worth a call
                log.exception("whether callers and agents were heard could not be judged")
            await asyncio.sleep(EVERY_S)

    async def judge_all(self) -> None:
        """Judges the talks of which ledger and recording are complete. Raises StoreUnavailable."""
        waiting, self._waiting = self._waiting, set()
        try:
            while waiting:
                some = sorted(waiting)[:ASKED_AT_ONCE]
                for talk in await self._ledger.ask(partial(talks, call_ids=some)):
                    await self._judge(talk)
                waiting.difference_update(some)
        finally:
            self._waiting |= waiting

    async def _judge(self, talk: Talk) -> None:
        found = Verdict(0.0, None, None)
        if talk.spans:
            try:
                loud = await self._tapes.loudness(talk.call_id, talk.spans)
            except (StoreError, Unreadable, WorkerDied, OSError) as error:
                log.warning("call %s: not known whether both sides were heard: %s", talk.call_id, error)
                return
            found = verdict(loud.seconds, loud.said_db, loud.heard_db)
        self._ledger.write(
            models.TalkSound(
                call_id=talk.call_id, agent=talk.agent, at=self._clock(), line=talk.line, seconds=found.seconds,
                caller_db=found.caller_db, agent_db=found.agent_db, unheard=found.unheard.value,
            )
        )  # fmt: skip
        line = cast(ServedLine, talk.line)
        if found.judged:
            self._metrics.talk_judged(line)
        for side in found.unheard.sides:
            self._metrics.one_way_audio(cast(Side, side), line)
            log.warning("call %s: nothing was heard of the %s in %.0f s of the talk with agent %s (%s)",
                        talk.call_id, side, found.seconds, talk.agent, talk.line)  # fmt: skip


# ---------------------------------------------------------------- from the ledger


@dataclass
class _Rows:
    """Of one call, in order."""

    talks: list[Any] = field(default_factory=list)
    holds: list[Any] = field(default_factory=list)
    prompts: list[Any] = field(default_factory=list)
    lines: list[tuple[float, str]] = field(default_factory=list)


def unjudged(session: Session, instance: str, since: float) -> set[str]:
    """Calls of `instance` in which an agent had the caller `since` then, and that are over and not judged yet."""
    talk, sound = models.TalkTime, models.TalkSound
    asked = (
        select(talk.call_id)
        .distinct()
        .join(models.Ending, models.Ending.call_id == talk.call_id)
        .outerjoin(sound, (sound.call_id == talk.call_id) & (sound.agent == talk.agent))
        .where(
            talk.at >= since, talk.company == Company.CALLER.value, sound.call_id.is_(None),
            talk.call_id.startswith(f"{instance}-", autoescape=True),
        )
    )  # fmt: skip
    return set(session.scalars(asked))


def talks(session: Session, call_ids: Collection[str]) -> list[Talk]:
    """Of those of `call_ids` that are over and whose recording is stored: each agent's talk that is not judged yet."""
    calls = session.execute(
        select(models.Call, models.Ending, models.Recording.seconds, models.OutboundCall.role)
        .join(models.Ending, models.Ending.call_id == models.Call.id)
        .join(models.Recording, models.Recording.call_id == models.Call.id)
        .outerjoin(models.OutboundCall, models.OutboundCall.call_id == models.Call.id)
        .where(models.Call.id.in_(call_ids), models.Recording.store == "local")
    ).all()
    if not calls:
        return []
    of: defaultdict[str, _Rows] = defaultdict(_Rows)

    def rows(model: Any, *where: Any) -> Iterable[Any]:
        return session.scalars(select(model).where(model.call_id.in_([call.id for call, *_ in calls]), *where))

    for talk in rows(models.TalkTime):
        of[talk.call_id].talks.append(talk)
    for hold in rows(models.Hold):
        of[hold.call_id].holds.append(hold)
    for prompt in rows(models.PromptHeard, models.PromptHeard.side != "agent"):
        of[prompt.call_id].prompts.append(prompt)
    for step in rows(models.Transition, models.Transition.heard.in_(LINE_SAID)):
        of[step.call_id].lines.append((step.at, LINE_SAID[step.heard]))
    judged = {(sound.call_id, sound.agent) for sound in rows(models.TalkSound)}
    return [
        talk
        for call, ending, seconds, placed_for in calls
        for talk in _talks(call, ending, seconds, placed_for, of[call.id])
        if (talk.call_id, talk.agent) not in judged
    ]


def _talks(
    call: models.Call, ending: models.Ending, seconds: float, placed_for: str | None, rows: _Rows
) -> Iterable[Talk]:
    begins = ending.at - seconds
    if placed_for is None and ending.answered_after_s is not None:  # a call that we place begins with ringing
        begins = call.at + ending.answered_after_s
    presses = sorted((row.at, row.who, row.began) for row in rows.holds)
    silent = held(presses, ending.at) + [(row.at, row.at + row.seconds) for row in rows.prompts]
    for agent in dict.fromkeys(row.agent for row in sorted(rows.talks, key=lambda row: row.n)):
        stretches = sorted((row.at, row.until, row.company) for row in rows.talks if row.agent == agent)
        if any(company == Company.CALLER for _, _, company in stretches):
            together = [(at, until) for at, until, company in stretches if company in WITH_THE_CALLER]
            said = [(0.0, "lawyer" if placed_for == "lawyer" else "party"), *sorted(rows.lines)]
            line = [line for at, line in said if at <= together[0][0]][-1]
            consulted = stretches[0][2] != Company.CALLER
            spans = in_the_recording(worth_hearing(together, silent), begins, ending.at, seconds)
            yield Talk(call.id, agent, "second_line" if consulted else line, tuple(spans))
