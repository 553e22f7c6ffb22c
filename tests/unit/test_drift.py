"""Ledger, counters and Asterisk's records are compared: what agrees is silent, and each planted drift is found."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, insert

from ari_app.drift import EVERY_S, LOOKS_BACK_S, Drift
from ari_app.errors import StoreUnavailable
from ari_app.instance import Instance
from ari_app.ledger import InlineExecutor, Ledger
from ari_app.settings import PROJECT, load
from ari_app.store import models
from metrics import drift as drift_module
from metrics.drift import REMEMBERED_S, SETTLES_S, Accounts, Disagreement, Record, Records, Tally, records_of
from metrics.hotline import CALL_OUTCOMES, HotlineMetrics
from tests.unit.core_database import Outage, in_memory

AGREED = Disagreement({}, (), ())
LEDGERS_OUTCOMES = sorted({*CALL_OUTCOMES} - {"short_abandon"})


def line(call_id: str, *, linked: str | None = None, channel: str = "PJSIP/trunkb") -> str:
    times = "2026-11-22 10:00:00,2026-11-22 10:00:01,2026-11-22 10:01:00"
    return f"{call_id},{linked or call_id},{channel},{times},ANSWERED\n"


# ---------------------------------------------------------------- the comparison


def accounts_of(ended: dict[str, str], records: list[str]) -> Accounts:
    accounts = Accounts(0.0)
    accounts.ledger_has(ended, 10.0)
    accounts.asterisk_has([Record(call_id, True) for call_id in records], 10.0)
    return accounts


THREE = {"a.1": "handled", "a.2": "abandoned", "a.3": "handled"}


def test_three_accounts_of_the_same_calls_agree():
    counted = {"handled": 2, "short_abandon": 1}
    assert accounts_of(THREE, list(THREE)).disagreement(counted, 1000.0) == AGREED


@pytest.mark.parametrize(
    ("counted", "records", "found"),
    [
        ({"handled": 3, "abandoned": 1}, ["a.1", "a.2", "a.3"], Disagreement({"handled": 1}, (), ())),
        ({"handled": 1, "abandoned": 1}, ["a.1", "a.2", "a.3"], Disagreement({"handled": -1}, (), ())),
        ({"handled": 1, "broken": 1, "abandoned": 1}, ["a.1", "a.2", "a.3"],
         Disagreement({"broken": 1, "handled": -1}, (), ())),
        ({"handled": 2, "abandoned": 1}, ["a.1", "a.2"], Disagreement({}, (), ("a.3",))),
        ({"handled": 2, "abandoned": 1}, ["a.1", "a.2", "a.3", "a.4"], Disagreement({}, ("a.4",), ())),
        ({"handled": 2, "abandoned": 1}, ["a.1", "a.2", "a.4"], Disagreement({}, ("a.4",), ("a.3",))),
    ],
    ids=["counted twice", "not counted", "counted as another", "no record", "not in the ledger", "another id"],
)  # fmt: skip
def test_each_planted_drift_is_found(counted, records, found):
    got = accounts_of(THREE, records).disagreement(counted, 1000.0)
    assert got == found
    assert (got.ledger_and_metrics, got.ledger_and_cdr) == (
        int(bool(found.counted_too_many)), len(found.not_in_ledger) + len(found.not_in_asterisk)
    )  # fmt: skip


@given(
    st.dictionaries(st.integers(0, 40).map("a.{}".format), st.sampled_from(LEDGERS_OUTCOMES)),
    st.sets(st.integers(0, 40).map("a.{}".format)),
    st.booleans(),
)
def test_it_finds_exactly_what_one_side_lacks_whichever_is_told_first(ended, had, ledger_first):
    accounts = Accounts(0.0)
    records = [Record(call_id, True) for call_id in sorted(had)]
    if ledger_first:
        accounts.ledger_has(ended, 1.0)
    accounts.asterisk_has(records, 1.0)
    accounts.asterisk_has(records, 2.0)
    accounts.ledger_has(ended, 2.0)
    counted = {outcome: list(ended.values()).count(outcome) for outcome in set(ended.values())}
    found = accounts.disagreement(counted, 1000.0)
    assert found.ledger_and_metrics == 0
    assert found.not_in_ledger == tuple(sorted(had - set(ended)))
    assert found.not_in_asterisk == tuple(sorted(set(ended) - had))


def test_what_is_told_late_is_no_drift():
    accounts = accounts_of({"a.1": "handled"}, ["a.2"])
    assert accounts.disagreement({"handled": 1}, 10.0 + SETTLES_S - 1) == AGREED
    accounts.asterisk_has([Record("a.1", True)], 100.0)
    accounts.ledger_had(["a.2"], 100.0)
    assert accounts.disagreement({"handled": 1}, 1000.0) == AGREED


def test_a_call_found_in_the_ledger_before_it_is_told_of_is_tallied_all_the_same():
    accounts = Accounts(0.0)
    accounts.asterisk_has([Record("a.1", True)], 1.0)
    accounts.ledger_had(["a.1"], 1.0)
    accounts.ledger_has({"a.1": "handled"}, 60.0)
    accounts.ledger_has({"a.1": "handled"}, 120.0)
    assert accounts.disagreement({"handled": 1}, 1000.0) == AGREED


def test_drift_counts_for_an_hour_and_is_history_then():
    accounts = accounts_of({"a.1": "handled"}, ["a.2"])
    wrong = {"handled": 2}
    assert accounts.disagreement(wrong, 200.0) == Disagreement({"handled": 1}, ("a.2",), ("a.1",))
    assert accounts.disagreement(wrong, REMEMBERED_S) == Disagreement({"handled": 1}, ("a.2",), ("a.1",))
    assert accounts.disagreement(wrong, REMEMBERED_S + 200.0 + SETTLES_S) == AGREED


@given(st.dictionaries(st.integers(), st.sampled_from(["answered", "busy", "refused"])), st.integers(1, 3))
def test_a_tally_finds_what_is_counted_and_not_there_and_what_is_there_and_not_counted(there, told):
    tally = Tally(0.0)
    counted = {kind: list(there.values()).count(kind) for kind in {*there.values()}}
    for n in range(told):
        tally.ledger_has(there, n)
    assert tally.too_many(counted, 10.0) == {}
    assert tally.too_many({**counted, "busy": counted.get("busy", 0) + 1}, 20.0) == {"busy": 1}
    tally.ledger_has({"one more": "refused"}, 30.0)
    assert tally.too_many(counted, 40.0) == {"refused": -1}
    assert tally.too_many(counted, 41.0 + REMEMBERED_S) == {}, "it is history"


def test_calls_that_asterisk_died_under_have_no_record_and_need_none():
    accounts = Accounts(0.0)
    accounts.ledger_has({"a.1": "lost"}, 1.0, without_record={"a.1"})
    assert accounts.disagreement({"lost": 1}, 1000.0) == AGREED


def test_only_channels_that_came_from_the_trunk_must_be_in_the_ledger():
    text = (
        line("a.1")
        + line("a.2", channel="PJSIP/")
        + line("a.3", linked="demo-out_1.001")
        + line("demo-out_1.001", channel="Local/outbound")
        + "00000007,2026-11-22\n"
        + '"a.5","a.5","PJSIP/trunk-00000009","2026-11-22 10:00:00","","2026-11-22 10:00:09","NO ANSWER"\n'
    )
    assert [record.call_id for record in records_of(text)] == ["a.1", "a.2", "a.3", "demo-out_1.001", "a.5"]
    assert [record.call_id for record in records_of(text) if record.is_a_caller] == ["a.1", "a.5"]


# ---------------------------------------------------------------- Asterisk's file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "calls.csv"


@pytest.fixture
def records(file: Path) -> Iterator[Records]:
    with closing(Records(file)) as opened:
        yield opened


def test_records_are_read_on_from_where_they_were_read(file, records):
    assert records.earlier() == records.new() == []
    file.write_text(line("a.1") + line("a.2")[:20])
    assert [record.call_id for record in records.new()] == ["a.1"]
    file.write_text(line("a.1") + line("a.2"))
    assert [record.call_id for record in records.new()] == ["a.2"]
    assert records.new() == []


def test_a_rotated_file_is_read_to_its_end_and_the_new_one_from_its_beginning(tmp_path, file, records):
    file.write_text(line("a.1"))
    assert len(records.earlier()) == 1
    with file.open("a") as opened:
        opened.write(line("a.2"))
    file.rename(tmp_path / "calls.csv.1")
    assert [record.call_id for record in records.new()] == ["a.2"]
    with (tmp_path / "calls.csv.1").open("a") as opened:
        opened.write(line("a.3"))
    file.write_text(line("b.1") + line("b.2"))
    assert [record.call_id for record in records.new()] == ["a.3", "b.1", "b.2"]
    file.write_text(line("c.1"))  # cut to nothing in its place
    assert [record.call_id for record in records.new()] == ["c.1"]


def test_of_a_long_file_the_end_is_read(file, records, monkeypatch):
    monkeypatch.setattr(drift_module, "READ_AT_FIRST_BYTES", 150)
    file.write_text("".join(line(f"a.{n}") for n in range(10)))
    assert [record.call_id for record in records.earlier()] == ["a.9"]


# ---------------------------------------------------------------- the hotline


class House:
    """A ledger, its figures, and a file that stands for Asterisk's."""

    def __init__(self, folder: Path) -> None:
        self.engine: Engine = in_memory()
        self.ledger = Ledger(self.engine, executor=InlineExecutor())
        self.metrics = HotlineMetrics(CollectorRegistry())
        self.metrics.register_agents(["601", "602"])
        self.records = folder / "calls.csv"

    async def __aenter__(self) -> House:
        self.drift = Drift(self.ledger, self.metrics, self.records)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.drift._records.close()
        await self.ledger.close()
        self.engine.dispose()

    def call(self, call_id: str, outcome: str = "handled", *, by: str = "caller") -> None:
        """A whole call, as its end is written and counted in the controller."""
        self.ledger.write(
            models.Call(id=call_id, caller_number=None, called_number="12368", at=time.time()),
            models.Ending(
                call_id=call_id, at=time.time(), outcome=outcome, hung_up_by=by, agent=None, answered_after_s=1.0,
                wait_s=0.0, talk_s=0.0, after_closing_s=None,
            ),
        )  # fmt: skip
        self.metrics.call_ended(outcome)  # type: ignore[arg-type]

    def offers(self, call_id: str, agent: str, event: str, *, n: int = 1) -> None:
        """An offer, as its end is written and counted in the controller; the agent talks with whoever was joined."""
        for what in ("offered", event):
            self.ledger.write(models.OfferEvent(call_id=call_id, n=n, event=what, at=time.time(), agent=agent))
        self.metrics.offer_ended(agent, "answered" if event == "joined" else event)  # type: ignore[arg-type]
        if event == "joined":
            self.metrics.talked(agent)
            for step in (3, 4):
                self.ledger.write(
                    models.TalkTime(call_id=call_id, n=step, agent=agent, company="caller", at=1.0, until=2.0)
                )

    def earlier(self, call_id: str, outcome: str = "handled") -> None:
        """A call that an earlier controller entered."""
        with self.engine.begin() as connection:
            connection.execute(insert(models.Call).values(id=call_id, called_number="12368", at=1.0))
            connection.execute(
                insert(models.Ending).values(
                    call_id=call_id, at=1.0, outcome=outcome, hung_up_by="caller", wait_s=0.0, talk_s=0.0
                )
            )

    def asterisk_had(self, *call_ids: str) -> None:
        with self.records.open("a") as file:
            file.writelines(line(call_id) for call_id in call_ids)

    def shown(self, between: str, of: str = "ended") -> float | None:
        return self.metrics.registry.get_sample_value("sanling_drift_calls", {"between": between, "of": of})


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def minutes(house: House, n: int) -> None:
    running = asyncio.get_running_loop().create_task(house.drift.run())
    await asyncio.sleep(n * EVERY_S + 1)
    running.cancel()
    await asyncio.wait([running])


async def test_calls_that_all_three_tell_of_show_no_drift(house, caplog):
    house.asterisk_had("a.0")
    running = asyncio.get_running_loop().create_task(house.drift.run())
    await asyncio.sleep(1)
    house.call("a.1")
    house.call("a.2", "lost", by="line")
    house.call("a.3", "fallback")
    house.asterisk_had("a.1", "a.3")
    await asyncio.sleep(10 * EVERY_S)
    running.cancel()
    await asyncio.wait([running])
    assert (house.shown("ledger_and_metrics"), house.shown("ledger_and_cdr")) == (0, 0)
    assert not caplog.records


async def test_a_call_counted_twice_shows(house, caplog):
    house.call("a.1")
    house.metrics.call_ended("handled")
    await minutes(house, 1)
    assert house.shown("ledger_and_metrics") == 1
    assert "counted as handled, more than the ledger has: 1" in caplog.text


async def test_a_row_that_the_database_lacks_shows(house):
    house.call("a.1")
    house.ledger.write = lambda *rows: house.drift._hear(rows[1])  # the row goes astray
    house.call("a.2")
    await minutes(house, 1)
    assert house.shown("ledger_and_metrics") == 1


async def test_a_call_of_an_earlier_controller_accuses_nobody(house):
    house.earlier("a.1")
    await house.drift.look()
    house.asterisk_had("a.1")
    assert await house.drift.look() == AGREED
    assert house.drift._accounts.unknown_to_ledger == ()


async def test_offers_and_talks_that_ledger_and_counters_tell_of_show_no_drift(house, caplog):
    house.call("a.1")
    house.offers("a.1", "601", "no_answer")
    house.offers("a.1", "602", "joined", n=2)
    house.ledger.write(models.OfferEvent(call_id="a.1", n=3, event="joined", at=1.0, agent="601"))  # a leader steps in
    house.call("a.2", "abandoned")
    house.offers("a.2", "601", "caller_left")
    house.asterisk_had("a.1", "a.2")
    await minutes(house, 3)
    assert [house.shown("ledger_and_metrics", of) for of in ("ended", "offered", "talked")] == [0, 0, 0]
    assert not caplog.records


async def test_an_offer_counted_twice_and_one_counted_as_another_show(house, caplog):
    house.call("a.1")
    house.offers("a.1", "601", "refused")
    house.offers("a.1", "601", "busy", n=2)
    house.metrics.offer_ended("601", "refused")
    house.ledger.write(
        models.OfferEvent(call_id="a.1", n=3, event="offered", at=1.0, agent="602"),
        models.OfferEvent(call_id="a.1", n=3, event="no_answer", at=1.0, agent="602"),
    )
    house.metrics.offer_ended("602", "unreachable")
    house.asterisk_had("a.1")
    await minutes(house, 1)
    assert house.shown("ledger_and_metrics", "offered") == 2
    assert house.shown("ledger_and_metrics", "ended") == 0
    assert "offers counted as refused, more than the ledger has: 1" in caplog.text
    assert "offers counted as no_answer, more than the ledger has: -1" in caplog.text


async def test_a_talk_counted_of_another_agent_shows(house, caplog):
    house.call("a.1")
    house.offers("a.1", "601", "no_answer")
    house.metrics.talked("602")
    house.ledger.write(models.TalkTime(call_id="a.1", n=3, agent="601", company="both", at=1.0, until=2.0))
    house.ledger.write(models.TalkTime(call_id="a.1", n=3, agent="602", company="agent", at=1.0, until=2.0))
    await minutes(house, 1)
    assert house.shown("ledger_and_metrics", "talked") == 1
    assert "agent 602 talked" in caplog.text


async def test_an_offers_row_that_the_database_lacks_shows(house):
    house.call("a.1")
    write = house.ledger.write
    house.ledger.write = lambda *rows: [house.drift._hear(row) for row in rows]  # the rows go astray
    house.offers("a.1", "601", "joined")
    house.ledger.write = write
    await minutes(house, 1)
    assert (house.shown("ledger_and_metrics", "offered"), house.shown("ledger_and_metrics", "talked")) == (1, 1)


def came(seconds_ago: float, n: int = 1) -> str:
    """The id of a call that came then."""
    return f"demo-{time.time() - seconds_ago:.0f}.{n}"


HOUR_S = 3600.0


async def test_a_caller_of_whom_nobody_knows_and_who_came_while_no_controller_ran_shows(house, caplog):
    house.earlier(served := came(5 * HOUR_S))
    house.earlier(unattended := came(0.5 * HOUR_S), "fallback")
    lost, left = came(4 * HOUR_S), came(0.4 * HOUR_S)
    house.asterisk_had(served, lost, unattended, left)
    await minutes(house, 1)
    assert house.shown("ledger_and_cdr") == 0, "its recording may be sealed yet"
    await minutes(house, 5)
    assert house.shown("ledger_and_cdr") == 2
    assert sorted(re.findall("call (.*): Asterisk had it", caplog.text)) == sorted([lost, left])


async def test_a_caller_who_came_while_no_controller_ran_and_is_entered_then_does_not_show(house):
    call_id = came(4 * HOUR_S)
    house.asterisk_had(call_id)
    running = asyncio.get_running_loop().create_task(house.drift.run())
    await asyncio.sleep(EVERY_S + 1)
    house.earlier(call_id, "fallback")
    await asyncio.sleep(5 * EVERY_S)
    running.cancel()
    await asyncio.wait([running])
    assert house.shown("ledger_and_cdr") == 0


async def test_what_an_earlier_controller_told_of_or_is_older_than_a_day_accuses_nobody(house):
    """Also a channel that was no caller's; and what has no moment in its id."""
    house.asterisk_had(came(LOOKS_BACK_S + HOUR_S), came(5 * HOUR_S), "a.1")
    house.earlier(served := came(3 * HOUR_S))
    house.asterisk_had(served)
    with house.records.open("a") as file:
        file.write(line(came(HOUR_S), channel="PJSIP/"))
    await minutes(house, 5)
    assert house.shown("ledger_and_cdr") == 0


async def test_calls_that_we_place_are_not_compared(house):
    house.ledger.write(models.OutboundCall(call_id="demo-out_1.001", at=1.0, agent="601", number="1", role="party"))
    house.ledger.write(
        models.Call(id="demo-out_1.001", caller_number=None, called_number="1", at=1.0),
        models.Ending(
            call_id="demo-out_1.001", at=1.0, outcome="handled", hung_up_by="caller", agent=None,
            answered_after_s=None, wait_s=0.0, talk_s=0.0, after_closing_s=None,
        ),
    )  # fmt: skip
    assert await house.drift.look() == AGREED


async def test_calls_that_only_one_of_ledger_and_asterisk_knows_show_and_are_named_once(house, caplog):
    house.call("a.1")
    house.asterisk_had("a.1", "a.2")
    house.call("a.3")
    with caplog.at_level(logging.ERROR, "sanling.drift"):
        await house.drift.look()
        await minutes(house, 1)
        assert house.shown("ledger_and_cdr") == 0, "they may still meet"
        await minutes(house, 5)
    assert house.shown("ledger_and_cdr") == 2
    assert house.shown("ledger_and_metrics") == 0
    assert caplog.text.count("call a.2: Asterisk had it") == 1
    assert caplog.text.count("call a.3: in the ledger") == 1


async def test_records_that_cannot_be_read_end_nothing_and_are_read_later(house, caplog):
    house.records.mkdir()
    running = asyncio.get_running_loop().create_task(house.drift.run())
    await asyncio.sleep(EVERY_S + 1)
    assert "could not be compared" in caplog.text
    assert not running.done()
    house.records.rmdir()
    house.earlier(entered := came(60))
    house.asterisk_had(entered)
    await asyncio.sleep(EVERY_S)
    house.call("a.1")
    house.asterisk_had("a.1", "a.2")
    await asyncio.sleep(5 * EVERY_S)
    running.cancel()
    await asyncio.wait([running])
    assert house.drift._accounts.unknown_to_ledger == ("a.2",)
    assert (house.shown("ledger_and_metrics"), house.shown("ledger_and_cdr")) == (0, 1)


async def test_while_the_database_is_away_nothing_is_compared_and_nothing_forgotten(house):
    outage = Outage(house.engine)
    outage.away = True
    house.call("a.1")
    house.offers("a.1", "601", "joined")
    with pytest.raises(StoreUnavailable):
        await house.drift.look()
    outage.away = False
    house.asterisk_had("a.1")
    await asyncio.sleep(5)
    assert await house.drift.look() == AGREED
    assert house.drift._accounts._in_ledger.keys() == {"a.1"}


# ---------------------------------------------------------------- what Asterisk is told to write


def test_asterisk_writes_the_columns_that_are_read_and_nobodys_number():
    conf = PROJECT / "asterisk-conf"
    mapping = re.search(r"^calls\.csv => (.*)$", (conf / "cdr_custom.conf").read_text(encoding="utf-8"), re.M)
    assert mapping
    times = "${CDR(start)},${CDR(answer)},${CDR(end)}"
    assert mapping[1] == (
        "${CDR(uniqueid)},${CDR(linkedid)},${FILTER(A-Za-z/,${CDR(channel)})}," + times + ",${CDR(disposition)}"
    ), "a channel that dials somebody is called after the number"
    modules = (conf / "modules.conf").read_text(encoding="utf-8")
    assert {"func_cdr.so", "cdr_custom.so"} <= set(re.findall(r"^load = (\S+)", modules, re.M))
    assert "unanswered = yes" in (conf / "cdr.conf").read_text(encoding="utf-8")


def test_the_file_lies_where_asterisk_puts_it(tmp_path):
    settings = load(environment={}, instance="x", var_dir=str(tmp_path))
    Instance(settings).prepare([])
    assert settings.call_records.parent.is_dir()
    assert settings.call_records.parent == settings.run_dir / "log" / "cdr-custom"
