"""Asks the ledger, the counters and Asterisk every minute whether they tell of the same calls (``metrics.drift``)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app.errors import StoreUnavailable
from ari_app.ledger import AgentChange, Ledger
from ari_app.store import models
from ari_app.store.models import Ending, OutboundCall
from metrics.drift import Accounts, Disagreement, Records
from metrics.hotline import HotlineMetrics

log = logging.getLogger("sanling.drift")

EVERY_S = 60.0
ASKED_AT_ONCE = 500


@dataclass(frozen=True)
class Ended:
    """A call that came in, as the ledger has its end."""

    outcome: str
    has_record: bool
    """Not if Asterisk died under it."""


class Drift:
    """From here on. To be made before the first call ends: it hears of each row as it is written."""

    def __init__(self, ledger: Ledger, metrics: HotlineMetrics, records: Path) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._records = Records(records)
        self._accounts = Accounts(self._now())
        self._written: set[str] = set()
        self._said: set[str] = set()
        ledger.watch(self._hear)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _hear(self, row: models.Table | AgentChange) -> None:
        if isinstance(row, Ending):
            self._written.add(row.call_id)

    async def run(self) -> None:
        """Until cancelled."""
        has_looked_back = False
        try:
            while True:
                try:
                    if has_looked_back:
                        self._tell(await self.look())
                    else:
                        self._accounts.asterisk_had(await asyncio.to_thread(self._records.earlier), self._now())
                        has_looked_back = True
                except StoreUnavailable:  # its rows come later, and are compared then
                    pass
                except Exception:  # a comparison is not worth a call
                    log.exception("the accounts of the ended calls could not be compared")
                await asyncio.sleep(EVERY_S)
        finally:
            self._records.close()

    async def look(self) -> Disagreement:
        """What does not meet now. Raises StoreUnavailable."""
        written, counted = self._written, self._metrics.calls_ended()
        self._written = set()
        try:
            ended = await self._ended(written)
        except BaseException:
            self._written |= written
            raise
        now = self._now()
        self._accounts.ledger_has(
            {call_id: end.outcome for call_id, end in ended.items()}, now,
            without_record={call_id for call_id, end in ended.items() if not end.has_record},
        )  # fmt: skip
        self._accounts.asterisk_has(await asyncio.to_thread(self._records.new), now)
        self._accounts.ledger_had(await self._ended(self._accounts.unknown_to_ledger), now)
        return self._accounts.disagreement(counted, now)

    async def _ended(self, call_ids: Collection[str]) -> dict[str, Ended]:
        found: dict[str, Ended] = {}
        asked = sorted(call_ids)
        for first in range(0, len(asked), ASKED_AT_ONCE):
            some = asked[first : first + ASKED_AT_ONCE]
            found |= await self._ledger.ask(partial(ended, call_ids=some))
        return found

    def _tell(self, found: Disagreement) -> None:
        self._metrics.drift("ledger_and_metrics", found.ledger_and_metrics)
        self._metrics.drift("ledger_and_cdr", found.ledger_and_cdr)
        said = {
            *(f"calls counted as {outcome}, more than the ledger has: {n}"
              for outcome, n in found.counted_too_many.items()),
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
