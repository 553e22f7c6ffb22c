"""Every figure the hotline publishes, in one class: its name, its unit, what it means.

Seconds everywhere, never milliseconds. Histograms are classic ones, with an edge on every threshold that
somebody is held to, so that "within three rings" and "within 180 s" are exact counts and not interpolations:

    5, 10, 15 s   a second, third, fourth burst of the mainland's ringback begins: answered within 1, 2, 3 rings
    11 s          the third burst ends: the hotline's own limit (SOP-1); 15 s is the national standard's
    90 s          mean wait for second-line support (SOP-4)
    180 s         mean handle time (KPI-1)

Labels hold no personal data. The only label that names anybody is ``agent``, the staff number, and it takes
only the numbers given to `HotlineMetrics.register_agents`; anything else is counted under ``other``. Every other
label takes a value of a short list below. So a hostile caller cannot make a series.

Counters and histograms live in the controller's memory: they begin at zero with each controller, and each says so in
its help text. What happened between the last scrape and a controller's end is in no counter; Prometheus takes the fall
to zero for what it is. Figures that must be whole are the ledger's. Gauges are read anew at each scrape.

A figure must never break a call: a value that is not in its list is counted as ``other`` and logged, a duration
that is negative or not a number is counted as zero. Everything here may be called from any thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

log = logging.getLogger("sanling.metrics")

OTHER: Final = "other"
"""What a label value outside its list is counted as."""
RESETS: Final = "Begins at zero with each controller."
"""Ends the help text of every counter and histogram."""

ONE_RING_S: Final = 5.0
THREE_RINGS_S: Final = 11.0
NATIONAL_LIMIT_S: Final = 15.0
SERVICE_LEVEL_S: Final = NATIONAL_LIMIT_S
"""The service level counts the callers whom an agent answered within this."""
SECOND_LINE_WAIT_S: Final = 90.0
MEAN_HANDLE_S: Final = 180.0

ANSWER_EDGES_S: Final = (1.0, 2.0, ONE_RING_S, 10.0, THREE_RINGS_S, NATIONAL_LIMIT_S, 20.0, 30.0)
HANDLE_EDGES_S: Final = (10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, MEAN_HANDLE_S, 300.0, 600.0, 900.0, 1800.0)
WAIT_EDGES_S: Final = (5.0, 10.0, SERVICE_LEVEL_S, 20.0, 30.0, 45.0, 60.0, SECOND_LINE_WAIT_S, 120.0, 180.0, 300.0,
                       600.0, 900.0, 1800.0)  # fmt: skip
AFTER_CLOSING_EDGES_S: Final = (0.5, 1.0, 2.0, 3.0, 4.0, 4.7, 5.0, 5.3, 6.0, 10.0)
"""Five seconds, and the ± 0.3 s that the hotline holds to (SOP-6)."""
LATENCY_EDGES_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

CallOutcome = Literal[
    "handled", "abandoned", "short_abandon", "left_in_menu", "fallback", "ceiling", "lost", "broken", "callback"
]  # fmt: skip
"""How a call ended, one value a call.

handled        an agent talked with the caller
abandoned      the caller gave up waiting
short_abandon  the caller gave up within the first seconds of waiting; not held against the service level
left_in_menu   the caller hung up before joining the queue
fallback       the dialplan spoke to the caller because the controller could not
ceiling        the call reached its longest allowed duration
lost           Asterisk died under it; the caller is called back first
broken         something failed inside the hotline; always worth an alarm
callback       the caller left the queue, or was not taken into it, and is called back
"""
CallbackEnd = Literal["served", "given_up", "expired", "cancelled"]
"""given_up: every attempt was in vain."""
PlacedFor = Literal["callback", "case"]
PlacedOutcome = Literal[
    "handled", "busy", "no_answer", "refused", "unreachable", "agent_missed", "agent_left", "lost", "broken"
]  # fmt: skip
"""How a call that the hotline placed ended. busy to unreachable: what the person's side said. agent_missed: the agent's
phone was not answered. agent_left: the agent hung up before the person answered.
"""
OfferOutcome = Literal["answered", "refused", "busy", "no_answer", "unreachable", "caller_left", "broken"]
"""How the ringing of one agent's phone for one caller ended.

refused: the agent pressed reject. unreachable: no phone is registered, or it could not be called.
caller_left: the caller gave up while the agent's phone rang, or the agent was another's after all; not the agent's
fault.
"""
JUDGED_OFFERS: Final[tuple[OfferOutcome, ...]] = ("answered", "refused", "busy", "no_answer", "unreachable")
"""Those that an agent is held to; the others ended for the caller's reasons, or for ours."""
Role = Literal["lawyer", "party", "unknown"]
IdentityResult = Literal["proven", "failed", "skipped", "left"]
"""skipped: the caller asked for a person instead. left: the caller hung up while being identified."""
ContextStatus = Literal["ok", "none", "unavailable"]
"""What the case look-up said before the call reached the controller; the dialplan's SANLING_CONTEXT."""
QueueResult = Literal["answered", "abandoned", "short_abandon", "ceiling", "lost", "broken", "callback"]
AgentState = Literal["idle", "offered", "talking", "wrap_up", "paused", "signed_out"]
MendedState = Literal["reserved", "ringing", "wrap_up"]
"""What the watchdog found an agent in: with no phone that rings, or long after the wrap-up's end."""
HungUpBy = Literal["caller", "agent", "hotline", "line"]
"""line: nobody did, Asterisk died."""
GhostKind = Literal["caller", "leg", "bridge", "agent", "recording"]
"""What was found without a call: a caller's channel, an agent's, a bridge, an agent held for nobody, or what was
recorded on a channel.
"""
Store = Literal["local", "second"]
DiskPlace = Literal["spool", "local", "second"]
"""spool: the run-time folder's disk, with database and journal. A store in S3 has no disk."""
Witnesses = Literal["ledger_and_metrics", "ledger_and_cdr"]
"""Whose accounts are compared: the ledger's with the counters', or with Asterisk's."""
DriftOf = Literal["ended", "offered", "talked"]
"""What of a call they tell: how it ended, what became of an offer of it, that an agent talked with the caller. Of the
last two Asterisk's records say nothing.
"""
RecordingStage = Literal["capture", "local", "second"]
"""Where a recording failed: capture is turning the spooled file into a finished one."""
Lane = Literal["fast", "blocking"]
AriFailure = Literal["gone", "refused", "server_error", "timeout", "unreachable"]
"""gone: 404, which on a call's verb means that the caller left. refused: any other 4xx."""
HandlePart = Literal["talk", "hold", "wrap_up"]

Side = Literal["caller", "agent"]
ServedLine = Literal["party", "lawyer", "second_line"]
"""For whom the agents of a line are there."""
Need = Literal["milestone", "material", "time", "pressing"]
DispositionResult = Literal["on_the_spot", "work_order"]
"""What an agent says came of a call: answered, or handed on to whoever must answer. CRM-7."""
SurveyResult = Literal["rated", "silent", "invalid", "person", "left", "not_asked"]
"""How the question after the talk ended: person: the caller asked for one instead. left: the caller hung up.
not_asked: not among the share that is asked, or rated already in this call.
"""

CALLBACK_ENDS: Final[tuple[CallbackEnd, ...]] = get_args(CallbackEnd)
PLACED_FOR: Final[tuple[PlacedFor, ...]] = get_args(PlacedFor)
PLACED_OUTCOMES: Final[tuple[PlacedOutcome, ...]] = get_args(PlacedOutcome)
CALL_OUTCOMES: Final[tuple[CallOutcome, ...]] = get_args(CallOutcome)
OFFER_OUTCOMES: Final[tuple[OfferOutcome, ...]] = get_args(OfferOutcome)
ROLES: Final[tuple[Role, ...]] = get_args(Role)
IDENTITY_RESULTS: Final[tuple[IdentityResult, ...]] = get_args(IdentityResult)
CONTEXT_STATUSES: Final[tuple[ContextStatus, ...]] = get_args(ContextStatus)
QUEUE_RESULTS: Final[tuple[QueueResult, ...]] = get_args(QueueResult)
AGENT_STATES: Final[tuple[AgentState, ...]] = get_args(AgentState)
GHOST_KINDS: Final[tuple[GhostKind, ...]] = get_args(GhostKind)
MENDED_STATES: Final[tuple[MendedState, ...]] = get_args(MendedState)
HUNG_UP_BY: Final[tuple[HungUpBy, ...]] = get_args(HungUpBy)
STORES: Final[tuple[Store, ...]] = get_args(Store)
DISK_PLACES: Final[tuple[DiskPlace, ...]] = get_args(DiskPlace)
WITNESSES: Final[tuple[Witnesses, ...]] = get_args(Witnesses)
DRIFTS_OF: Final[tuple[DriftOf, ...]] = get_args(DriftOf)
RECORDING_STAGES: Final[tuple[RecordingStage, ...]] = get_args(RecordingStage)
LANES: Final[tuple[Lane, ...]] = get_args(Lane)
ARI_FAILURES: Final[tuple[AriFailure, ...]] = get_args(AriFailure)
HANDLE_PARTS: Final[tuple[HandlePart, ...]] = get_args(HandlePart)
SIDES: Final[tuple[Side, ...]] = get_args(Side)
SERVED_LINES: Final[tuple[ServedLine, ...]] = get_args(ServedLine)
NEEDS: Final[tuple[Need, ...]] = get_args(Need)
DISPOSITION_RESULTS: Final[tuple[DispositionResult, ...]] = get_args(DispositionResult)
SURVEY_RESULTS: Final[tuple[SurveyResult, ...]] = get_args(SurveyResult)
SCORES: Final = ("1", "2", "3", "4", "5")

# Eight digits at most: no mobile number and no identity card number can become a label by mistake.
_STAFF_NUMBER = re.compile(r"[0-9]{1,8}")


class HotlineMetrics:
    """The hotline's figures in `registry`, told in the words of the trade.

    Each series exists from the start at zero, so that the first event of a day already shows as an increase.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._agents: set[str] = set()

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"sanling_{name}", f"{meaning} {RESETS}", labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(f"sanling_{name}", meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, edges: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"sanling_{name}", f"{meaning} {RESETS}", labels, registry=registry, buckets=edges)

        self._arrived = counter("calls_arrived", "Calls that reached the controller.")
        self._ended = counter("calls_ended", "Calls that ended, by outcome.", "outcome")
        self._in_progress = gauge("calls_in_progress", "Calls that the controller holds now.")
        self._hotline_answer = histogram(
            "hotline_answer_seconds", "Seconds from a call's arrival to the hotline's answer (SOP-1).", ANSWER_EDGES_S
        )
        self._unanswered = counter(
            "calls_unanswered",
            f"Calls that rang {THREE_RINGS_S:g} s or longer and that the hotline never answered, and those that the "
            "dialplan's fallback had to (SOP-1).",
        )
        self._context = counter("case_context", "Case look-ups before the call, by what they said.", "status")
        self._identity = counter("identity", "Identity checks, by role and result (SOP-2).", "role", "result")

        self._queue_length = gauge("queue_length", "Callers waiting for an agent now.")
        self._oldest_wait = gauge("queue_oldest_wait_seconds", "Seconds the longest-waiting caller has waited.")
        self._wait = histogram(
            "queue_wait_seconds", "Seconds a caller waited, by how the waiting ended.", WAIT_EDGES_S, "result"
        )

        self._open = gauge("open", "1 while people serve the hotline: its opening hours.")
        self._agents_by_state = gauge("agents", "Agents by state, now.", "state")
        self._agent_states = _AgentStates(self._agents)
        registry.register(self._agent_states)
        self._agent_answer = histogram(
            "agent_answer_seconds",
            "Seconds an agent's phone rang before the agent answered, told when the offer is over; not of offers that "
            "the caller ended (SOP-1).",
            ANSWER_EDGES_S,
            "agent",
        )
        self._handle = histogram(
            "agent_handle_seconds", "Talk + hold + wrap-up of one call, in seconds (KPI-1).", HANDLE_EDGES_S, "agent"
        )
        self._handle_parts = counter(
            "agent_handle_part_seconds", "Seconds agents spent handling calls, by part.", "agent", "part"
        )
        self._talks = counter(
            "agent_talks", "Calls in which the agent talked with the caller; being consulted is none (KPI-1).", "agent"
        )
        self._offers = counter("offers", "Calls offered to an agent's phone, by outcome.", "agent", "outcome")
        self._mended = counter(
            "agents_mended", "Times the watchdog ended an agent's state that cannot last, by state.", "state"
        )
        self._rona = counter("agent_rona", "Times an agent was paused because an offer was not taken.", "agent")

        self._disclaimers = counter("disclaimers", "Disclaimers read out whole (SOP-5).")
        self._closings = counter("closings", "Closing questions asked (SOP-6).")
        self._hangups = counter("hangups", "Calls by who hung up.", "by")
        self._after_closing = histogram(
            "after_closing_seconds",
            "Seconds from the end of the closing question to the hangup (SOP-6).",
            AFTER_CLOSING_EDGES_S,
            "by",
        )

        self._surveys = counter(
            "surveys", "Talks after which a caller could be asked to rate them, by result.", "result"
        )
        self._ratings = counter("ratings", "Callers' satisfaction, 1 to 5 (KPI-7).", "agent", "score")
        self._dispositions = counter(
            "dispositions", "What agents keyed after calls; a change counts too (CRM-7).", "need", "result"
        )
        self._second_calls = counter(
            "second_calls", "Calls on a matter served within the seven days before (KPI-2).", "need"
        )

        self._pending = gauge("recordings_pending", "Recordings not yet safe in both stores.")
        self._oldest_pending = gauge(
            "recordings_oldest_pending_seconds",
            "Seconds since the end of the oldest call whose recording is not yet in both stores; 0: there is none.",
        )
        self._stored = counter("recordings_stored", "Recordings stored and read back alike.", "store")
        self._recording_failures = counter("recordings_failed", "Failed attempts to keep a recording.", "stage")
        self._talks_judged = counter(
            "talks_judged", "Talks long enough to tell from their recording whether the agent was heard.", "line"
        )
        self._one_way_audio = counter(
            "one_way_audio", "Talks in which nothing at all was heard of one side, by its recording.", "side", "line"
        )
        self._callbacks = counter("callbacks_left", "Callers who left a number for a callback.")
        self._callbacks_ended = counter("callbacks_ended", "Callbacks that are over, by result.", "result")
        self._placed = counter("calls_placed", "Calls that we placed, by purpose and outcome.", "purpose", "outcome")
        self._placed_rang = counter("calls_placed_ringing_seconds", "Seconds that calls we placed rang.", "purpose")
        self._placed_talked = counter("calls_placed_talk_seconds", "Seconds talked in calls we placed.", "purpose")

        self._adopted = counter("calls_adopted", "Calls of an earlier controller that were taken up.")
        self._ghosts = counter("ghosts", "Channels, bridges and agents found without a call, and ended.", "kind")
        self._drift = gauge(
            "drift_calls",
            "Calls of the last hour on which two accounts do not agree: how they ended, what became of their offers, "
            "which agents talked with the caller.",
            "between",
            "of",
        )
        self._started = gauge("start_time_seconds", "Unix time at which this controller began to serve.")
        self._journal_rows = gauge("journal_waiting_rows", "Rows that wait for the database in the local journal.")
        self._refused_rows = gauge(
            "journal_refused_rows", "Rows that this controller could not enter: the database refused them, or no room."
        )
        self._disk_free = gauge("disk_free_bytes", "Free space of the disk, in bytes.", "place")
        self._disk_minimum = gauge("disk_minimum_bytes", "Free space below which a disk is full, in bytes.")
        ProcessCollector(namespace="sanling", registry=registry)
        self._ari_up = gauge("ari_up", "1 while the controller hears Asterisk's events.")
        self._ari_reconnects = counter("ari_reconnects", "Times the link to Asterisk came back.")
        self._ari_request = histogram(
            "ari_request_seconds", "Seconds a request to Asterisk took, waiting included.", LATENCY_EDGES_S, "lane"
        )
        self._ari_failures = counter("ari_request_failures", "Requests to Asterisk that failed.", "kind")
        self._loop_lag = histogram(
            "event_loop_lag_seconds", "Seconds a timer of the controller fired late.", LATENCY_EDGES_S
        )
        self._database = histogram(
            "database_seconds",
            "Seconds one transaction on the database took, be it of rows or a question.",
            LATENCY_EDGES_S,
        )
        self._begin_at_zero()

    # -- what is known beforehand -------------------------------------------------------------------------

    def register_agents(self, numbers: Iterable[str]) -> None:
        """Lets these staff numbers be label values; call again when agents are added.

        Raises ValueError for what cannot be a staff number (one to eight digits).
        """
        for number in numbers:
            if not _STAFF_NUMBER.fullmatch(number):
                raise ValueError("An agent number has one to eight digits.")
            self._agents.add(number)
            self._begin_agent_at_zero(number)

    def watch(
        self,
        *,
        calls_in_progress: Callable[[], float] | None = None,
        queue_length: Callable[[], float] | None = None,
        oldest_wait_s: Callable[[], float] | None = None,
        agents_in: Callable[[AgentState], float] | None = None,
        agent_states: Callable[[], Mapping[str, AgentState]] | None = None,
        open_now: Callable[[], float] | None = None,
        recordings_pending: Callable[[], float] | None = None,
        oldest_recording_s: Callable[[], float] | None = None,
        journal_rows: Callable[[], float] | None = None,
        refused_rows: Callable[[], float] | None = None,
    ) -> None:
        """Reads these at each scrape, in the exporter's thread: they must only look at plain values.

        One that raises shows as NaN; the scrape goes on. `agent_states`: agents' numbers and states.
        """
        for figure, read in (
            (self._in_progress, calls_in_progress),
            (self._queue_length, queue_length),
            (self._oldest_wait, oldest_wait_s),
            (self._open, open_now),
            (self._pending, recordings_pending),
            (self._oldest_pending, oldest_recording_s),
            (self._journal_rows, journal_rows),
            (self._refused_rows, refused_rows),
        ):
            if read is not None:
                figure.set_function(_guarded(read))
        if agents_in is not None:
            for state in AGENT_STATES:
                self._agents_by_state.labels(state).set_function(_guarded(_of_state(agents_in, state)))
        if agent_states is not None:
            self._agent_states.read = agent_states

    # -- the call -----------------------------------------------------------------------------------------

    def call_arrived(self) -> None:
        self._arrived.inc()

    def hotline_answered(self, seconds: float) -> None:
        """The hotline picked up, `seconds` after the call arrived. SOP-1."""
        self._hotline_answer.observe(_duration(seconds))

    def case_context(self, status: ContextStatus) -> None:
        self._context.labels(_listed(status, CONTEXT_STATUSES)).inc()

    def identity(self, role: Role, result: IdentityResult) -> None:
        """One caller's identity check ended; once a call, not once a try. SOP-2."""
        self._identity.labels(_listed(role, ROLES), _listed(result, IDENTITY_RESULTS)).inc()

    def queue_left(self, result: QueueResult, waited_s: float) -> None:
        """A caller stopped waiting: an agent answered, or the caller gave up."""
        self._wait.labels(_listed(result, QUEUE_RESULTS)).observe(_duration(waited_s))

    def disclaimer_read(self) -> None:
        self._disclaimers.inc()

    def closing_asked(self) -> None:
        self._closings.inc()

    def hung_up(self, by: HungUpBy, *, after_closing_s: float | None = None) -> None:
        """The call was hung up by one side; `after_closing_s` only if the closing had been asked. SOP-6."""
        side = _listed(by, HUNG_UP_BY)
        self._hangups.labels(side).inc()
        if after_closing_s is not None:
            self._after_closing.labels(side).observe(_duration(after_closing_s))

    def call_ended(self, outcome: CallOutcome, *, unanswered_s: float | None = None) -> None:
        """`unanswered_s`: seconds from its arrival to its end, of a call that the hotline never answered. SOP-1."""
        self._ended.labels(_listed(outcome, CALL_OUTCOMES)).inc()
        if outcome == "fallback" or (unanswered_s is not None and unanswered_s >= THREE_RINGS_S):
            self._unanswered.inc()

    def surveyed(self, result: SurveyResult) -> None:
        """The question after the talk ended so. KPI-7."""
        self._surveys.labels(_listed(result, SURVEY_RESULTS)).inc()

    def rated(self, agent: str, score: int) -> None:
        self._ratings.labels(self._agent(agent), _listed(str(score), SCORES)).inc()

    def disposed(self, need: Need, result: DispositionResult) -> None:
        """An agent keyed what a call was about and what came of it. CRM-7."""
        self._dispositions.labels(_listed(need, NEEDS), _listed(result, DISPOSITION_RESULTS)).inc()

    def second_call(self, need: Need) -> None:
        """A caller called again about a matter that was served within the seven days before. KPI-2."""
        self._second_calls.labels(_listed(need, NEEDS)).inc()

    def callback_left(self) -> None:
        self._callbacks.inc()

    def callback_ended(self, result: str) -> None:
        """A callback is over: one of CALLBACK_ENDS."""
        self._callbacks_ended.labels(_listed(result, CALLBACK_ENDS)).inc()

    def call_placed_ended(self, purpose: PlacedFor, outcome: PlacedOutcome, *, rang_s: float, talk_s: float) -> None:
        """A call that the hotline placed is over; the person's telephone rang `rang_s`, agent and person talked
        `talk_s` (seconds).
        """
        label = _listed(purpose, PLACED_FOR)
        self._placed.labels(label, _listed(outcome, PLACED_OUTCOMES)).inc()
        self._placed_rang.labels(label).inc(_duration(rang_s))
        self._placed_talked.labels(label).inc(_duration(talk_s))

    def call_adopted(self) -> None:
        """A call of an earlier controller was taken up."""
        self._adopted.inc()

    def ghost_found(self, kind: GhostKind) -> None:
        """Something in Asterisk or at the desk belonged to no call, and was ended."""
        self._ghosts.labels(_listed(kind, GHOST_KINDS)).inc()

    # -- agents -------------------------------------------------------------------------------------------

    def offer_ended(self, agent: str, outcome: OfferOutcome, *, answered_after_s: float | None = None) -> None:
        """`answered_after_s`: seconds that the phone rang, if the agent picked up; also before a refusal. SOP-1."""
        name = self._agent(agent)
        self._offers.labels(name, _listed(outcome, OFFER_OUTCOMES)).inc()
        if answered_after_s is not None and outcome in JUDGED_OFFERS:
            self._agent_answer.labels(name).observe(_duration(answered_after_s))

    def talked(self, agent: str) -> None:
        """The agent talked with the caller; once a call. KPI-1."""
        self._talks.labels(self._agent(agent)).inc()

    def agent_mended(self, state: MendedState) -> None:
        """An agent was held for nothing, and is free."""
        self._mended.labels(_listed(state, MENDED_STATES)).inc()

    def rona(self, agent: str) -> None:
        """The agent was paused because an offer was not taken (redirect on no answer)."""
        self._rona.labels(self._agent(agent)).inc()

    def handled(self, agent: str, talk_s: float, hold_s: float, wrap_up_s: float) -> None:
        """The agent is done with a call, wrap-up included. KPI-1."""
        name = self._agent(agent)
        parts = {"talk": _duration(talk_s), "hold": _duration(hold_s), "wrap_up": _duration(wrap_up_s)}
        for part, seconds in parts.items():
            self._handle_parts.labels(name, part).inc(seconds)
        self._handle.labels(name).observe(sum(parts.values()))

    # -- recordings ---------------------------------------------------------------------------------------

    def recording_stored(self, store: Store) -> None:
        """One copy lies in `store` and was read back alike. REC-2."""
        self._stored.labels(_listed(store, STORES)).inc()

    def recording_failed(self, stage: RecordingStage) -> None:
        """One attempt failed; it is tried again, and the recording stays pending."""
        self._recording_failures.labels(_listed(stage, RECORDING_STAGES)).inc()

    def talk_judged(self, line: ServedLine) -> None:
        """The recording of a talk was listened to, and there was enough of it to judge the agent's side by."""
        self._talks_judged.labels(_listed(line, SERVED_LINES)).inc()

    def one_way_audio(self, side: Side, line: ServedLine) -> None:
        """In a talk nothing was heard of `side`. Of both, if it is told of both."""
        self._one_way_audio.labels(_listed(side, SIDES), _listed(line, SERVED_LINES)).inc()

    def disk(self, place: DiskPlace, free_bytes: float) -> None:
        """The disk of `place` has so much room."""
        self._disk_free.labels(_listed(place, DISK_PLACES)).set(free_bytes)

    # -- the machinery ------------------------------------------------------------------------------------

    def began(self, at: float, *, disk_minimum_bytes: float) -> None:
        """This controller serves from `at` on (Unix seconds)."""
        self._started.set(at)
        self._disk_minimum.set(disk_minimum_bytes)

    def calls_ended(self) -> dict[str, int]:
        """Calls counted by `call_ended`, by outcome; outcomes without a call are left out."""
        return _counted(self._ended, "outcome")

    def offers_ended(self) -> dict[str, int]:
        """Offers counted by `offer_ended`, by outcome, of all agents; outcomes without an offer are left out."""
        return _counted(self._offers, "outcome")

    def talks(self) -> dict[str, int]:
        """Calls counted by `talked`, by agent; agents without one are left out."""
        return _counted(self._talks, "agent")

    def drift(self, between: Witnesses, of: DriftOf, calls: int) -> None:
        """Two accounts of the calls of the last hour differ by so many."""
        self._drift.labels(_listed(between, WITNESSES), _listed(of, DRIFTS_OF)).set(calls)

    def ari_up(self, up: bool) -> None:
        self._ari_up.set(float(up))

    def ari_reconnected(self) -> None:
        self._ari_reconnects.inc()

    def ari_request(self, lane: Lane, seconds: float) -> None:
        """A request was answered, well or badly, `seconds` after it was asked for, waiting for a lane included."""
        self._ari_request.labels(_listed(lane, LANES)).observe(_duration(seconds))

    def ari_request_failed(self, kind: AriFailure) -> None:
        self._ari_failures.labels(_listed(kind, ARI_FAILURES)).inc()

    def loop_lag(self, seconds: float) -> None:
        self._loop_lag.observe(_duration(seconds))

    @contextmanager
    def database_writing(self) -> Iterator[None]:
        """Times one transaction, one that only reads too; one that fails is not counted."""
        began = perf_counter()
        yield
        self._database.observe(_duration(perf_counter() - began))

    async def measure_loop_lag(self, every_s: float = 0.5) -> None:
        """Runs until cancelled: sleeps `every_s` and counts how late the event loop woke it up."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + every_s
            await asyncio.sleep(every_s)
            self.loop_lag(loop.time() - due)

    # -- inside -------------------------------------------------------------------------------------------

    def _agent(self, number: str) -> str:
        return number if number in self._agents else OTHER

    def _begin_at_zero(self) -> None:
        for outcome in CALL_OUTCOMES:
            self._ended.labels(outcome)
        for status in CONTEXT_STATUSES:
            self._context.labels(status)
        for role in ROLES:
            for result in IDENTITY_RESULTS:
                self._identity.labels(role, result)
        for waiting in QUEUE_RESULTS:
            self._wait.labels(waiting)
        for state in AGENT_STATES:
            self._agents_by_state.labels(state)
        for mended in MENDED_STATES:
            self._mended.labels(mended)
        for side in HUNG_UP_BY:
            self._hangups.labels(side)
            self._after_closing.labels(side)
        for end in CALLBACK_ENDS:
            self._callbacks_ended.labels(end)
        for purpose in PLACED_FOR:
            self._placed_rang.labels(purpose)
            self._placed_talked.labels(purpose)
            for came_to in PLACED_OUTCOMES:
                self._placed.labels(purpose, came_to)
        for store in STORES:
            self._stored.labels(store)
        for stage in RECORDING_STAGES:
            self._recording_failures.labels(stage)
        for line in SERVED_LINES:
            self._talks_judged.labels(line)
            for unheard in SIDES:
                self._one_way_audio.labels(unheard, line)
        for lane in LANES:
            self._ari_request.labels(lane)
        for kind in ARI_FAILURES:
            self._ari_failures.labels(kind)
        for of in DRIFTS_OF:
            self._drift.labels("ledger_and_metrics", of)
        self._drift.labels("ledger_and_cdr", "ended")
        for ghost in GHOST_KINDS:
            self._ghosts.labels(ghost)
        for survey in SURVEY_RESULTS:
            self._surveys.labels(survey)
        for need in NEEDS:
            self._second_calls.labels(need)
            for disposition in DISPOSITION_RESULTS:
                self._dispositions.labels(need, disposition)

    def _begin_agent_at_zero(self, agent: str) -> None:
        self._agent_answer.labels(agent)
        self._handle.labels(agent)
        self._rona.labels(agent)
        self._talks.labels(agent)
        for part in HANDLE_PARTS:
            self._handle_parts.labels(agent, part)
        for outcome in OFFER_OUTCOMES:
            self._offers.labels(agent, outcome)
        for score in SCORES:
            self._ratings.labels(agent, score)


class _AgentStates(Collector):
    """One series for each registered agent and state: 1 for the state that the agent is in. All 0: not known."""

    def __init__(self, agents: set[str]) -> None:
        self._agents = agents
        self.read: Callable[[], Mapping[str, AgentState]] = dict

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield self._family()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            states = self.read()
        except Exception:
            log.exception("The agents' states could not be read.")
            states = {}
        family = self._family()
        for agent in sorted(self._agents):
            for state in AGENT_STATES:
                family.add_metric([agent, state], float(states.get(agent) == state))
        yield family

    @staticmethod
    def _family() -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "sanling_agent_state", "1 for the state that the agent is in now.", labels=["agent", "state"]
        )


def _listed(value: str, values: tuple[str, ...]) -> str:
    if value in values:
        return value
    log.error("A figure was given a value outside its list; counted as %s. The list: %s", OTHER, values)
    return OTHER


def _counted(counter: Counter, label: str) -> dict[str, int]:
    """The counter's sums by the values of `label`; what is zero is left out."""
    sums: dict[str, int] = {}
    for family in counter.collect():
        for sample in family.samples:
            if sample.name.endswith("_total") and sample.value:
                sums[sample.labels[label]] = sums.get(sample.labels[label], 0) + int(sample.value)
    return sums


def _duration(seconds: float) -> float:
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _guarded(read: Callable[[], float]) -> Callable[[], float]:
    def value() -> float:
        try:
            return float(read())
        except Exception:
            log.exception("A figure could not be read.")
            return math.nan

    return value


def _of_state(agents_in: Callable[[AgentState], float], state: AgentState) -> Callable[[], float]:
    return lambda: agents_in(state)
