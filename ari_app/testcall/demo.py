"""The main job, played out: one real call through the whole hotline, judged by ear on both sides.

A caller's phone and an agent's phone, both real SIP phones, meet in a hotline of their own on loopback. What each side
heard is taken from the audio it received, not from a log.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import hashlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app import founding, ledger, store
from ari_app.errors import SanlingError
from ari_app.flow.sop import State
from ari_app.founding import prepare
from ari_app.instance import Instance
from ari_app.settings import Settings, load
from ari_app.store import models
from ari_app.supervision import supervise
from ari_app.testcall.hearing import Ear, Heard, PromptSounds
from ari_app.testcall.phone import Call, Phone, PhoneError, Phones

INSTANCE = "demo"
ADDRESS, CALLER_AT, AGENT_AT = "127.0.30.1", "127.0.30.2", "127.0.30.3"
CALLER = "15400001001"
"""张伟 of the sample data, a party; case …12345, name Z W on keys 9 9."""
AGENT = "601"
RATES = 5
READY_WITHIN_S = 30.0
STORED_WITHIN_S = 30.0
CALLER_SPEAKS, AGENT_SPEAKS = "agent-resumed", "agent-paused"
"""Clips that stand in for the two people's own voices."""
LISTENS_S = 1.4
"""How much of a question the caller hears before typing over it."""
PICKS_UP_AFTER_S = 0.5
"""After the caller has heard that the call is put through: music is heard before the agent."""
KEY_PAUSE_S = 0.06
TURN_S = 0.4
"""People's pause before they speak or press a key."""
FIVE_SECONDS_TOLERANCE_S = 0.3


@dataclass
class Moment:
    """One line of the timeline."""

    at: float
    who: str
    what: str
    score: float | None = None
    state: str = ""


@dataclass
class Story:
    """What the demo saw, heard and measured."""

    asterisk: str = ""
    began_at: float = 0.0
    moments: list[Moment] = field(default_factory=list)
    heard: list[dict[str, Any]] = field(default_factory=list)
    call: dict[str, Any] = field(default_factory=dict)
    recordings: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    checks: list[tuple[str, bool, str]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(good for _, good, _ in self.checks)

    def check(self, name: str, good: bool, detail: str) -> None:
        self.checks.append((name, good, detail))

    def saw(self, who: str, what: str) -> None:
        self.moments.append(Moment(time.monotonic(), who, what))

    def as_json(self) -> str:
        return json.dumps(
            {
                "ok": self.ok,
                "asterisk": self.asterisk,
                "call": self.call,
                "heard": self.heard,
                "recordings": self.recordings,
                "metrics": self.metrics,
                "checks": [{"name": name, "ok": good, "detail": detail} for name, good, detail in self.checks],
            },
            ensure_ascii=False,
            indent=2,
        )


def perform(json_file: Path | None, out: Console) -> bool:
    """Plays the call, prints it, and says whether every figure is right. Raises SanlingError if it cannot begin."""
    settings = load(
        Path(os.devnull), instance=INSTANCE, address=ADDRESS, trunk={"addresses": [CALLER_AT]},
        queue={"wrap_up_s": 4.0}, database_url="", recordings={},
    )  # fmt: skip
    out.print("[bold]Setting up[/bold]")
    instance = prepare(settings, say=out.print)
    story = Story(asterisk=instance.asterisk_version)
    try:
        asyncio.run(_perform(settings, instance, story, out))
    except* PhoneError as errors:
        story.check("the call went through", False, "; ".join(_each(errors)))
    tell(story, out)
    if json_file is not None:
        json_file.write_text(story.as_json() + "\n", encoding="utf-8")
        out.print(f"written to {json_file}")
    return story.ok


def _each(errors: BaseExceptionGroup[PhoneError]) -> Iterator[str]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _each(error)
        else:
            yield str(error)


async def _perform(settings: Settings, instance: Instance, story: Story, out: Console) -> None:
    out.print("[bold]Starting the hotline[/bold]")
    ear = Ear(PromptSounds(settings.prompts / "audio"))
    async with asyncio.TaskGroup() as group, Phones(CALLER_AT, ear=ear) as phones:
        hotline = group.create_task(supervise(instance))
        await _ready(settings, hotline)
        out.print(
            f"it answers at {settings.address}; an agent signs in and a caller dials {settings.hotline_numbers[0]}"
        )
        try:
            await _call(phones, settings, story)
            await _aftermath(settings, story)
        finally:
            hotline.cancel()


async def _ready(settings: Settings, hotline: asyncio.Task[None]) -> None:
    url = f"http://{settings.control_address}:{settings.metrics_port}/health"
    until = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < until and not hotline.done():
        with contextlib.suppress(OSError):
            if await asyncio.to_thread(_fetch, url):
                return
        await asyncio.sleep(0.1)
    logs = settings.run_dir / "log"
    raise SanlingError(f"The hotline did not get ready in {READY_WITHIN_S:.0f} s; see {founding.shown(logs)}.")


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 (our own address)
        return str(answer.read().decode())


# ---------------------------------------------------------------- the call


async def _call(phones: Phones, settings: Settings, story: Story) -> None:
    with (settings.run_dir / "agents.csv").open(encoding="utf-8") as file:
        access = {row["number"]: row for row in csv.DictReader(file)}[AGENT]
    at = f"{settings.address}:{settings.sip_port}"
    agent = await phones.agent(AGENT, access["password"], registrar=at, address=AGENT_AT)
    caller = await phones.caller(CALLER).dials(settings.hotline_numbers[0], at=at)
    story.began_at = caller.began_at
    story.saw("caller", f"dials {settings.hotline_numbers[0]}")
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_sign_in(agent, access["pin"], story))
            conversation = group.create_task(_converse(caller, agent, settings, story))
    finally:
        caller.hang_up()
    _judge(conversation.result(), settings, story)


@dataclass(frozen=True)
class Both:
    """The two phones of the call and what they heard."""

    caller: Call
    caller_heard: list[Heard]
    offer: Call
    agent_heard: list[Heard]


async def _sign_in(agent: Phone, pin: str, story: Story) -> None:
    signing = await agent.dials(f"*11{pin}")
    story.saw("agent", "dials *11 and the PIN")
    await signing.answered()
    await signing.hears("agent-signed-in")
    story.saw("agent", "hears agent-signed-in")
    await signing.ended()


async def _converse(caller: Call, agent: Phone, settings: Settings, story: Story) -> Both:
    """Both people's parts, in order, and what each of them heard."""
    clips = settings.prompts / "audio"
    ear = caller.phone.phones.ear

    async def keys(digits: str) -> None:
        story.saw("caller", f"keys {digits}")
        await caller.keys(digits, pause_s=KEY_PAUSE_S)

    async def lasts(*prompts: str) -> None:
        await asyncio.sleep(sum(ear.seconds(prompt) for prompt in prompts) + TURN_S)

    await caller.answered()
    story.saw("hotline", "answers")
    await caller.hears("recording-notice")
    await caller.hears("opening")
    for answer in ("2", "1", "12345#", "99#"):  # a party, calling from the registered mobile; the case; the name
        await keys(answer)
    await lasts("identity-proven")
    await asyncio.sleep(LISTENS_S)
    await keys("1")
    offer = await agent.rings()
    story.saw("agent", f"rings: {offer.display}")
    await caller.hears("transferring")
    await asyncio.sleep(PICKS_UP_AFTER_S)
    await offer.picks_up()
    story.saw("agent", "picks up")
    await lasts("whisper-party-verified-milestone", f"opening-agent-{AGENT}", "is-it-mr-5f20")
    await asyncio.sleep(TURN_S)  # joining the two takes a moment too
    async with asyncio.TaskGroup() as group:
        group.create_task(caller.says(clips / f"{CALLER_SPEAKS}.alaw"))
        group.create_task(offer.says(clips / f"{AGENT_SPEAKS}.alaw"))
    story.saw("agent", "presses *5")
    await offer.keys("*5")
    await lasts("disclaimer")
    story.saw("agent", "presses *6")
    await offer.keys("*6")
    await offer.ended()
    await asyncio.sleep(LISTENS_S)  # the caller knows the question, and rates over it
    await keys(str(RATES))
    rated_at = time.monotonic()
    told = await offer.transcript(AGENT_HEARS)  # judged while the caller has five seconds to leave
    closing_lasts = ear.seconds("closing") + TURN_S - (time.monotonic() - rated_at)
    await asyncio.sleep(max(closing_lasts, 0.0))
    heard = await caller.transcript(CALLER_HEARS)
    await caller.ended(timeout_s=20)
    return Both(caller, heard, offer, told)


CALLER_HEARS = (
    "recording-notice", "opening", "identity-proven", "ask-need",
    "transferring", "hold-music", f"opening-agent-{AGENT}", "is-it-mr-5f20", AGENT_SPEAKS, "disclaimer",
    "ask-rating", "closing",
)  # fmt: skip
CUT_OFF = {"ask-need", "hold-music", "ask-rating"}
"""What the caller types over, or the next step ends."""
AGENT_HEARS = (
    "whisper-party-verified-milestone",
    f"opening-agent-{AGENT}",
    "is-it-mr-5f20",
    CALLER_SPEAKS,
    "disclaimer",
)


def _judge(both: Both, settings: Settings, story: Story) -> None:
    """What each side heard, from the audio it received, and the figures of the call."""
    caller, offer = both.caller, both.offer
    closing = next((one for one in both.caller_heard if one.prompt == "closing"), None)
    for side, phone, transcript, expected in (
        ("caller", caller, both.caller_heard, CALLER_HEARS),
        ("agent", offer, both.agent_heard, AGENT_HEARS),
    ):
        for heard in transcript:
            at = phone.heard.t0 + heard.at_s
            story.moments.append(Moment(at, side, f"hears {heard.prompt}", heard.score))
            story.heard.append(
                {
                    "side": side,
                    "prompt": heard.prompt,
                    "at_s": round(at - story.began_at, 2),
                    "score": round(heard.score, 3),
                }
            )
        good = {one.prompt for one in transcript if one.whole or (one.partly and one.prompt in CUT_OFF)}
        missing = [
            f"not {phone.phone.phones.ear.judge(phone.heard.samples, prompt)}"
            for prompt in expected
            if prompt not in good
        ]
        story.check(f"{side} heard everything", not missing, ", ".join(missing) or f"{len(expected)} prompts")
        order = [one.prompt for one in transcript if one.prompt in expected]
        firsts = list(dict.fromkeys(order))
        story.check(f"{side} heard it in order", firsts == [p for p in expected if p in firsts], " → ".join(firsts))
    answered = caller.answered_after_s or 0.0
    after_closing = (
        (caller.ended_at or 0.0) - (caller.heard.t0 + closing.until_s) if closing is not None else float("nan")
    )
    leave = settings.ending.leave_within_s
    story.call |= {
        "answered_after_s": round(answered, 2),
        "rings": caller.rings,
        "agent": AGENT,
        "agent_answered_after_s": round(offer.answered_after_s or 0.0, 2),
        "hung_up_by": "hotline" if caller.hung_up_by == "them" else "caller",
        "after_closing_s": round(after_closing, 2),
    }
    story.check(
        "answered within three rings",
        0 < answered <= settings.answering.deadline_s,
        f"{answered:.2f} s, ring {caller.rings}",
    )
    story.check("the hotline hung up", caller.hung_up_by == "them", str(caller.hung_up_by))
    story.check(
        "hung up 5 s after the closing",
        abs(after_closing - leave) <= FIVE_SECONDS_TOLERANCE_S,
        f"{after_closing:.2f} s",
    )
    story.moments.append(Moment(caller.ended_at or 0.0, "hotline", "hangs up"))


# ---------------------------------------------------------------- what it left behind


async def _aftermath(settings: Settings, story: Story) -> None:
    """The ledger's line, both recordings, the agent's metrics."""
    engine = store.open_engine(settings.database)
    try:
        with store.session(engine) as session:
            call = session.scalars(select(models.Call).order_by(models.Call.at.desc())).first()
        if call is None:
            story.check("the call is in the ledger", False, "no row")
            return
        story.call = {"id": call.id, **story.call}
        rows = await _stored(engine, call.id)
        with store.session(engine) as session:
            _ledger(session, call, story)
        _recordings(rows, story)
        await _metrics(settings, story)
    finally:
        engine.dispose()


async def _stored(engine: Any, call_id: str) -> list[models.Recording]:
    until = time.monotonic() + STORED_WITHIN_S
    while True:
        with store.session(engine) as session:
            rows = list(session.scalars(select(models.Recording).where(models.Recording.call_id == call_id)))
        if len(rows) >= 2 or time.monotonic() > until:
            return rows
        await asyncio.sleep(0.2)


def _ledger(session: Session, call: models.Call, story: Story) -> None:
    ending = session.get(models.Ending, call.id)
    identity = session.scalars(select(models.Identity).where(models.Identity.call_id == call.id)).first()
    came = session.scalars(select(models.Transition).where(models.Transition.call_id == call.id)).all()
    context = next((row.heard for row in came if row.state == State.FETCHING_CONTEXT.name), "")
    progress = ledger.replay(session, call.id)
    story.check("the ledger replays to the end", progress.state is State.ENDED, progress.state.name)
    verified = identity is not None and identity.verified
    story.call["identity"] = f"{identity.role if identity else 'unknown'} {'verified' if verified else 'unverified'}"
    story.check("the caller was verified", verified, str(story.call["identity"]))
    story.call["context"] = {"CONTEXT_CAME": "ok", "CONTEXT_FAILED": "unavailable"}.get(context, "none")
    story.check("the case came through AGI", context == "CONTEXT_CAME", str(story.call["context"]))
    rating = session.scalars(select(models.Rating).where(models.Rating.call_id == call.id)).first()
    story.call["rating"] = rating.score if rating is not None else None
    story.check("the caller rated the talk", rating is not None and rating.score == RATES, str(story.call["rating"]))
    if ending is not None:
        story.call |= {"queue_wait_s": round(ending.wait_s, 2), "talk_s": round(ending.talk_s, 2)}
        story.check("the call was handled", ending.outcome == "handled", ending.outcome)
        story.check(
            "it waited and talked",
            ending.wait_s > 0 and ending.talk_s > 0,
            f"{ending.wait_s:.1f} s, {ending.talk_s:.1f} s",
        )
    for row in came:
        story.moments.append(
            Moment(row.at - _monotonic_zero(), "hotline", row.heard.lower().replace("_", " "), None, row.next)
        )


def _monotonic_zero() -> float:
    """Unix seconds at which this machine's monotonic clock was zero."""
    return time.time() - time.monotonic()


def _recordings(rows: list[models.Recording], story: Story) -> None:
    sums = set()
    for row in sorted(rows, key=lambda row: row.store):
        digest = hashlib.sha256(Path(row.path).read_bytes()).hexdigest()
        info = soundfile.info(row.path)
        sums.add(digest)
        story.recordings.append(
            {"store": row.store, "path": founding.shown(Path(row.path)), "sha256": digest,
             "seconds": round(info.frames / info.samplerate, 2), "channels": info.channels}
        )  # fmt: skip
        story.check(
            f"the recording in store {row.store} is whole",
            digest == row.sha256 and info.channels == 2,
            f"{info.frames / info.samplerate:.1f} s, {info.channels} channels",
        )
    story.check("two stores hold the same recording", len(rows) == 2 and len(sums) == 1, f"{len(rows)} copies")


async def _metrics(settings: Settings, story: Story) -> None:
    """Scraped once the agent's wrap-up is over, so that the handle time is there."""
    url = f"http://{settings.control_address}:{settings.metrics_port}/metrics"
    until = time.monotonic() + settings.queue.wrap_up_s + 5
    while time.monotonic() < until:
        story.metrics = dict(_of_agent(await asyncio.to_thread(_fetch, url)))
        if any(
            "handle" in name and name.partition("{")[0].endswith("_count") and value
            for name, value in story.metrics.items()
        ):
            break
        await asyncio.sleep(0.3)
    for what in ("answer", "handle"):
        counted = {n: v for n, v in story.metrics.items() if what in n and n.partition("{")[0].endswith("_count")}
        story.check(
            f"the agent's {what} time is measured",
            any(v >= 1 for v in counted.values()),
            ", ".join(counted) or "no such metric",
        )


def _of_agent(text: str) -> Iterator[tuple[str, float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.labels.get("agent") == AGENT and not sample.name.endswith(("_bucket", "_created")):
                labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
                yield f"{sample.name}{{{labels}}}", sample.value


# ---------------------------------------------------------------- telling


def tell(story: Story, out: Console) -> None:
    """The timeline, the figures, and what is right and wrong."""
    timeline = Table("time", "who", "what", "score", "state", box=None, pad_edge=False)
    for moment in sorted(story.moments, key=lambda one: one.at):
        timeline.add_row(
            f"{moment.at - story.began_at:7.2f} s", moment.who, moment.what,
            "" if moment.score is None else f"{moment.score:.2f}", moment.state,
        )  # fmt: skip
    out.print("\n[bold]The call[/bold]")
    out.print(timeline)
    out.print("\n[bold]The figures[/bold]")
    for name, value in story.call.items():
        out.print(f"  {name:<24} {value}", markup=False)
    for kept in story.recordings:
        out.print(
            f"  recording {kept['store']:<14} {kept['path']} ({kept['seconds']} s, {kept['channels']} channels)",
            markup=False,
        )
        out.print(f"  {'':<24} sha256 {kept['sha256']}")
    for metric, value in story.metrics.items():
        out.print(f"  {metric} {value:g}", markup=False)
    out.print()
    for name, good, detail in story.checks:
        out.print(f"{'[green]✓[/green]' if good else '[red]✗[/red]'} {name}: {detail}")
    out.print(f"\n[bold]{'Every figure is right.' if story.ok else 'Something is wrong; see ✗ above.'}[/bold]")
