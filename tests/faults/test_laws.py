"""Each law sees what breaks it, and nothing in a run where all went well. A law that cannot fail is worse than none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from ari_app import store
from ari_app.flow.sop import Heard, Progress, step
from ari_app.store.models import (
    Agent,
    AgentState,
    Call,
    Callback,
    Ending,
    OfferEvent,
    OutboundCall,
    Recording,
    Table,
    Transition,
)
from tests.faults.harm import Strike
from tests.faults.laws import LAWS, Evidence, longest_silence_s, percentiles, silence_by_fault, united
from tests.faults.people import Ring, Tape

T0 = 1_795_000_000.0
SERVED = (
    Heard.RANG_ENOUGH, Heard.WANTS_A_PERSON, Heard.ADMITTED, Heard.AGENT_RESERVED, Heard.AGENT_ANSWERED,
    Heard.WHISPER_ENDED, Heard.CLOSING_ASKED, Heard.HUNG_UP,
)  # fmt: skip


class World:
    """A run of three calls: one served by agent 601, one that left early, one known by its recording only."""

    def __init__(self, session: Session, folder: Path) -> None:
        self.session, self.folder = session, folder
        self.call("faults-1795000000.1", "15490000000", T0, SERVED, "handled")
        self.call("faults-1795000005.2", "15490000001", T0 + 5, (Heard.RANG_ENOUGH, Heard.HUNG_UP), "left_in_menu")
        self.call("faults-1795000009.3", None, T0 + 9, (), "fallback")
        session.add(Agent(number="601", name="", sip_ha1="", pin_hash="", state="idle"))
        session.add(Agent(number="602", name="", sip_ha1="", pin_hash="", state="idle"))
        self.agent("601", T0 + 3, "idle", "reserved", "faults-1795000000.1")
        self.agent("601", T0 + 6, "reserved", "talking", "faults-1795000000.1")
        self.agent("601", T0 + 9, "talking", "wrap_up", None)
        self.agent("601", T0 + 10, "wrap_up", "idle", None)
        session.add(OfferEvent(call_id="faults-1795000000.1", n=1, event="offered", at=T0 + 3.1, agent="601"))
        session.flush()
        self.tapes = [
            Tape(0, "person", "15490000000", T0 - 0.1, T0, T0 + 1, T0 + 12, "us", talked=True, gaps=[(T0 + 2, T0 + 5)]),
            Tape(1, "leaver", "15490000001", T0 + 4.9, T0 + 5, T0 + 6, T0 + 8, "us"),
            Tape(2, "person", "15490000002", T0 + 8.4, T0 + 9, T0 + 9.5, T0 + 20, "them"),
        ]
        self.rings = [Ring("601", "15490000000", T0 + 3.2, T0 + 9, True, "them", True)]
        self.strikes = [Strike("link half-open", T0 + 1, T0 + 4, noticed_s=2.0, back_s=3.0)]
        self.more: dict[str, object] = {}

    def call(self, call_id: str, number: str | None, at: float, heard: tuple[Heard, ...], outcome: str) -> None:
        add = self.session.add
        add(Call(id=call_id, caller_number=number, called_number="12368", at=at))
        self.session.flush()
        progress = Progress()
        for n, one in enumerate(heard):
            was = progress
            progress, actions = step(was, one)
            add(
                Transition(
                    call_id=call_id, n=n, at=at + n, state=was.state.name, heard=one.name, next=progress.state.name,
                    actions=" ".join(do.name for do in actions), agent=None,
                )
            )  # fmt: skip
        self.ends(call_id, at + 12, outcome)
        for name in ("local", "second"):
            path = self.folder / name / f"{call_id}.flac"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(call_id.encode())
            sha256 = hashlib.sha256(call_id.encode()).hexdigest()
            add(
                Recording(
                    call_id=call_id, store=name, at=at, path=str(path), sha256=sha256, seconds=1, channels=2, bytes=1
                )
            )

    def ends(self, call_id: str, at: float, outcome: str) -> None:
        self.session.add(
            Ending(
                call_id=call_id, at=at, outcome=outcome, hung_up_by="caller", agent=None, answered_after_s=1, wait_s=0,
                talk_s=0, after_closing_s=None,
            )
        )  # fmt: skip

    def agent(self, number: str, at: float, was: str, now: str, call_id: str | None) -> None:
        self.session.add(AgentState(agent=number, at=at, was=was, now=now, reason="", call_id=call_id))
        self.session.flush()

    def drop(self, model: type[Table], *key: object) -> None:
        self.session.delete(self.session.get_one(model, key if len(key) > 1 else key[0]))
        self.session.flush()

    def change(self, model: type[Table], key: object, **values: object) -> None:
        row = self.session.get_one(model, key)
        for name, value in values.items():
            setattr(row, name, value)
        self.session.flush()

    def judged(self) -> dict[str, list[str]]:
        self.session.flush()
        evidence = self.evidence()
        return {name: law(evidence) for name, law in LAWS.items()}

    def evidence(self) -> Evidence:
        return Evidence(self.session, self.tapes, self.rings, strikes=self.strikes, **self.more)  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    engine = store.open_engine("sqlite://")
    Table.metadata.create_all(engine)
    with Session(engine) as session:
        yield World(session, tmp_path)
    engine.dispose()


def test_a_good_run_breaks_no_law(world: World) -> None:
    assert world.judged() == {name: [] for name in LAWS}


ONE, TWO, THREE = "faults-1795000000.1", "faults-1795000005.2", "faults-1795000009.3"


def plant(law: str, says: str) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Marks what breaks `law`, and a part of what the law says of it."""

    def mark(how: Callable[[World], None]) -> Callable[[World], None]:
        PLANTED.append((law, says, how))
        return how

    return mark


PLANTED: list[tuple[str, str, Callable[[World], None]]] = []


@plant("every call ended", "has no ending")
def _no_ending(world: World) -> None:
    world.drop(Ending, TWO)


@plant("every call ended", "not in the ledger")
def _unknown_call(world: World) -> None:
    world.tapes.append(Tape(3, "person", "15490000003", T0 + 30, T0 + 31, None, T0 + 32, "us"))


@plant("every call ended", "not in the ledger")
def _one_recording_for_two_calls(world: World) -> None:
    world.tapes.append(Tape(3, "person", "15490000003", T0 + 8.5, T0 + 9, None, T0 + 9.2, "us"))


@plant("every call ended", "2 calls of the ledger")
def _twice(world: World) -> None:
    world.call("faults-1795000006.9", "15490000001", T0 + 6, (Heard.RANG_ENOUGH, Heard.HUNG_UP), "left_in_menu")


@plant("no call broke", f"{TWO} is broken")
def _broken(world: World) -> None:
    world.change(Ending, TWO, outcome="broken")


@plant("every call recorded twice", "not in store second")
def _one_copy(world: World) -> None:
    world.drop(Recording, ONE, "second")


@plant("every call recorded twice", "No such file")
def _copy_gone(world: World) -> None:
    (world.folder / "local" / f"{THREE}.flac").unlink()


@plant("every call recorded twice", "other bytes")
def _copy_altered(world: World) -> None:
    (world.folder / "second" / f"{TWO}.flac").write_bytes(b"something else")


@plant("nothing left in Asterisk", "channel PJSIP/601-1")
def _channel(world: World) -> None:
    world.more["channels"] = ["PJSIP/601-1"]


@plant("nothing left in Asterisk", "bridge b")
def _bridge(world: World) -> None:
    world.more["bridges"] = ["b"]


@plant("nothing left in Asterisk", "spool")
def _spool_file(world: World) -> None:
    world.more["spool"] = ["monitor/x.raw"]


@plant("agents free", "601 is reserved")
def _reserved(world: World) -> None:
    world.agent("601", T0 + 20, "idle", "reserved", TWO)
    world.change(Agent, "601", state="reserved", call_id=TWO)


@plant("one call an agent", f"got {TWO} while held for {ONE}")
def _two_calls(world: World) -> None:
    world.agent("602", T0 + 20, "idle", "reserved", ONE)
    world.agent("602", T0 + 21, "reserved", "reserved", TWO)
    world.agent("602", T0 + 22, "reserved", "idle", None)


@plant("one call an agent", f"{ONE} holds agents 601 and 602")
def _two_agents(world: World) -> None:
    world.agent("601", T0 + 20, "idle", "reserved", ONE)
    world.agent("602", T0 + 21, "idle", "reserved", ONE)
    world.agent("601", T0 + 22, "reserved", "idle", None)
    world.agent("602", T0 + 22, "reserved", "idle", None)


@plant("one call an agent", "without being held")
def _rung_unheld(world: World) -> None:
    world.session.add(OfferEvent(call_id=TWO, n=1, event="offered", at=T0 + 7, agent="602"))


@plant("one call an agent", "without being held")
def _rung_too_late(world: World) -> None:
    world.session.add(OfferEvent(call_id=ONE, n=2, event="offered", at=T0 + 11, agent="601"))


@plant("one call an agent", "601's phone had …0000 and got …0001")
def _phone_saw_two(world: World) -> None:
    world.more["at_once"] = [(T0 + 5, "601", "15490000000", "15490000001")]


@plant("ledger replays", "Row 1")
def _row_missing(world: World) -> None:
    world.drop(Transition, ONE, 1)


@plant("ledger replays", "rows end in TALKING")
def _not_at_the_end(world: World) -> None:
    for n in (6, 7):
        world.drop(Transition, ONE, n)


@plant("ledger replays", "without a step")
def _no_rows(world: World) -> None:
    world.change(Ending, THREE, outcome="handled")


@plant("ledger replays", "is then said to have been idle")
def _states_jump(world: World) -> None:
    world.agent("601", T0 + 30, "idle", "paused", None)
    world.agent("601", T0 + 31, "idle", "paused", None)


@plant("ledger replays", "is paused, the rows say idle")
def _state_without_row(world: World) -> None:
    world.change(Agent, "601", state="paused")


@plant("nobody in silence", "heard nothing for 5.2 s from 1.0 s after the answer (at 1795000002.0), link half-open")
def _silence(world: World) -> None:
    world.tapes[0].gaps = [(T0 + 2, T0 + 7.2)]


@plant("lost are called back", "nobody will call back")
def _lost(world: World) -> None:
    world.change(Ending, TWO, outcome="lost")


@plant("lost are called back", "cut by Asterisk's death")
def _cut(world: World) -> None:
    world.tapes[1].ended_by = "cut"


@plant("nobody parted", "and agent 601 were parted")
def _parted(world: World) -> None:
    world.rings[0] = Ring("601", "15490000000", T0 + 3.2, T0 + 9, True, "them", False)


@plant("nobody parted", "talked to an agent and is abandoned")
def _talk_unknown(world: World) -> None:
    world.change(Ending, ONE, outcome="abandoned")


@plant("faults noticed", "noticed never")
def _never_noticed(world: World) -> None:
    world.strikes[0].noticed_s = None


@plant("faults noticed", "noticed after 5.5 s")
def _noticed_late(world: World) -> None:
    world.strikes[0].noticed_s = 5.5


@plant("faults noticed", "nobody was in control again")
def _no_control(world: World) -> None:
    world.strikes.append(Strike("controller killed", T0 + 2))


@pytest.mark.parametrize(("law", "says", "how"), PLANTED, ids=[how.__name__.strip("_") for _, _, how in PLANTED])
def test_a_law_sees_what_breaks_it(world: World, law: str, says: str, how: Callable[[World], None]) -> None:
    how(world)
    found = world.judged()
    assert any(says in line for line in found[law]), found
    assert not [name for name, wrong in found.items() if wrong and name != law]


def test_every_law_has_its_planted_violation() -> None:
    assert {law for law, _, _ in PLANTED} == set(LAWS)


def test_a_lost_caller_with_a_callback_is_in_order(world: World) -> None:
    world.change(Ending, TWO, outcome="lost")
    world.tapes[1].ended_by = "cut"
    world.session.add(Callback(id=TWO, at=T0, number="15490000001", reason="lost"))
    assert not any(world.judged().values())


def call_back(world: World, heard: tuple[Heard, ...], outcome: str) -> str:
    """The hotline calls the second caller of the run."""
    call_id = "faults-out_1795000015.001"
    world.call(call_id, "15490000001", T0 + 15, (), outcome)
    world.session.add(
        OutboundCall(call_id=call_id, at=T0 + 15, agent="601", number="15490000001", role="unknown", callback_id=TWO)
    )
    progress = Progress()
    for n, one in enumerate(heard):
        was = progress
        progress, actions = step(was, one)
        world.session.add(
            Transition(
                call_id=call_id, n=n, at=T0 + 15 + n, state=was.state.name, heard=one.name, next=progress.state.name,
                actions=" ".join(do.name for do in actions), agent=None,
            )
        )  # fmt: skip
    return call_id


def test_a_callback_is_no_second_call_of_the_same_caller(world: World) -> None:
    call_back(world, (Heard.CALL_PLACED, Heard.AGENT_NO_ANSWER), "unreached")
    assert not any(world.judged().values())


def test_a_callback_that_reached_nobody_at_all_has_no_recording_and_any_other_has(world: World) -> None:
    call_id = call_back(world, (Heard.CALL_PLACED, Heard.AGENT_NO_ANSWER), "unreached")
    for name in ("local", "second"):
        world.drop(Recording, call_id, name)
    assert not any(world.judged().values())
    world.session.add(
        Transition(call_id=call_id, n=9, at=T0 + 18, state="X", heard="X", next="CALLING_OUT", actions="", agent=None)
    )
    assert len(world.judged()["every call recorded twice"]) == 2
    world.more["asterisk_killed"] = [T0 + 16]
    assert not world.judged()["every call recorded twice"]  # with the agent's phone, before anybody was dialled
    world.more["asterisk_killed"] = [T0 + 25]
    assert len(world.judged()["every call recorded twice"]) == 2


def test_whoever_is_called_back_is_not_left_in_silence_either(world: World) -> None:
    gap = (T0 + 17, T0 + 22.5)
    tape = Tape(0, "called back", "15490000001", T0 + 15, T0 + 15, T0 + 16, T0 + 30, "us", gaps=[gap])
    world.more["called_back"] = [tape]
    assert world.judged()["nobody in silence"][0].startswith("callback 0 heard nothing for 5.5 s")


def test_whoever_keys_an_answer_is_not_left_in_silence_by_that(world: World) -> None:
    tape = world.tapes[0]
    tape.gaps = [(T0 + 2.0, T0 + 8.0)]
    assert len(world.judged()["nobody in silence"]) == 1
    tape.keyed = [(T0 + 2.5, T0 + 4.0)]
    assert not world.judged()["nobody in silence"]
    tape.keyed = [(T0 + 2.5, T0 + 3.0)]
    assert "heard nothing for 5.5 s" in world.judged()["nobody in silence"][0]


def test_whoever_was_asked_to_speak_is_listened_to_in_silence_and_not_for_ever(world: World) -> None:
    world.tapes[0].gaps = [(T0 + 2.2, T0 + 7.5)]
    world.change(Transition, (ONE, 5), actions="HEAR_REASON")  # for a second: until the next row
    assert not world.judged()["nobody in silence"]
    world.change(Transition, (ONE, 5), actions="ASK_REASON LISTEN")
    assert len(world.judged()["nobody in silence"]) == 1


def test_silence_while_the_phones_were_late_is_not_judged(world: World) -> None:
    world.tapes[0].gaps = [(T0 + 2, T0 + 7.2)]
    world.more["late"] = [(T0 + 6.5, T0 + 7.0)]
    assert world.judged()["nobody in silence"] == []
    assert longest_silence_s(world.evidence()) == pytest.approx(4.7)


def test_silences_by_fault(world: World) -> None:
    world.tapes[1].gaps = [(T0 + 50, T0 + 54)]
    assert silence_by_fault(world.evidence()) == {"link half-open": 3.0, "none": 4.0}


def test_spans_are_united() -> None:
    assert united([(3, 5), (1, 2), (4, 6), (2, 2.5)]) == [(1, 2.5), (3, 6)]


def test_percentiles() -> None:
    assert percentiles(x / 10 for x in range(100)) == {"p50": 5.0, "p95": 9.5, "max": 9.9, "n": 100}
    assert percentiles([]) == {"p50": None, "p95": None, "max": None, "n": 0}
