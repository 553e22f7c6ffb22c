"""One-way audio from sound to row and counter: recordings of real prompts, silence and noise, put beside a ledger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from prometheus_client import CollectorRegistry
from sqlalchemy.orm import Session

from ari_app import report, store
from ari_app.audibility import EVERY_S, LOOKS_BACK_S, Audibility, talks, unjudged
from ari_app.errors import StoreUnavailable
from ari_app.flow.audibility import VOICE_FROM_DB
from ari_app.flow.measures import day
from ari_app.flow.sop import Heard
from ari_app.ledger import InlineExecutor, Ledger, timeline
from ari_app.rules import Assessment
from ari_app.settings import PROJECT
from ari_app.store import models
from ari_app.testcall.hearing import PromptSounds
from metrics.hotline import HotlineMetrics
from recordings import capture
from recordings.levels import LEAST_DB, Loudness, Unreadable, loudness
from recordings.stores import StoreAway
from tests.unit import ledger_of_calls
from tests.unit.core_database import Outage, in_memory
from tests.unit.ledger_of_calls import QUEUED_S, ZONE, moment
from tests.unit.recordings_spool import Spool

RATE = 8000
MONDAY = date(2026, 3, 2)
NINE = moment(MONDAY, "09:00:00")
WAIT_S = 10.0
SOUNDS = PromptSounds(PROJECT / "dialplan" / "prompts" / "audio")
Sound = np.ndarray


def speech(seconds: float, *, gain_db: float = 0.0) -> Sound:
    """The voice that the prompts are spoken by, again and again."""
    said = np.concatenate([SOUNDS["closed-now"], SOUNDS["callback-noted"], np.zeros(RATE)])
    return np.resize(said, round(seconds * RATE)) * 10 ** (gain_db / 20)


def nothing(seconds: float) -> Sound:
    return np.zeros(round(seconds * RATE))


def noise(seconds: float, level_db: float) -> Sound:
    return np.random.default_rng(7).standard_normal(round(seconds * RATE)) * 10 ** (level_db / 20)


def alaw_silence(seconds: float) -> Sound:
    """What the code of silence is as samples: a constant."""
    return np.full(round(seconds * RATE), 8 / 32768)


def offset(seconds: float) -> Sound:
    """A gateway's whose silence is not zero."""
    return np.full(round(seconds * RATE), 0.02)


def clicks(seconds: float) -> Sound:
    """Half a scale, 40 ms long, every two seconds."""
    sound = nothing(seconds)
    for at in range(RATE, len(sound), 2 * RATE):
        sound[at : at + 320] = 0.5
    return sound


def one_word(seconds: float) -> Sound:
    """嗯, once, in the middle."""
    sound = nothing(seconds)
    middle = len(sound) // 2
    sound[middle : middle + 1600] = 0.05 * np.sin(2 * np.pi * 180 * np.arange(1600) / RATE)
    return sound


def segment(file: Path, said: Sound, heard: Sound) -> Path:
    both = np.stack([said, heard], axis=1)
    soundfile.write(str(file), np.clip(both * 32768, -32768, 32767).astype("int16"), RATE, subtype="PCM_16")
    return file


# ---------------------------------------------------------------- how loud


@pytest.mark.parametrize(
    ("sound", "is_a_voice"),
    [
        (speech(40), True), (speech(40, gain_db=-20), True), (one_word(40), True),
        (nothing(40), False), (alaw_silence(40), False), (offset(40), False), (clicks(40), False),
        (noise(40, -60), False), (noise(40, -55), False), (noise(40, -35), True),
    ],
    ids=["speech", "faint speech", "one word", "nothing", "A-law silence", "offset", "clicks",
         "comfort noise", "loud comfort noise", "a street"],
)  # fmt: skip
def test_a_voice_is_told_from_what_lines_and_phones_make_of_silence(tmp_path, sound, is_a_voice):
    said = loudness(segment(tmp_path / "a.flac", sound, nothing(40)), [(0.0, 40.0)])
    assert (said.said_db >= VOICE_FROM_DB) == is_a_voice
    assert said.heard_db == LEAST_DB
    heard = loudness(segment(tmp_path / "b.flac", speech(40), sound), [(0.0, 40.0)])
    assert heard.heard_db == said.said_db
    assert heard.seconds == 40.0


def test_only_the_stretches_asked_for_are_listened_to(tmp_path):
    file = segment(
        tmp_path / "a.flac",
        np.concatenate([speech(10), nothing(20), speech(10)]),
        np.concatenate([nothing(20), speech(5), nothing(15)]),
    )
    assert loudness(file, [(10.0, 30.0)]).said_db == LEAST_DB
    assert loudness(file, [(11.0, 19.0), (26.0, 29.5)]) == Loudness(11.5, LEAST_DB, LEAST_DB)
    assert loudness(file, [(35.0, 99.0)]).seconds == 5.0
    assert loudness(file, [(99.0, 120.0)]) == loudness(file, [(5.0, 5.04)][:0]) == Loudness(0.0, LEAST_DB, LEAST_DB)
    assert loudness(file, [(5.0, 5.04)]).said_db == LEAST_DB, "too short for a syllable"


def test_a_segment_of_more_than_one_block_is_heard_to_its_end(tmp_path):
    file = segment(tmp_path / "a.flac", np.concatenate([nothing(65), speech(5)]), nothing(70))
    assert loudness(file, [(0.0, 70.0)]).said_db > VOICE_FROM_DB
    assert loudness(file, [(0.0, 65.0)]).said_db == LEAST_DB


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(Unreadable):
        loudness(tmp_path / "none.flac", [(0.0, 1.0)])
    (tmp_path / "odd.flac").write_bytes(b"fLaC and no more")
    with pytest.raises(Unreadable):
        loudness(tmp_path / "odd.flac", [(0.0, 1.0)])


# ---------------------------------------------------------------- from call to counter


class Tapes:
    """Segments by call, listened to at once; or a store that is away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.away = False

    async def loudness(self, call_id: str, spans: Sequence[tuple[float, float]]) -> Loudness:
        self.asked.append(call_id)
        if self.away:
            raise StoreAway("its disk is not mounted")
        return loudness(self.folder / f"{call_id}.flac", spans)


class House:
    """A ledger of calls that are over, their recordings, and who judges them."""

    def __init__(self, folder: Path) -> None:
        self.engine = in_memory()
        self.tapes = Tapes(folder)
        self.now = NINE + 3600
        self.calls = ledger_of_calls.Ledger(Session())

    async def __aenter__(self) -> House:
        self.ledger = Ledger(self.engine, executor=InlineExecutor())
        self.metrics = HotlineMetrics(CollectorRegistry())
        self.audibility = Audibility(self.ledger, self.metrics, self.tapes, lambda: self.now, "demo")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.ledger.close()
        self.engine.dispose()

    async def call(
        self, said: Sound, heard: Sound, *, at: float = NINE, lawyer: bool = False, rows: Sequence[Any] = (),
        stored: bool = True, agent: str = "601",
    ) -> str:  # fmt: skip
        """An answered call of which the recording holds 13 s of music, then the talk, then 6 s of closing."""
        talk_s = len(said) / RATE

        with store.session(self.engine) as session:
            self.calls.session = session
            call_id = self.calls.served(at, agent, wait_s=WAIT_S, talk_s=talk_s, wrap_up_s=5.0, lawyer=lawyer)
            for row in rows:
                row.call_id = call_id
                session.add(row)
        # The hotline answers 1 s after the call's arrival.
        file = segment(
            self.tapes.folder / f"{call_id}.flac",
            np.concatenate([speech(13), said, nothing(6)]), np.concatenate([speech(13), heard, speech(6)]),
        )  # fmt: skip
        if stored:
            self.is_stored(call_id, soundfile.info(str(file)).duration)
        return call_id

    def is_stored(self, call_id: str, seconds: float) -> None:
        self.ledger.write(
            models.Recording(
                call_id=call_id, store="local", at=self.now, path="p", sha256="0" * 64, seconds=seconds, channels=2,
                bytes=1,
            )
        )  # fmt: skip

    async def judged(self) -> dict[str, models.TalkSound]:
        rows = await self.ledger.ask(lambda s: s.query(models.TalkSound).all())
        return {row.call_id: row for row in rows}

    def counted(self) -> dict[tuple[str, str], float]:
        return {
            (sample.labels["side"], sample.labels["line"]): sample.value
            for family in self.metrics.registry.collect() if family.name == "sanling_one_way_audio"
            for sample in family.samples if sample.name.endswith("_total") and sample.value
        }  # fmt: skip

    def talks_judged(self, line: str = "party") -> float | None:
        return self.metrics.registry.get_sample_value("sanling_talks_judged_total", {"line": line})


JOINED = NINE + QUEUED_S + WAIT_S


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.mark.parametrize(
    ("said", "heard", "unheard"),
    [
        (speech(60), speech(60), ""),
        (nothing(60), speech(60), "caller"),
        (noise(60, -58), speech(60), "caller"),
        (speech(60), nothing(60), "agent"),
        (speech(60), alaw_silence(60), "agent"),
        (nothing(60), nothing(60), "both"),
        (one_word(60), speech(60), ""),
        (nothing(25), speech(25), ""),
        (speech(20), nothing(20), "agent"),
        (speech(9), nothing(9), ""),
        (np.concatenate([speech(10), nothing(50)]), speech(60), ""),
    ],
    ids=["both heard", "no packet of the caller's", "comfort noise of the caller's", "agent's microphone dead",
         "agent sends silence", "neither", "a caller who listens and says one word", "a caller who listens for a while",
         "a short talk with a dead agent", "too short for all", "caller muted after a while"],
)  # fmt: skip
async def test_each_talk_is_judged_once_and_counted(house, said, heard, unheard, caplog):
    call_id = await house.call(said, heard)
    with caplog.at_level(logging.WARNING, "sanling.audibility"):
        await house.audibility.judge_all()
        await house.audibility.judge_all()
    row = (await house.judged())[call_id]
    assert (row.agent, row.line, row.unheard) == ("601", "party", unheard)
    sides = {"": [], "both": ["caller", "agent"]}.get(unheard, [unheard])
    assert house.counted() == {(side, "party"): 1 for side in sides}
    assert house.talks_judged() == (1 if len(said) > 10 * RATE else 0)
    assert [f"call {call_id}: nothing was heard of the {side}" in caplog.text for side in ("caller", "agent")] == [
        side in sides for side in ("caller", "agent")
    ]
    assert house.tapes.asked in ([call_id], [])


async def test_a_hold_and_a_prompt_are_not_held_against_anybody(house):
    """The agent's key holds the caller for 40 s of 50; music plays meanwhile, and 601 is not heard for the rest."""
    held = [models.Hold(who="601", at=JOINED + 2.0, began=True), models.Hold(who="601", at=JOINED + 42.0, began=False)]
    call_id = await house.call(nothing(50), np.concatenate([nothing(2), speech(40), nothing(8)]), rows=held)
    spoken = await house.call(
        speech(20), np.concatenate([speech(5), nothing(15)]), at=NINE + 500,
        rows=[models.PromptHeard(n=0, at=JOINED + 500, side="both", prompt="disclaimer", seconds=5.0, whole=True)],
    )  # fmt: skip
    whispered = await house.call(
        speech(20), speech(20), at=NINE + 900, lawyer=True,
        rows=[models.PromptHeard(n=0, at=JOINED + 900, side="agent", prompt="whisper", seconds=15.0, whole=True)],
    )  # fmt: skip
    await house.audibility.judge_all()
    rows = await house.judged()
    assert (rows[call_id].agent_db, rows[call_id].unheard) == (None, "")
    assert rows[call_id].seconds < 10
    assert (rows[spoken].unheard, rows[spoken].agent_db) == ("agent", LEAST_DB), "the prompt's voice is not the agent's"
    assert rows[whispered].seconds == pytest.approx(18.5, abs=0.1)
    assert rows[whispered].line == "lawyer"


async def test_a_recording_with_time_missing_is_read_only_where_it_is_certain(house):
    call_id = await house.call(speech(60), speech(60), stored=False)
    house.is_stored(call_id, 79.0 - 55.0)
    await house.audibility.judge_all()
    assert (await house.judged())[call_id].agent_db is None


async def test_a_talk_waits_for_its_recording_and_for_its_end(house):
    call_id = await house.call(nothing(60), speech(60), stored=False)
    await house.audibility.judge_all()
    assert await house.judged() == {}
    house.is_stored(call_id, 79.0)
    await house.audibility.judge_all()
    assert house.counted() == {("caller", "party"): 1}
    house.ledger.write(
        models.Recording(
            call_id="demo-1.1", store="local", at=1.0, path="", sha256="", seconds=1.0, channels=2, bytes=1
        )
    )
    await house.audibility.judge_all()
    assert house.tapes.asked == [call_id]


async def test_what_an_earlier_controller_left_is_judged_at_the_start_and_counted_by_this_one(house):
    with store.session(house.engine) as session:
        assert unjudged(session, "demo", NINE - 10) == set()
    call_id = await house.call(nothing(60), speech(60))
    await house.ledger.flush()
    later = Audibility(house.ledger, house.metrics, house.tapes, lambda: house.now, "demo")
    with store.session(house.engine) as session:
        assert unjudged(session, "demo", NINE - 10) == {call_id}
        assert unjudged(session, "dem", NINE - 10) == unjudged(session, "demo", JOINED + 1) == set()
    house.now = JOINED + LOOKS_BACK_S - 1
    running = asyncio.get_running_loop().create_task(later.run())
    await asyncio.sleep(0.1)
    assert list(await house.judged()) == [call_id]
    with store.session(house.engine) as session:
        assert unjudged(session, "demo", NINE - 10) == set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_store_that_is_away_costs_a_line_on_the_log_and_a_database_nothing(house, caplog):
    outage = Outage(house.engine)
    call_id = await house.call(nothing(60), speech(60))
    outage.away = True
    with pytest.raises(StoreUnavailable):
        await house.audibility.judge_all()
    running = asyncio.get_running_loop().create_task(house.audibility.run())
    await asyncio.sleep(3 * EVERY_S)
    outage.away, house.tapes.away = False, True
    with caplog.at_level(logging.WARNING, "sanling.audibility"):
        await asyncio.sleep(2 * EVERY_S)
    assert f"call {call_id}: not known whether both sides were heard: its disk is not mounted" in caplog.text
    assert await house.judged() == {}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_nobody_foresaw_does_not_end_it(house, caplog, monkeypatch):
    call_id = await house.call(nothing(60), speech(60))
    asked = 0

    async def odd(call_id: str, spans: object) -> Loudness:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise ZeroDivisionError
        return Loudness(58.0, LEAST_DB, -20.0)

    monkeypatch.setattr(house.tapes, "loudness", odd)
    running = asyncio.get_running_loop().create_task(house.audibility.run())
    with caplog.at_level(logging.ERROR, "sanling.audibility"):
        await asyncio.sleep(2 * EVERY_S)
    assert "could not be judged" in caplog.text
    assert list(await house.judged()) == [call_id]
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# ---------------------------------------------------------------- whose talk, on which line


async def test_the_line_is_that_of_the_talks_beginning_and_a_consulted_lawyers_is_the_second(house):
    """601 consults 605 and hands over; then 605 transfers to the party line, where 602 has the caller."""
    at = NINE + QUEUED_S

    def write(session: Session) -> str:
        calls = ledger_of_calls.Ledger(session)
        call_id = calls.arrives(NINE)
        step = {"call_id": call_id, "state": "", "next": "", "actions": "", "agent": None}
        session.add(models.Transition(n=0, at=NINE + 2, heard=Heard.SAID_LAWYER.name, **step))
        session.add(models.Transition(n=1, at=at + 200, heard=Heard.TRANSFER_TO_PARTY_LINE.name, **step))
        for n, (agent, company, begin, end) in enumerate(
            [("601", "caller", 0, 50), ("601", "agent", 50, 80), ("605", "agent", 50, 80), ("605", "both", 80, 100),
             ("601", "both", 80, 100), ("605", "caller", 100, 200), ("602", "caller", 210, 300),
             ("612", "agent", 290, 300)]
        ):  # fmt: skip
            session.add(
                models.TalkTime(call_id=call_id, n=n, agent=agent, company=company, at=at + begin, until=at + end)
            )
        calls.ends(call_id, at + 310, "handled", "602", talk_s=250.0)
        session.add(
            models.Recording(
                call_id=call_id, store="local", at=at + 311, path="", sha256="", seconds=at + 310 - NINE - 1.0,
                channels=2, bytes=1,
            )
        )  # fmt: skip
        session.flush()
        return call_id

    with store.session(house.engine) as session:
        call_id = write(session)
        found = {talk.agent: (talk.line, talk.spans) for talk in talks(session, [call_id])}
    began = at - NINE - 1.0
    assert found == {
        "601": ("lawyer", ((began + 1, began + 49.5), (began + 81, began + 99.5))),
        "605": ("second_line", ((began + 81, began + 199.5),)),
        "602": ("party", ((began + 211, began + 299.5),)),
    }


async def test_of_a_call_that_we_placed_time_is_counted_from_its_end(house):
    with store.session(house.engine) as session:
        session.add(models.Call(id="demo-out_1772413200.1", caller_number="1", called_number="1", at=NINE))
        session.flush()
        session.add(
            models.OutboundCall(call_id="demo-out_1772413200.1", at=NINE, agent="601", number="1", role="lawyer")
        )
        session.add(
            models.TalkTime(
                call_id="demo-out_1772413200.1", n=1, agent="601", company="caller", at=NINE + 30, until=NINE + 70
            )
        )
        ledger_of_calls.Ledger(session).ends("demo-out_1772413200.1", NINE + 72, "handled", "601", talk_s=40.0)
        session.add(
            models.Recording(
                call_id="demo-out_1772413200.1", store="local", at=NINE + 73, path="", sha256="", seconds=60.0,
                channels=2, bytes=1,
            )
        )  # fmt: skip
        session.flush()
        [talk] = talks(session, ["demo-out_1772413200.1"])
    assert (talk.line, talk.spans) == ("lawyer", ((19.0, 57.5),))


# ---------------------------------------------------------------- told


async def test_the_report_names_the_calls_and_the_timeline_what_was_heard(house):
    heard = await house.call(speech(60), speech(60))
    silent = await house.call(
        nothing(60), speech(60), at=NINE + 500, agent="602",
        rows=[models.Hold(who="caller", at=JOINED + 540, began=True),
              models.Hold(who="602", at=JOINED + 541, began=False)],
    )  # fmt: skip
    short = await house.call(speech(5), speech(5), at=NINE + 1000)
    await house.audibility.judge_all()
    await house.ledger.flush()
    with store.session(house.engine) as session:
        made = report.make(session, day(MONDAY, ZONE), ZONE, Assessment(), house.now)
        lines = {
            call_id: [line.text for line in timeline(session, call_id) if line.kind in ("sound", "hold")]
            for call_id in (heard, silent, short)
        }
    assert [(row["call"], row["agent"], row["numerator"]) for row in made.why("one_way_audio")] == [(silent, "602", 1)]
    assert made.figure("one_way_audio").value == 1
    assert len(lines[heard]) == 1
    assert lines[silent][:2] == ["caller holds", "agent 602 is back"]
    assert lines[silent][2].startswith("talk with agent 602: caller -90 dB, agent -")
    assert lines[silent][2].endswith("not heard: caller")
    assert lines[short] == ["talk with agent 601: not judged, 4 s"]


@pytest.mark.real_time
async def test_the_vault_listens_to_what_the_store_holds(tmp_path):
    spool = Spool(tmp_path)
    sound = np.stack([nothing(12), speech(12)], axis=1)
    call_id = spool.ended_call(raw=(sound * 32768).astype("<i2").tobytes())
    async with spool.vault(None) as vault:
        await vault.store_all()
        found = await vault.loudness(call_id, [(1.0, 11.0)])
        assert (found.seconds, found.said_db) == (10.0, LEAST_DB)
        assert found.heard_db > VOICE_FROM_DB
        (spool.home / "local" / f"{capture.key(call_id)}.flac").unlink()
        with pytest.raises(Exception, match=call_id):
            await vault.loudness(call_id, [(1.0, 11.0)])
    assert list((spool.folder / "staged").glob(".loudness*")) == []
