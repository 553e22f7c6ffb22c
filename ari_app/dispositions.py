"""What a call was about and what came of it, keyed by its agent in wrap-up: ``*17``, the need, the result. CRM-7.

``*1711``: a milestone, answered on the spot; ``*1742``: something pressing, for which a work order is opened. Keyed
again it is a row more, and the last one counts; an order once opened stays, until somebody closes it.
"""

from __future__ import annotations

import logging

from ari_app import orders, outcomes
from ari_app.features import Feature, FeatureCall, Said
from ari_app.flow.duty import Duty
from ari_app.flow.identity import Role
from ari_app.line import Hotline

log = logging.getLogger("sanling.dispositions")

HOUR_S = 3600.0


class Dispositions:
    """Of all agents of a house."""

    def __init__(self, house: Hotline) -> None:
        self._house = house
        self.features = {"*17": Feature(self.dispose)}

    async def dispose(self, phone: FeatureCall, keys: str) -> Said:
        """Raises FeatureRefused if nobody is at the phone, StoreUnavailable if the call cannot be looked up."""
        agent = await phone.whoever_is_here()
        keyed = outcomes.disposition(keys)
        if keyed is None:
            return ("disposition-codes",)
        now = self._house.desk.agent(agent)
        if now is None or now.duty is not Duty.WRAP_UP:
            return ("nothing-to-dispose",)
        handled = await self._house.ledger.ask(lambda session: outcomes.last_handled(session, agent))
        if handled is None:
            return ("nothing-to-dispose",)
        need, result = keyed
        at = self._house.clock()
        self._house.ledger.write(outcomes.disposition_row(handled.call_id, agent, at, need, result))
        opens = result is outcomes.Result.WORK_ORDER
        self._house.metrics.disposed(outcomes.label_of(need), "work_order" if opens else "on_the_spot")
        if opens:
            person = handled.person
            orders.open_order(
                self._house.ledger, kind=orders.Kind.DISPOSITION, at=at,
                due_at=at + self._house.desk.rules.now.disposition.due_h * HOUR_S,
                must_answer="lawyer" if person is not None and person.role is Role.LAWYER else "party",
                call_id=handled.call_id, name=f"disposition-{agent}", person=person,
                case_id=person.case_id if person is not None else None, need=need, opened_by=agent,
            )  # fmt: skip
        log.info("call %s: agent %s says %s, %s", handled.call_id, agent, need.name.lower(), result.value)
        return ("disposition-noted",)
