"""What must hold after a run, whatever happened in it. Each law returns one readable line for each violation.

A law judges from the ledger, the two stores, Asterisk's own lists and what phones saw and heard; never from what the
controller says of itself.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app.cases import normalise_number
from ari_app.errors import SanlingError
from ari_app.flow.sop import Heard, State
from ari_app.ledger import replay
from ari_app.store.models import (
    Agent,
    AgentState,
    Call,
    Callback,
    CallbackEvent,
    Ending,
    OfferEvent,
    OutboundCall,
    Recording,
    Transition,
)
from recordings.capture import began_at
from tests.faults.harm import CONTROL, NOTICED_WITHIN_S, SILENT, Strike
from tests.faults.people import Ring, Tape
from tests.faults.silence import judged

SILENCE_S = 5.0
STORES = ("local", "second")
HELD = ("reserved", "ringing", "talking", "consulting")
CUT_OFF = ("broken", "fallback", "lost")
"""Outcomes of calls that did not come to their end in the SOP."""
LISTENS = {"HEAR_REASON", "RECORD_MESSAGE"}
"""What is done with a caller who was asked to speak."""
SPEAKS_S = 60.0
"""The longest that a reason may be; a message of three minutes is more than anybody says here."""
ARRIVES_WITHIN_S = 2.0
"""From a phone's INVITE to the second that Asterisk names the call after."""
COARSE_S = 0.05
"""So far behind may be the clock that Asterisk takes that second from, time(2): it moves with the kernel's ticks."""
DIALS_WITHIN_S = 0.5
"""From the decision to call somebody to the beginning of that call's recording."""
WAITS_HERE_S = 0.05
"""Sooner than any phone can be busy: the person to be called back waits in a call of their own, and is not dialled."""
CROSSES_S = 1.0
"""Two ends of a call may see it end so far apart."""


@dataclass
class Evidence:
    """All there is to judge from. Times are Unix seconds."""

    session: Session
    tapes: list[Tape]
    rings: list[Ring] = field(default_factory=list)
    at_once: list[tuple[float, str, str, str]] = field(default_factory=list)
    """When a phone got a call while another was there: the moment, the agent, both callers."""
    strikes: list[Strike] = field(default_factory=list)
    asterisk_killed: list[float] = field(default_factory=list)
    late: list[tuple[float, float]] = field(default_factory=list)
    """When the phones were not fair witnesses."""
    channels: list[str] = field(default_factory=list)
    bridges: list[str] = field(default_factory=list)
    spool: list[str] = field(default_factory=list)
    """Files that should have become something else by now."""
    called_back: list[Tape] = field(default_factory=list)
    """Of people whom the hotline called, and who answered."""

    @cached_property
    def calls(self) -> dict[str, Call]:
        return {call.id: call for call in self.session.scalars(select(Call).order_by(Call.at))}

    @cached_property
    def placed(self) -> set[str]:
        """Which of the calls the hotline placed."""
        return set(self.session.scalars(select(OutboundCall.call_id)))

    @cached_property
    def came_in(self) -> list[Call]:
        return [call for call in self.calls.values() if call.id not in self.placed]

    @cached_property
    def endings(self) -> dict[str, Ending]:
        return {ending.call_id: ending for ending in self.session.scalars(select(Ending))}

    @cached_property
    def call_of(self) -> dict[int, str]:
        """Which call of the ledger each phone call is: by its number, or its second if only recorded."""
        by_number = {call.caller_number: call.id for call in self.came_in if call.caller_number}
        found, missing = {}, []
        for tape in sorted(self.tapes, key=lambda one: one.began_at):
            if (named := by_number.get(normalise_number(tape.number) or "")) is not None:
                found[tape.n] = named
            elif tape.known:
                missing.append(tape)
        nameless = [(began, call.id) for call in self.came_in
                    if call.caller_number is None and (began := _second_of(call.id)) is not None]  # fmt: skip
        nameless.sort()
        for tape in missing:
            for began, call_id in nameless:
                if int(tape.began_at - COARSE_S) <= began <= tape.began_at + ARRIVES_WITHIN_S:
                    found[tape.n] = call_id
                    nameless.remove((began, call_id))
                    break
        return found

    @cached_property
    def listened_to(self) -> dict[str, list[tuple[float, float]]]:
        """When each caller was asked to speak, and was listened to: from then on to what was heard next."""
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        since: dict[str, float] = {}
        for row in self.session.scalars(select(Transition).order_by(Transition.call_id, Transition.n)):
            if (began := since.pop(row.call_id, None)) is not None:
                found[row.call_id].append((began, min(row.at, began + SPEAKS_S)))
            if LISTENS & set(row.actions.split()):
                since[row.call_id] = row.at
        return found

    def silences(self) -> Iterator[tuple[Tape, tuple[float, float], float]]:
        """Each gap in what somebody heard, and how many seconds of it count."""
        call_ids = [self.call_of.get(tape.n, "") for tape in self.tapes] + [""] * len(self.called_back)
        for tape, call_id in zip((*self.tapes, *self.called_back), call_ids, strict=True):
            unjudged = united([*self.late, *self.listened_to.get(call_id, ()), *tape.keyed])
            for gap in tape.gaps:
                yield tape, gap, judged(gap, unjudged)

    def name(self, tape: Tape) -> str:
        if tape in self.called_back:
            return f"callback {tape.n}"
        call_id = self.call_of.get(tape.n, "")
        outcome = self.endings[call_id].outcome if call_id in self.endings else "without an ending"
        return f"call {tape.n} ({call_id or 'not in the ledger'}, {tape.kind}, {outcome})"

    def causes(self, since: float, until: float) -> list[str]:
        """Kinds of the faults that were there between two moments."""
        return sorted(
            {s.kind for s in self.strikes if not s.missed and s.at <= until and max(s.until, s.at) >= since - 1}
        )


def _second_of(call_id: str) -> float | None:
    began = began_at(call_id)
    return began.timestamp() if began else None


# ---------------------------------------------------------------- the laws


def every_call_ended(seen: Evidence) -> list[str]:
    """Each phone call that rang is one call of the ledger with an ending, and each call of the ledger has one."""
    wrong = [f"{seen.name(tape)} rang a phone and is not in the ledger"
             for tape in seen.tapes if tape.known and tape.n not in seen.call_of]  # fmt: skip
    wrong += [f"{call_id} has no ending" for call_id in seen.calls if call_id not in seen.endings]
    numbers = [call.caller_number for call in seen.came_in if call.caller_number]
    wrong += [f"{number[:4]}…{number[-4:]} is {numbers.count(number)} calls of the ledger"
              for number in sorted(set(numbers)) if numbers.count(number) > 1]  # fmt: skip
    return wrong


def no_call_broke(seen: Evidence) -> list[str]:
    """No call was given up by the controller for what failed in it."""
    return [f"{call_id} is broken" for call_id, ending in seen.endings.items() if ending.outcome == "broken"]


def every_call_recorded(seen: Evidence) -> list[str]:
    """Both stores hold each call, and what they hold is what the ledger says."""
    wrong = []
    rows = {(row.call_id, row.store): row for row in seen.session.scalars(select(Recording))}
    rows_of_calls = seen.session.execute(
        select(Transition.call_id, Transition.at).where(Transition.next == State.CALLING_OUT.name)
    )
    decided = {call_id: at for call_id, at in rows_of_calls}
    busy = select(Transition.call_id, Transition.at).where(
        Transition.state == State.CALLING_OUT.name, Transition.heard == Heard.OUTSIDE_BUSY.name
    )
    for call_id, at in seen.session.execute(busy):
        if at - decided.get(call_id, at) < WAITS_HERE_S:  # the person waits in another call: nobody was dialled
            decided.pop(call_id, None)
    for call_id, call in seen.calls.items():
        if call_id in seen.placed and not _was_dialled(call.at, decided.get(call_id), seen.asterisk_killed):
            continue
        for name in STORES:
            row = rows.get((call_id, name))
            if row is None:
                wrong.append(f"{call_id} is not in store {name}, says the ledger")
            elif (fault := _misread(Path(row.path), row.sha256)) is not None:
                wrong.append(f"{call_id} in store {name}: {fault}")
    return wrong


def _was_dialled(began: float, decided: float | None, killed: Sequence[float]) -> bool:
    """Whether there was a call outside: the agent was to be had, and the Asterisk that had the agent still lived."""
    return decided is not None and not any(began <= at <= decided + DIALS_WITHIN_S for at in killed)


def _misread(path: Path, sha256: str) -> str | None:
    try:
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError as error:
        return str(error.strerror)
    return None if same else "other bytes than the ledger says"


def nothing_left(seen: Evidence) -> list[str]:
    """No channel and no bridge in Asterisk, no file in the spool."""
    return [
        *(f"channel {one} is still there" for one in seen.channels),
        *(f"bridge {one} is still there" for one in seen.bridges),
        *(f"{one} is still in the spool" for one in seen.spool),
    ]


def agents_free(seen: Evidence) -> list[str]:
    """No agent is held for a call when all calls are over."""
    return [f"agent {agent.number} is {agent.state}, call {agent.call_id}"
            for agent in seen.session.scalars(select(Agent)) if agent.state in HELD or agent.call_id]  # fmt: skip


def one_call_an_agent(seen: Evidence) -> list[str]:
    """No agent was ever held for two calls or rung by two, no call ever held two agents, nobody was rung unheld."""
    wrong = []
    held: dict[str, str] = {}
    spans: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for row in seen.session.scalars(select(AgentState).order_by(AgentState.id)):
        before = held.pop(row.agent, None)
        if before is not None and before != row.call_id:
            spans[row.agent, before][-1][1] = row.at
            if row.now in HELD and _call_of(before) != _call_of(row.call_id or ""):  # else taken over
                wrong.append(f"agent {row.agent} got {row.call_id} while held for {before}")
        if row.now in HELD and row.call_id is not None:
            wrong += [f"{row.call_id} holds agents {other} and {row.agent}"
                      for other, call_id in held.items() if call_id == row.call_id]  # fmt: skip
            held[row.agent] = row.call_id
            if before != row.call_id:
                spans[row.agent, row.call_id].append([row.at, float("inf")])
    for offer in seen.session.scalars(select(OfferEvent).where(OfferEvent.event == "offered")):
        if not any(a - CROSSES_S <= offer.at <= b + CROSSES_S for a, b in spans[offer.agent, offer.call_id]):
            wrong.append(f"agent {offer.agent} was rung for {offer.call_id} without being held for it")
    wrong += [
        f"agent {agent}'s phone had {_masked(one)} and got {_masked(other)}" for _, agent, one, other in seen.at_once
    ]
    return wrong


def _call_of(held_for: str) -> str:
    """The call that a name is of which an agent is held for."""
    return held_for.partition("~")[0]


def ledger_replays(seen: Evidence) -> list[str]:
    """Each call's rows run through the SOP to the end that is written, and agents' states follow each other."""
    wrong = []
    with_rows = set(seen.session.scalars(select(Transition.call_id).distinct()))
    for call_id in seen.calls:
        if call_id not in with_rows:
            ending = seen.endings.get(call_id)
            if ending is not None and ending.outcome not in CUT_OFF:
                wrong.append(f"{call_id} ended as {ending.outcome} without a step")
            continue
        try:
            progress = replay(seen.session, call_id)
        except SanlingError as error:
            wrong.append(str(error))
            continue
        ending = seen.endings.get(call_id)
        if ending is not None and ending.outcome not in ("broken", "fallback") and progress.state is not State.ENDED:
            wrong.append(f"{call_id} ended as {ending.outcome}, its rows end in {progress.state.name}")
    state: dict[str, str] = {}
    for row in seen.session.scalars(select(AgentState).order_by(AgentState.id)):
        if state.get(row.agent, row.was) != row.was:
            wrong.append(
                f"agent {row.agent} was {state[row.agent]} and is then said to have been {row.was} (row {row.id})"
            )
        state[row.agent] = row.now
    wrong += [f"agent {agent.number} is {agent.state}, the rows say {state[agent.number]}"
              for agent in seen.session.scalars(select(Agent))
              if state.get(agent.number, agent.state) != agent.state]  # fmt: skip
    return wrong


def nobody_in_silence(seen: Evidence) -> list[str]:
    """No caller heard nothing for more than 5 s between answer and end, but for who was asked to speak."""
    wrong = []
    for tape, gap, seconds in seen.silences():
        if seconds > SILENCE_S and tape.answered_at is not None:
            causes = " + ".join(seen.causes(*gap)) or "no fault"
            wrong.append(
                f"{seen.name(tape)} heard nothing for {seconds:.1f} s from {gap[0] - tape.answered_at:.1f} s after "
                f"the answer (at {gap[0]:.1f}), {causes}"
            )
    return wrong


def lost_are_called_back(seen: Evidence) -> list[str]:
    """Whoever was on the line when Asterisk died is entered for a callback, and closed as lost. Whom an agent was only
    about to call was not.
    """
    wrong = []
    callbacks = list(seen.session.scalars(select(Callback)))
    ids, numbers = {one.id for one in callbacks}, {one.number for one in callbacks}
    ids |= set(seen.session.scalars(select(CallbackEvent.call_id)))
    of_agents = set(seen.session.scalars(select(OutboundCall.call_id).where(OutboundCall.callback_id.is_(None))))

    def entered(call_id: str) -> bool:
        return call_id in ids or seen.calls[call_id].caller_number in numbers

    for call_id, ending in seen.endings.items():
        if call_id in of_agents and ending.answered_after_s is None:
            continue
        if ending.outcome == "lost" and call_id in seen.calls and not entered(call_id):
            wrong.append(f"{call_id} was lost and nobody will call back")
    for tape in seen.tapes:
        call_id = seen.call_of.get(tape.n, "")
        if tape.ended_by != "cut" or not tape.known or call_id not in seen.endings:
            continue
        ending = seen.endings[call_id]
        if (
            ending.at < tape.ended_at
            or ending.outcome in ("handled", "lost")
            or seen.calls[call_id].caller_number is None
        ):
            continue
        if not entered(call_id):
            wrong.append(
                f"{seen.name(tape)} was cut by Asterisk's death, ended as {ending.outcome}, and has no callback"
            )
    return wrong


def nobody_parted(seen: Evidence) -> list[str]:
    """No agent was put out of a talk whose caller was still there, and no talk is missing from the ledger."""
    wrong = []
    by_number = {normalise_number(tape.number): tape for tape in seen.tapes}
    for ring in seen.rings:
        tape = by_number.get(normalise_number(ring.caller))
        put_out = ring.talked and ring.ended_by == "them" and not ring.ended_it
        if put_out and tape is not None and tape.ended_at > ring.until + CROSSES_S:
            causes = " + ".join(seen.causes(ring.until - 5, ring.until)) or "no fault"
            wrong.append(f"{seen.name(tape)} and agent {ring.agent} were parted at {ring.until:.1f}, {causes}")
    for tape in seen.tapes:
        ending = seen.endings.get(seen.call_of.get(tape.n, ""))
        if tape.talked and ending is not None and ending.outcome not in ("handled", "lost"):
            wrong.append(f"{seen.name(tape)} talked to an agent and is {ending.outcome} in the ledger")
    return wrong


def faults_noticed(seen: Evidence) -> list[str]:
    """A frozen controller and a half-open link are noticed within 5 s; after every fault somebody is in control."""
    wrong = []
    for strike in seen.strikes:
        told = strike.kind in CONTROL and not strike.missed
        if told and strike.kind in SILENT and not _within(strike.noticed_s, NOTICED_WITHIN_S):
            when = "never" if strike.noticed_s is None else f"after {strike.noticed_s:.1f} s"
            wrong.append(f"{strike.kind} at {strike.at:.1f} was noticed {when}")
        if told and strike.back_s is None:
            wrong.append(f"{strike.kind} at {strike.at:.1f}: nobody was in control again")
    return wrong


def _within(seconds: float | None, limit_s: float) -> bool:
    return seconds is not None and seconds <= limit_s


LAWS: dict[str, Callable[[Evidence], list[str]]] = {
    "every call ended": every_call_ended,
    "no call broke": no_call_broke,
    "every call recorded twice": every_call_recorded,
    "nothing left in Asterisk": nothing_left,
    "agents free": agents_free,
    "one call an agent": one_call_an_agent,
    "ledger replays": ledger_replays,
    "nobody in silence": nobody_in_silence,
    "lost are called back": lost_are_called_back,
    "nobody parted": nobody_parted,
    "faults noticed": faults_noticed,
}


def longest_silence_s(seen: Evidence) -> float:
    return max((seconds for _, _, seconds in seen.silences()), default=0.0)


def silence_by_fault(seen: Evidence) -> dict[str, float]:
    """The longest silence beside each kind of fault; ``none``: with no fault near."""
    longest: dict[str, float] = defaultdict(float)
    for _, gap, seconds in seen.silences():
        for cause in seen.causes(*gap) or ["none"]:
            longest[cause] = max(longest[cause], seconds)
    return {kind: round(seconds, 2) for kind, seconds in sorted(longest.items())}


def united(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same moments, none of them twice."""
    whole: list[tuple[float, float]] = []
    for since, until in sorted(spans):
        if whole and since <= whole[-1][1]:
            whole[-1] = (whole[-1][0], max(until, whole[-1][1]))
        else:
            whole.append((since, until))
    return whole


def percentiles(values: Iterable[float]) -> dict[str, float | int | None]:
    """p50, p95 and max (the nearest value that was measured), and how many there were."""
    ranked = sorted(values)

    def at(share: float) -> float | None:
        return round(ranked[min(len(ranked) - 1, int(share * len(ranked)))], 3) if ranked else None

    return {"p50": at(0.5), "p95": at(0.95), "max": at(1.0), "n": len(ranked)}


def _masked(number: str) -> str:
    return f"…{number[-4:]}"
