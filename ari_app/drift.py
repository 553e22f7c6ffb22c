"""Asks the ledger, the counters and Asterisk every minute whether they tell of the same calls (``metrics.drift``)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from ari_app.errors import StoreUnavailable
from ari_app.flow.billing import Company
from ari_app.ledger import AgentChange, Ledger
from ari_app.store import models
from ari_app.store.models import Ending, OfferEvent, OutboundCall, TalkTime
from ari_app.talk import OFFER_ENDED
from metrics.drift import REMEMBERED_S, Accounts, Disagreement, Record, Records, Tally, differing
from metrics.hotline import HotlineMetrics
from recordings.capture import began_at

log = logging.getLogger("sanling.drift")

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

EVERY_S = 60.0
ASKED_AT_ONCE = 500
LOOKS_BACK_S = 86400.0
"""At the start, over records of calls that came since."""
OUTCOMES = {"joined": "answered", "caller_left": "caller_left"} | {end: end for end in OFFER_ENDED.values()}
"""As what an offer is counted, by the row that ends it."""
WITH_CALLER = (Company.CALLER.value, Company.BOTH.value)


@dataclass(frozen=True)
class Ended:
    """A call that came in, as the ledger has its end."""

    outcome: str
    has_record: bool
    """Not if Asterisk died under it."""


@dataclass
class Written:
    """Rows that were written and not looked for yet, by what names them."""

    calls: set[str] = field(default_factory=set)
    offers: set[tuple[str, int, str]] = field(default_factory=set)
    """Call, number, event."""
    talks: set[tuple[str, str]] = field(default_factory=set)
    """Call, agent."""

    def update(self, other: Written) -> None:
        self.calls |= other.calls
        self.offers |= other.offers
        self.talks |= other.talks


class Drift:
    """From here on. To be made before the first call ends: it hears of each row as it is written. `clock`: Unix
    seconds.
    """

    def __init__(
        self, ledger: Ledger, metrics: HotlineMetrics, records: Path, clock: Callable[[], float] = time.time
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._records = Records(records)
        self._clock = clock
        self._accounts = Accounts(self._now())
        self._offers, self._talks = Tally(self._now()), Tally(self._now())
        self._written = Written()
        self._said: set[str] = set()
        ledger.watch(self._hear)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _hear(self, row: models.Table | AgentChange) -> None:
        match row:
            case Ending():
                self._written.calls.add(row.call_id)
            case OfferEvent() if row.event in OUTCOMES:
                self._written.offers.add((row.call_id, row.n, row.event))
            case TalkTime() if row.company in WITH_CALLER:
                self._written.talks.add((row.call_id, row.agent))

    async def run(self) -> None:
        """Until cancelled."""
        has_looked_back = False
        try:
            while True:
                try:
                    if has_looked_back:
                        self._tell(await self.look())
                    else:
                        await self.look_back()
                        has_looked_back = True
                except StoreUnavailable:  # its rows come later, and are compared then
                    pass
                except Exception:  # a comparison is not worth a call
                    log.exception("the accounts of the ended calls could not be compared")
                await asyncio.sleep(EVERY_S)
        finally:
            self._records.close()

    async def look_back(self) -> None:
        """Over the records that are there at the start. A caller who came when no controller ran, or went with the last
        one, must be in the ledger by now or soon; what was missing an hour before the last call that a controller
        served, that one has told of. Raises StoreUnavailable, OSError.
        """
        records = await asyncio.to_thread(self._records.earlier)
        came = {one: at for one in records if one.is_a_caller and (at := _came_at(one)) >= self._clock() - LOOKS_BACK_S}
        known = await self._asked(ended, {one.call_id for one in came})
        served = {call_id for call_id, end in known.items() if end.outcome != "fallback"}
        since = max((at for one, at in came.items() if one.call_id in served), default=0.0) - REMEMBERED_S
        now = self._now()
        self._accounts.asterisk_had(records, now)
        self._accounts.ledger_had(known, now)
        self._accounts.asterisk_has([one for one, at in came.items() if at >= since], now)

    async def look(self) -> Disagreement:
        """What does not meet now. Raises StoreUnavailable."""
        written, self._written = self._written, Written()
        calls, offers, talks = self._metrics.calls_ended(), self._metrics.offers_ended(), self._metrics.talks()
        try:
            over = await self._asked(ended, written.calls)
            offered = await self._asked(offers_ended, {call_id for call_id, _, _ in written.offers})
            talked = await self._asked(talks_held, {call_id for call_id, _ in written.talks})
        except BaseException:
            self._written.update(written)
            raise
        now = self._now()
        self._accounts.ledger_has(
            {call_id: end.outcome for call_id, end in over.items()}, now,
            without_record={call_id for call_id, end in over.items() if not end.has_record},
        )  # fmt: skip
        self._offers.ledger_has(_among(written.offers, offered), now)
        self._talks.ledger_has(_among(written.talks, talked), now)
        self._accounts.asterisk_has(await asyncio.to_thread(self._records.new), now)
        self._accounts.ledger_had(await self._asked(ended, self._accounts.unknown_to_ledger), now)
        return replace(
            self._accounts.disagreement(calls, now),
            offers_too_many=self._offers.too_many(offers, now),
            talks_too_many=self._talks.too_many(talks, now),
        )

    async def _asked(
        self, question: Callable[[Session, Collection[str]], Mapping[K, V]], call_ids: Collection[str]
    ) -> dict[K, V]:
        def answer(some: list[str], session: Session) -> Mapping[K, V]:
            return question(session, some)

        found: dict[K, V] = {}
        asked = sorted(call_ids)
        for first in range(0, len(asked), ASKED_AT_ONCE):
            some = asked[first : first + ASKED_AT_ONCE]
            found |= await self._ledger.ask(partial(answer, some))
        return found

    def _tell(self, found: Disagreement) -> None:
        self._metrics.drift("ledger_and_metrics", "ended", found.ledger_and_metrics)
        self._metrics.drift("ledger_and_metrics", "offered", differing(found.offers_too_many))
        self._metrics.drift("ledger_and_metrics", "talked", differing(found.talks_too_many))
        self._metrics.drift("ledger_and_cdr", "ended", found.ledger_and_cdr)
        said = {
            *(f"calls counted as {outcome}, more than the ledger has: {n}"
              for outcome, n in found.counted_too_many.items()),
            *(f"offers counted as {outcome}, more than the ledger has: {n}"
              for outcome, n in found.offers_too_many.items()),
            *(f"calls in which agent {agent} talked counted, more than the ledger has: {n}"
              for agent, n in found.talks_too_many.items()),
            *(f"call {call_id}: Asterisk had it, the ledger does not know it" for call_id in found.not_in_ledger),
            *(f"call {call_id}: in the ledger, and Asterisk has no record of it" for call_id in found.not_in_asterisk),
        }  # fmt: skip
        for line in sorted(said - self._said):
            log.error("%s", line)
        self._said = said


def ended(session: Session, call_ids: Collection[str]) -> dict[str, Ended]:
    """Those of `call_ids` that came in and are over."""
    rows = session.execute(
        select(Ending.call_id, Ending.outcome, Ending.hung_up_by).where(
            Ending.call_id.in_(call_ids), Ending.call_id.not_in(select(OutboundCall.call_id))
        )
    )
    return {row.call_id: Ended(row.outcome, row.hung_up_by != "line") for row in rows}


def offers_ended(session: Session, call_ids: Collection[str]) -> dict[tuple[str, int, str], str]:
    """The offers of these calls that are over: as what each is counted. A leader who takes a call over was not offered
    it.
    """
    offered = aliased(OfferEvent)
    rows = session.execute(
        select(OfferEvent.call_id, OfferEvent.n, OfferEvent.event)
        .join(offered, (offered.call_id == OfferEvent.call_id) & (offered.n == OfferEvent.n))
        .where(OfferEvent.call_id.in_(call_ids), OfferEvent.event.in_(OUTCOMES), offered.event == "offered")
    )
    return {(row.call_id, row.n, row.event): OUTCOMES[row.event] for row in rows}


def talks_held(session: Session, call_ids: Collection[str]) -> dict[tuple[str, str], str]:
    """In which of these calls which agents talked with the caller."""
    rows = session.execute(
        select(TalkTime.call_id, TalkTime.agent)
        .where(TalkTime.call_id.in_(call_ids), TalkTime.company.in_(WITH_CALLER))
        .distinct()
    )
    return {(row.call_id, row.agent): row.agent for row in rows}


def _among(written: Collection[K], found: Mapping[K, str]) -> dict[K, str]:
    """Of what was found, what was written here."""
    return {one: kind for one, kind in found.items() if one in written}


def _came_at(record: Record) -> float:
    """Unix seconds at which a caller's channel was made; 0 if its id does not tell."""
    began = began_at(record.call_id)
    return began.timestamp() if began is not None else 0.0
