"""The floor as the API shows it and acts upon it: what it may look at, what it may do, what is written down of it.

The parts of the controller live on the controller's event loop. A request may be served on another one: whatever
touches a part goes through ``Floor.inside`` and takes its answer away as plain values, so that nothing a request does
can stall a call.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import secrets
import signal
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from ari_app import ledger, orders, supervision
from ari_app.api import shapes
from ari_app.api.access import Act, Holder, Reach, Role
from ari_app.api.happenings import Happenings
from ari_app.call import Call
from ari_app.cases import can_be_called, normalise_number
from ari_app.desk import Duty, FeatureRefused, WhoWaits
from ari_app.errors import SanlingError
from ari_app.flow import identity
from ari_app.flow import leading as law
from ari_app.flow.callbacks import Wish
from ari_app.flow.measures import SERVICE_WITHIN_S, SHORT_ABANDON_S
from ari_app.leading import Leading
from ari_app.line import Hotline
from ari_app.outbound import CaseCalls
from ari_app.privacy import mask
from ari_app.processes import signal_to
from ari_app.store import models

log = logging.getLogger("sanling.api")
T = TypeVar("T")

INSIDE_WITHIN_S = 5.0
"""What the controller has not done by then is reported as not known."""
FIGURES_KEPT_S = 2.0
"""Today's figures are not counted anew more often, however many boards ask."""

REFUSED = {
    "agent-busy": "The agent is on a call: wait until it has ended.",
    "agent-not-signed-in": "The agent is not signed in: the agent dials *11 first.",
    "agent-not-wrapping-up": "The agent is not in wrap-up.",
    "agent-pause-unknown": "There is no such pause code: desk.toml has those there are.",
    "agent-phone-taken": "That phone is in use by another agent.",
    "outbound-no-case": "No case is known for certain, or it has no number that we call.",
    "outbound-unreachable": "No calls go out: trunk.outbound is not set in hotline.toml.",
    "outbound-not-now": "It is too early or too late to call anybody: desk.toml has the hours.",
    "fallback-agent": "The hotline is being drained: it places no calls any more.",
    "leading-not-allowed": "The agent who acts may not: `sanling agents role` says who is leader, mentor, inspector.",
    "leading-no-such-agent": "There is no such agent.",
    "leading-agent-on-call": "The agent is on a call: wait until it has ended.",
    "leading-agent-signed-out": "The agent is not signed in.",
    "leading-not-talking": "The agent does not talk with a caller now.",
    "leading-nobody-waits": "That is no caller who waits on the line, or an agent is being rung for it.",
}


class NotThere(SanlingError):
    """What was asked for does not exist, or is not the asker's."""


class NotNow(SanlingError):
    """It exists, but cannot be done as things stand; the message says why."""


class NotAllowed(SanlingError):
    """The token's role may not."""


@dataclass
class Floor:
    house: Hotline
    calls: Callable[[], Collection[Call]]
    """Those in progress."""
    read: Callable[[Callable[[Session], Any]], Awaitable[Any]]
    """Asks the database, on no thread that a call waits for. Raises StoreUnavailable."""
    leading: Leading
    case_calls: CaseCalls
    happenings: Happenings
    loop: asyncio.AbstractEventLoop
    """The controller's."""
    _figures: tuple[float, shapes.Figures] | None = field(default=None, init=False)
    _counting: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def inside(self, work: Coroutine[Any, Any, T]) -> T:
        """Does `work` on the controller's loop. Raises TimeoutError if that takes more than 5 s."""
        async with asyncio.timeout(INSIDE_WITHIN_S):
            if asyncio.get_running_loop() is self.loop:
                return await work
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    async def look(self, question: Callable[[], T]) -> T:
        """The answer of `question`, asked on the controller's loop; it must be quick."""

        async def ask() -> T:
            return question()

        return await self.inside(ask())

    # ------------------------------------------------------------ looking

    async def agents(self, holder: Holder) -> list[shapes.Agent]:
        own = holder.agent if holder.reach(Act.SEE_AGENTS) is Reach.OWN else None
        named = holder.reach(Act.SEE_AGENTS) in (Reach.ALL, Reach.OWN)
        return await self.look(lambda: [one for one in self._agents(named) if own in (None, one.number)])

    async def agent(self, holder: Holder, number: str) -> shapes.Agent:
        for one in await self.agents(holder):
            if one.number == number:
                return one
        raise NotThere(f"There is no agent {number}, or it is not yours to see.")

    def _agents(self, named: bool) -> list[shapes.Agent]:
        now, rules = self.house.clock(), self.house.desk.rules.now
        return [
            shapes.Agent(
                number=one.number,
                name=one.name if named else None,
                state=one.duty.value,
                since=one.since,
                for_s=max(now - one.since, 0.0) if one.since else 0.0,
                call=one.call_id,
                wrap_up_until=one.wrap_up_until,
                phone=one.phone,
                pause_code=one.pause_code,
                pause_name=pause.name if (pause := rules.pause(one.pause_code)) else None,
            )
            for one in sorted(self.house.desk.agents(), key=lambda one: one.number)
        ]

    async def queue(self, holder: Holder) -> list[shapes.Waiting]:
        reach = holder.reach(Act.SEE_QUEUE)
        return await self.look(lambda: self._queue(reach))

    def _queue(self, reach: Reach) -> list[shapes.Waiting]:
        now, desk = self.house.clock(), self.house.desk
        on_the_line = {call.id: call for call in self.calls()}
        found = []
        for place in desk.in_line():
            waits = place.call
            call = on_the_line.get(waits.call_id.partition("~")[0])
            second = place.who is WhoWaits.SECOND_LINE
            offer = (call.talk.second if second else call.talk.offer) if call else None
            found.append(
                shapes.Waiting(
                    call=waits.call_id,
                    kind=place.who.value,
                    caller=shown(call.number, reach) if call else None,
                    position=desk.position(waits.call_id),
                    line=waits.wants.line,
                    line_name=getattr(desk.rules.now.lines, waits.wants.line).name,
                    priority=waits.wants.priority,
                    since=waits.since,
                    waited_s=max(now - waits.since, 0.0),
                    expected_wait_s=desk.expected_wait_s(waits.call_id),
                    need=waits.wants.need,
                    verified=call is not None and call.progress.verified,
                    offered_to=offer.agent if offer else None,
                )
            )
        return found

    async def in_progress(self, holder: Holder) -> list[shapes.LiveCall]:
        reach = holder.reach(Act.SEE_CALLS)

        def read() -> list[shapes.LiveCall]:
            mine = [call for call in self.calls() if reach is not Reach.OWN or agent_of(call) == holder.agent]
            return [self._live(call, reach) for call in sorted(mine, key=lambda call: call.began)]

        return await self.look(read)

    def _live(self, call: Call, reach: Reach) -> shapes.LiveCall:
        state = call.progress.state
        return shapes.LiveCall(
            id=call.id, at=call.began, caller=shown(call.number, reach), state=state.name, state_zh=state.value,
            state_since=call.story.state_since, agent=agent_of(call), need=need_of(call),
            verified=call.progress.verified,
        )  # fmt: skip

    async def call(self, holder: Holder, id: str) -> shapes.PastCall:
        """A call in progress or past, with its steps. Raises NotThere, StoreUnavailable."""
        reach = holder.reach(Act.SEE_CALLS)

        def read(session: Session) -> shapes.PastCall | None:
            call, ending = session.get(models.Call, id), session.get(models.Ending, id)
            if call is None:
                return None
            steps = [shapes.Step(at=one.at, kind=one.kind, text=one.text) for one in ledger.timeline(session, id)]
            agents = set(
                session.scalars(
                    select(models.OfferEvent.agent).where(
                        models.OfferEvent.call_id == id, models.OfferEvent.event == "joined"
                    )
                )
            )
            if reach is Reach.OWN and holder.agent not in agents:
                return None
            return shapes.PastCall(
                id=id, at=call.at, caller=shown(call.caller_number, reach), called=call.called_number,
                in_progress=ending is None, agents=sorted(agents), steps=steps,
                ending=None if ending is None else shapes.Ending.of(ending),
            )  # fmt: skip

        found: shapes.PastCall | None = await self.read(read)
        if found is None:
            raise NotThere(f"There is no call {id}, or it is not yours to see.")
        return found

    async def callbacks(self, holder: Holder) -> list[shapes.Callback]:
        reach = holder.reach(Act.SEE_CALLBACKS)
        return await self.look(lambda: [callback(one, reach) for one in self.house.callbacks.all()])

    async def listening(self) -> list[shapes.Listening]:
        def read() -> list[shapes.Listening]:
            return [
                shapes.Listening(
                    session=one.session, leader=one.who, agent=one.whom, act=one.act.value, since=one.since,
                    call=one.call_id,
                )
                for one in self.leading.sessions()
            ]  # fmt: skip

        return await self.look(read)

    async def orders(self, holder: Holder, *, closed: bool) -> list[shapes.Order]:
        reach = holder.reach(Act.SEE_ORDERS)
        own = holder.agent if reach is Reach.OWN else None

        def read(session: Session) -> list[shapes.Order]:
            return [
                shapes.Order.of(one, self.house.clock(), shown(one.caller, reach))
                for one in orders.orders(session, open_only=not closed)
                if own in (None, one.must_answer, one.opened_by)
            ]

        found: list[shapes.Order] = await self.read(read)
        return found

    async def audit(self, holder: Holder, last: int) -> list[shapes.AuditRow]:
        def read(session: Session) -> list[shapes.AuditRow]:
            asked = select(models.Audit).order_by(models.Audit.at.desc(), models.Audit.id).limit(last)
            rows = [
                shapes.AuditRow(
                    at=one.at, by=one.by, role=one.role, act=one.act, agent=one.agent, call=one.call_id,
                    detail=one.detail, result=one.result,
                )
                for one in session.scalars(asked)
            ]  # fmt: skip
            return sorted([*rows, *led(session, last)], key=lambda row: row.at, reverse=True)[:last]

        found: list[shapes.AuditRow] = await self.read(read)
        return found

    async def board(self, holder: Holder) -> shapes.Board:
        """Everything a wallboard shows, of one moment; `last_event` is where to go on listening."""
        reach = holder.reach(Act.SEE_BOARD)
        figures = await self._today()

        def read() -> shapes.Board:
            agents = self._agents(named=reach is Reach.ALL)
            states = [one.state for one in agents]
            return shapes.Board(
                at=self.house.clock(),
                last_event=self.happenings.last_id,
                linked=self.house.linked.is_set(),
                agents=agents,
                agents_by_state={duty.value: states.count(duty.value) for duty in Duty},
                waiting=self._queue(reach),
                calls=[self._live(call, reach) for call in sorted(self.calls(), key=lambda call: call.began)],
                today=figures,
            )

        return await self.look(read)

    async def _today(self) -> shapes.Figures:
        async with self._counting:
            now = self.house.clock()
            if self._figures is None or not 0 <= now - self._figures[0] < FIGURES_KEPT_S:
                zone = self.house.settings.zone
                midnight = dt.datetime.fromtimestamp(now, zone).replace(hour=0, minute=0, second=0, microsecond=0)
                counted = await self.read(lambda session: figures(session, midnight.timestamp()))
                self._figures = (now, counted)
            return self._figures[1]

    # ------------------------------------------------------------ acting

    async def deny(self, holder: Holder, act: Act) -> None:
        """Writes down that `holder` wanted to and may not. Raises NotAllowed."""

        async def nothing() -> None:
            return None

        await self.act(holder, act, nothing)

    async def act(
        self,
        holder: Holder,
        act: Act,
        work: Callable[[], Coroutine[Any, Any, T]],
        *,
        agent: str | None = None,
        call: str | None = None,
        detail: str = "",
    ) -> T:
        """Does `work` on the controller's loop if `holder` may, and writes into the audit what became of it.

        `agent`: whom it concerns. Raises NotAllowed, NotNow, and what `work` raises.
        """

        async def audited() -> T:
            result = "done"
            try:
                reach = holder.reach(act)
                if reach is Reach.NONE or (reach is Reach.OWN and agent != holder.agent):
                    raise NotAllowed(denied(holder, act))
                return await work()
            except FeatureRefused as error:
                result = f"refused: {error.prompt}"
                raise NotNow(REFUSED.get(error.prompt, f"It was refused: {error.prompt}.")) from error
            except SanlingError as error:
                result = f"refused: {type(error).__name__}"
                raise
            except BaseException as error:
                result = f"failed: {type(error).__name__}"
                raise
            finally:
                log.info("%s (%s): %s of agent %s, call %s: %s", holder.name, holder.role, act, agent, call, result)
                self.house.ledger.write(
                    models.Audit(
                        id=secrets.token_hex(16), at=self.house.clock(), by=holder.name, role=holder.role.value,
                        act=act.value, agent=agent, call_id=call, detail=detail, result=result,
                    )
                )  # fmt: skip

        return await self.inside(audited())

    async def of_agent(
        self, holder: Holder, act: Act, number: str, work: Callable[[], Coroutine[Any, Any, object]], detail: str = ""
    ) -> shapes.Agent:
        """Does `work` to agent `number`, who is there; the agent as he or she is then."""

        async def known() -> None:
            if not await self.house.desk.knows(number):
                raise NotThere(f"There is no agent {number}.")
            await work()

        await self.act(holder, act, known, agent=number, detail=detail)
        return await self.agent(holder, number)

    async def add_callback(self, holder: Holder, number: str, window: str) -> shapes.Callback:
        """Raises NotAllowed, NotNow: it is no number to call, or is to be called back already."""
        wanted, calling_back = normalise_number(number), self.house.callbacks
        id = f"{self.house.settings.instance}-api-{secrets.token_hex(6)}"

        async def work() -> shapes.Callback:
            if wanted is None or not can_be_called(wanted):
                raise NotNow("That is no number we call: give a mobile number, or a landline's with its area code.")
            if calling_back.open_for(wanted) is not None:
                raise NotNow("That number is to be called back already.")
            row = models.Callback(id=id, at=self.house.clock(), number=wanted, reason="asked", window=window)
            wish = calling_back.asked(row)
            if wish is None:
                raise NotNow("That number is to be called back already.")
            return callback(wish, Reach.ALL)

        return await self.act(holder, Act.ADD_CALLBACK, work, call=id, detail=window)

    async def cancel_callback(self, holder: Holder, id: str) -> None:
        """Raises NotAllowed, NotThere, NotNow: it is being tried."""

        async def work() -> None:
            if id not in {one.id for one in self.house.callbacks.all()}:
                raise NotThere(f"There is no open callback {id}.")
            if not self.house.callbacks.cancel(id):
                raise NotNow("It is being tried at this moment, or the person has called in.")

        await self.act(holder, Act.CANCEL_CALLBACK, work, call=id)

    async def call_out(self, holder: Holder, agent: str, whom: str, case_id: int | None) -> str:
        """Has `agent` call a side of a case; the call's id. Raises NotAllowed, NotThere, NotNow, StoreUnavailable."""

        async def work() -> str:
            if case_id is not None and holder.role is Role.AGENT:
                raise NotAllowed("An agent calls the case of the own last talk: leave `case` out.")
            if not await self.house.desk.knows(agent):
                raise NotThere(f"There is no agent {agent}.")
            return await self.case_calls.order(agent, identity.Role(whom), case_id=case_id)

        return await self.act(holder, Act.CALL_OUT, work, agent=agent, detail=f"{whom} {case_id or ''}".strip())

    async def lead(
        self, holder: Holder, act: Act, order: law.Order, leader: str | None, call: str | None = None
    ) -> str:
        """A leader's order: of those that need the leader's phone it rings, and the session's name is returned; the
        others are done at once. Raises NotAllowed, NotNow.
        """

        async def work() -> str:
            if holder.agent is not None and leader not in (None, holder.agent):
                raise NotAllowed(f"This token is agent {holder.agent}'s: it cannot act as {leader}.")
            who = holder.agent or leader
            if who is None:
                raise NotNow("Say as which leader: this token is nobody's own. Give `leader`, an agent number.")
            if order.act in (law.Act.PULL, law.Act.MOVE):
                await self.leading.order(who, order, call_id=call)
                return ""
            return await self.leading.ring(who, order)

        return await self.act(holder, act, work, agent=order.whom, call=call, detail=leader or holder.agent or "")

    async def close_order(self, holder: Holder, id: str, note: str) -> shapes.Order:
        """Raises NotThere, NotNow, NotAllowed, StoreUnavailable."""
        now = self.house.clock()

        def find(session: Session) -> orders.Order | None:
            return next((one for one in orders.orders(session, open_only=False) if one.id == id), None)

        def close(session: Session) -> None:
            orders.change(session, id, orders.Standing.CLOSED, by=holder.agent or holder.name, at=now, note=note)

        order: orders.Order | None = await self.read(find)
        if order is None:
            raise NotThere(f"There is no order {id}.")

        async def work() -> None:
            if not order.is_open:
                raise NotNow(f"Order {id} is closed already.")
            await self.house.ledger.ask(close)

        await self.act(holder, Act.CLOSE_ORDER, work, agent=order.must_answer, call=order.call_id, detail=id)
        changed: orders.Order | None = await self.read(find)
        return shapes.Order.of(changed or order, now, shown(order.caller, holder.reach(Act.SEE_ORDERS)))

    async def reload(self, holder: Holder) -> None:
        """Raises NotAllowed, SettingsInvalid."""

        async def work() -> None:
            self.house.desk.reload()

        await self.act(holder, Act.RELOAD, work)

    async def drain(self, holder: Holder) -> None:
        """Raises NotAllowed, NotNow."""
        standing = await asyncio.to_thread(supervision.look, self.house.settings)

        async def work() -> None:
            if standing is None:
                raise NotNow("This controller was not started by `sanling run`: end it where it was started.")
            signal_to(standing.pid, signal.SIGUSR1)

        await self.act(holder, Act.DRAIN, work)


def denied(holder: Holder, act: Act) -> str:
    if holder.reach(act) is Reach.OWN:
        return f"A token of role {holder.role} may do this for its own agent only."
    return f"A token of role {holder.role} may not do this; docs/desk.md says which role may."


def callback(one: Wish, reach: Reach) -> shapes.Callback:
    return shapes.Callback(
        id=one.id, at=one.asked_at, since=one.since, number=shown(one.number, reach) or "", first=one.first,
        window=one.window.value, stage=one.stage.value, need=one.need, attempts=one.attempts,
    )  # fmt: skip


def shown(number: str | None, reach: Reach) -> str | None:
    """A caller's number as one of this reach may see it."""
    if number is None:
        return None
    return number if reach is Reach.ALL else mask(number)


def agent_of(call: Call) -> str | None:
    """Who talks with the caller, or is rung for it."""
    return call.talk.offer.agent if call.talk.offer else call.talk.served_by


def need_of(call: Call) -> str | None:
    return call.progress.need.name.lower() if call.progress.need else None


def led(session: Session, last: int) -> Iterator[shapes.AuditRow]:
    """The `last` acts of leaders, dialled or ordered here, the latest first."""
    row = models.Supervision
    asked = select(row, models.Agent.role).outerjoin(models.Agent, models.Agent.number == row.who)
    found = session.execute(asked.order_by(row.at.desc(), row.session, row.n, row.event).limit(last))
    return (shapes.AuditRow.of(one, role) for one, role in found)


def figures(session: Session, since: float) -> shapes.Figures:
    """Calls that came since `since` (Unix seconds) and are over, counted by the database; docs/measures.md."""
    ending, offer = models.Ending, models.OfferEvent
    joined = select(offer.n).where(offer.call_id == ending.call_id, offer.event == "joined")
    served = (ending.talk_s > 0) | joined.exists()  # also of a call that was lost then
    abandoned = (ending.outcome == "abandoned") & (ending.wait_s >= SHORT_ABANDON_S)

    def count(condition: Any) -> Any:
        return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)

    row = session.execute(
        select(
            func.count(),
            count(served),
            count(served & (ending.wait_s <= SERVICE_WITHIN_S)),
            count(abandoned),
            count(ending.outcome.in_(("broken", "lost", "fallback"))),
            func.avg(case((served, ending.wait_s))),
            func.max(ending.wait_s),
            func.avg(case((served, ending.talk_s))),
        )
        .select_from(models.Call)
        .join(ending, ending.call_id == models.Call.id)
        .outerjoin(models.OutboundCall, models.OutboundCall.call_id == models.Call.id)
        .where(models.Call.at >= since, models.OutboundCall.call_id.is_(None))
    ).one()
    over, handled, in_time, lost, failed, wait_s, longest_s, talk_s = row
    wanted = handled + lost
    return shapes.Figures(
        since=since, over=over, handled=handled, abandoned=lost, failed=failed,
        service_level=in_time / wanted if wanted else None, service_within_s=SERVICE_WITHIN_S,
        abandonment=lost / wanted if wanted else None, mean_wait_s=wait_s, longest_wait_s=longest_s,
        mean_talk_s=talk_s,
    )  # fmt: skip
