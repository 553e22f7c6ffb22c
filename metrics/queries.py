"""What the dashboards show: each panel's question, its queries, and where its colours change.

Plain values: ``metrics.dashboards`` draws them for Grafana, and the tests put each query to a real Prometheus.
``$__rate_interval`` and ``$__range`` are Grafana's, ``$agent`` is a dashboard's choice of agents. Where a rule of the
house has a figure (11 s, 15 s, 90 s, 180 s), the colours change there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from metrics.hotline import (
    AGENT_STATES,
    JUDGED_OFFERS,
    MEAN_HANDLE_S,
    NATIONAL_LIMIT_S,
    SECOND_LINE_WAIT_S,
    SERVICE_LEVEL_S,
    THREE_RINGS_S,
    AgentState,
)

Colour = Literal["green", "yellow", "red", "blue", "orange", "purple", "gray"]
Thresholds = tuple[tuple[float | None, Colour], ...]
"""From each value on, this colour; the first one has None: from the bottom."""

RINGS: Final[Thresholds] = ((None, "green"), (THREE_RINGS_S, "yellow"), (NATIONAL_LIMIT_S, "red"))
WAIT: Final[Thresholds] = ((None, "green"), (SECOND_LINE_WAIT_S, "yellow"), (MEAN_HANDLE_S, "red"))
HANDLE: Final[Thresholds] = ((None, "green"), (SECOND_LINE_WAIT_S, "blue"), (MEAN_HANDLE_S, "red"))
AT_LEAST_95: Final[Thresholds] = ((None, "red"), (0.90, "yellow"), (0.95, "green"))
AT_LEAST_80: Final[Thresholds] = ((None, "red"), (0.70, "yellow"), (0.80, "green"))
AT_MOST_5: Final[Thresholds] = ((None, "green"), (0.05, "yellow"), (0.10, "red"))
QUEUE: Final[Thresholds] = ((None, "green"), (5, "yellow"), (20, "red"))
NONE_IS_GOOD: Final[Thresholds] = ((None, "green"), (1.0, "red"))
ONE_IS_GOOD: Final[Thresholds] = ((None, "red"), (1.0, "green"))
CLOSING: Final[Thresholds] = ((None, "green"), (5.3, "red"))
FIVE_MINUTES: Final[Thresholds] = ((None, "green"), (60.0, "yellow"), (300.0, "red"))
LATENCY: Final[Thresholds] = ((None, "green"), (0.1, "yellow"), (0.5, "red"))
PLAIN: Final[Thresholds] = ((None, "blue"),)


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    title: str
    meaning: str
    kind: Literal["stat", "lines", "bars", "states"]
    """states: each agent's state over time, its values as in STATES."""
    unit: Literal["s", "short", "percentunit", "bytes"]
    queries: tuple[Query, ...]
    thresholds: Thresholds = PLAIN


@dataclass(frozen=True)
class Dashboard:
    name: str
    """Of the file and, after ``sanling-``, the uid."""
    title: str
    meaning: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    since: str = "now-1h"
    refresh: str = "10s"
    by_agent: bool = False
    """Lets the reader choose agents."""
    for_the_wall: bool = False
    """Read from afar: a figure's colour fills its panel."""


STATES: Final[dict[AgentState, tuple[str, Colour]]] = {
    "idle": ("空闲 idle", "green"), "offered": ("振铃 offered", "yellow"),
    "talking": ("通话 talking", "blue"), "wrap_up": ("话后 wrap-up", "purple"),
    "paused": ("暂停 paused", "orange"), "signed_out": ("离席 signed out", "gray"),
}  # fmt: skip
"""How each state is shown; in a ``states`` panel the n-th of AGENT_STATES is the value n, from 1 on."""


def _quantiles(metric: str, *, by: str = "", legend: str = "", where: str = "") -> tuple[Query, ...]:
    labels = f"le, {by}" if by else "le"
    return tuple(
        Query(
            f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{where}[$__rate_interval])))",
            f"{legend} {name}".strip(),
        )
        for q, name in ((0.5, "p50"), (0.95, "p95"))
    )


def _increase(metric: str, by: str, *, where: str = "", window: str = "$__rate_interval", of: str = "") -> Query:
    labels = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return Query(f"sum by ({by}) (increase({metric}{where}[{window}]))", f"{labels} {of}".strip())


def _total(metric: str, legend: str) -> Query:
    return Query(f"sum(increase({metric}[$__range]))", legend)


def _share(part: str, *wholes: str, by: str = "", legend: str = "") -> Query:
    """Of the sum of `wholes`."""
    group = f" by ({by})" if by else ""
    numerator, *denominators = (f"sum{group} (increase({metric}[$__range]))" for metric in (part, *wholes))
    divisor = denominators[0] if len(denominators) == 1 else f"({' + '.join(denominators)})"
    return Query(f"{numerator} / {divisor}", legend)


_AGENT: Final = '{agent=~"$agent"}'
_ANSWER: Final = "sanling_hotline_answer_seconds"
_AGENT_ANSWER: Final = "sanling_agent_answer_seconds"
_OFFERS_JUDGED: Final = f'sanling_offers_total{{agent=~"$agent", outcome=~"{"|".join(JUDGED_OFFERS)}"}}'
_HANDLE: Final = "sanling_agent_handle_seconds"
_WAIT: Final = "sanling_queue_wait_seconds"
_ANSWERED: Final = '{result="answered"}'
_RATINGS: Final = "sanling_ratings_total"
_POINTS: Final = " + ".join(
    f'{score} * sum by (agent) (increase({_RATINGS}{{agent=~"$agent", score="{score}"}}[$__range]))'
    for score in range(1, 6)
)
_STATE_NOW: Final = " + ".join(
    f'{n} * sum by (agent) (sanling_agent_state{{agent=~"$agent", state="{state}"}})'
    for n, state in enumerate(AGENT_STATES, 1)
)


def _answered_by(edge: str) -> str:
    return f'sum(increase({_ANSWER}_bucket{{le="{edge}"}}[$__rate_interval]))'


WALL: Final = Dashboard(
    "wall", "三铃 大屏 The floor", "What the floor looks at: who waits, who is free, how the day goes.",
    (
        (
            "现在 Now",
            (
                Panel(
                    "排队人数 Waiting now", "Callers waiting for an agent.",
                    "stat", "short", (Query("sum(sanling_queue_length)", ""),), QUEUE,
                ),
                Panel(
                    "最长等待 Longest wait now", "Of those who wait now; yellow from 90 s, red from 180 s.",
                    "stat", "s", (Query("max(sanling_queue_oldest_wait_seconds)", ""),), WAIT,
                ),
                Panel(
                    "空闲座席 Agents free", "Who could take a call now.",
                    "stat", "short", (Query('sum(sanling_agents{state="idle"})', ""),), ONE_IS_GOOD,
                ),
                Panel(
                    "通话中 Calls now", "Calls that the hotline holds.",
                    "stat", "short", (Query("sum(sanling_calls_in_progress)", ""),),
                ),
                Panel(
                    "座席状态 Agents by state", "Over time; the last bar is now.",
                    "bars", "short", (Query("sum by (state) (sanling_agents)", "{{state}}"),),
                ),
                Panel(
                    "营业时间 Open", "1 while people serve the hotline.",
                    "stat", "short", (Query("max(sanling_open)", ""),), ((None, "gray"), (1.0, "green")),
                ),
                Panel(
                    "告警 Alerts", "Alerts that fire now; the runbook says what to do.",
                    "stat", "short", (Query('count(ALERTS{alertstate="firing"}) or vector(0)', ""),), NONE_IS_GOOD,
                ),
            ),
        ),
        (
            "接听 Answering",
            (
                Panel(
                    "三声内接听 Answered within three rings",
                    "SOP-1: 11 s, of the calls answered and of those that rang so long in vain; the national standard "
                    "asks for 95 %.",
                    "stat", "percentunit",
                    (_share(f'{_ANSWER}_bucket{{le="11.0"}}', f"{_ANSWER}_count", "sanling_calls_unanswered_total"),),
                    AT_LEAST_95,
                ),
                Panel(
                    "接听用时 Seconds to answer", "From the call's arrival to the hotline's answer: 11 s, never 15 s.",
                    "lines", "s", _quantiles(_ANSWER), RINGS,
                ),
                Panel(
                    "振铃次数 Calls by rings before the answer", "A ring is 1 s on, 4 s off: the second begins at 5 s.",
                    "bars", "short",
                    (
                        Query(_answered_by("5.0"), "1"),
                        Query(f"{_answered_by('10.0')} - {_answered_by('5.0')}", "2"),
                        Query(f"{_answered_by('15.0')} - {_answered_by('10.0')}", "3"),
                        Query(f"{_answered_by('+Inf')} - {_answered_by('15.0')}", "> 3"),
                    ),
                ),
                Panel(
                    "来电 Calls", "Calls that reached the controller.",
                    "stat", "short", (_total("sanling_calls_arrived_total", ""),),
                ),
                Panel(
                    "通话结果 Calls by outcome", "How each call ended; `broken` is always worth a look at the log.",
                    "bars", "short", (_increase("sanling_calls_ended_total", "outcome"),),
                ),
                Panel(
                    "身份核对 Identity", "SOP-2: one result a call.",
                    "bars", "short", (_increase("sanling_identity_total", "role, result"),),
                ),
            ),
        ),
        (
            "排队 Queue",
            (
                Panel(
                    "服务水平 Service level",
                    f"Answered by an agent within {SERVICE_LEVEL_S:g} s, of those answered or given up; "
                    "not who gave up within the first seconds.",
                    "stat", "percentunit",
                    (
                        _share(f'{_WAIT}_bucket{{result="answered", le="{SERVICE_LEVEL_S}"}}',
                               f'{_WAIT}_count{{result=~"answered|abandoned"}}'),
                    ),
                    AT_LEAST_80,
                ),
                Panel(
                    "平均等待 Mean wait", "Of the callers whom an agent answered (ASA).",
                    "stat", "s", (_share(f"{_WAIT}_sum{_ANSWERED}", f"{_WAIT}_count{_ANSWERED}"),), WAIT,
                ),
                Panel(
                    "放弃率 Abandoned", "Of those answered or given up, who gave up; not within the first seconds.",
                    "stat", "percentunit",
                    (_share(f'{_WAIT}_count{{result="abandoned"}}', f'{_WAIT}_count{{result=~"answered|abandoned"}}'),),
                    AT_MOST_5,
                ),
                Panel(
                    "平均处理时长 Mean handle time", "KPI-1: talk + hold + wrap-up, 180 s at most; of all agents.",
                    "stat", "s", (_share(f"{_HANDLE}_sum", f"{_HANDLE}_count"),), HANDLE,
                ),
                Panel("等待时长 Seconds waited", "However the waiting ended.", "lines", "s", _quantiles(_WAIT), WAIT),
                Panel(
                    "排队结果 How waiting ended", "Answered, or given up.",
                    "bars", "short", (_increase(f"{_WAIT}_count", "result"),),
                ),
            ),
        ),
        (
            "结束语与免责声明 Closing and disclaimer",
            (
                Panel(
                    "免责声明与结束语 Disclaimers and closings", "SOP-5 and SOP-6: read out whole, asked.",
                    "stat", "short",
                    (
                        _total("sanling_disclaimers_total", "免责声明 disclaimers"),
                        _total("sanling_closings_total", "结束语 closings"),
                    ),
                ),
                Panel(
                    "谁先挂机 Hung up by", "Who ended the call.",
                    "bars", "short", (_increase("sanling_hangups_total", "by"),),
                ),
                Panel(
                    "结束语后挂机 Seconds after the closing", "SOP-6: the caller first; after 5 s the hotline does.",
                    "lines", "s", _quantiles("sanling_after_closing_seconds"), CLOSING,
                ),
            ),
        ),
        (
            "回电 Callbacks",
            (
                Panel(
                    "待回电 Callbacks left", "Callers who left a number.",
                    "stat", "short", (_total("sanling_callbacks_left_total", ""),),
                ),
                Panel(
                    "回电结果 Callbacks by result", "What became of callbacks that are over.",
                    "bars", "short", (_increase("sanling_callbacks_ended_total", "result"),),
                ),
                Panel(
                    "外呼 Calls placed", "Callbacks and agents' calls to a case's people, by purpose and outcome.",
                    "bars", "short", (_increase("sanling_calls_placed_total", "purpose, outcome"),),
                ),
                Panel(
                    "外呼用时 Time of calls placed", "Seconds of ringing and of talk.",
                    "bars", "s",
                    (
                        _increase("sanling_calls_placed_ringing_seconds_total", "purpose", of="振铃 ringing"),
                        _increase("sanling_calls_placed_talk_seconds_total", "purpose", of="通话 talk"),
                    ),
                ),
            ),
        ),
    ),
    since="now/d", refresh="5s", for_the_wall=True,
)  # fmt: skip

AGENTS: Final = Dashboard(
    "agents", "三铃 座席 Agents", "Each agent: states, answering, handling, what callers say of it.",
    (
        (
            "在席 On duty",
            (
                Panel(
                    "座席状态 State of each agent", "One line an agent.",
                    "states", "short", (Query(_STATE_NOW, "{{agent}}"),),
                ),
                Panel(
                    "未接暂停 RONA", "Times an agent was paused because an offer was not taken.",
                    "stat", "short", (_increase("sanling_agent_rona_total", "agent", where=_AGENT, window="$__range"),),
                    NONE_IS_GOOD,
                ),
                Panel(
                    "派话结果 Offers by outcome", "Each ringing of an agent's phone.",
                    "bars", "short", (_increase("sanling_offers_total", "agent, outcome", where=_AGENT),),
                ),
                Panel(
                    "状态修复 States mended", "Agents held for nothing, freed by the watchdog; see the log.",
                    "stat", "short", (_increase("sanling_agents_mended_total", "state", window="$__range"),),
                    NONE_IS_GOOD,
                ),
            ),
        ),
        (
            "接听 Answering",
            (
                Panel(
                    "座席三声内接听 Agents: answered within three rings",
                    "SOP-1: 11 s, of all offers, taken or not, but for those that the caller ended.",
                    "stat", "percentunit",
                    (
                        _share(f'{_AGENT_ANSWER}_bucket{{agent=~"$agent", le="11.0"}}', _OFFERS_JUDGED,
                               by="agent", legend="{{agent}}"),
                    ),
                    AT_LEAST_95,
                ),
                Panel(
                    "座席接听用时 Agents: seconds to answer", "How long the agent's phone rang: 11 s, never 15 s.",
                    "lines", "s", _quantiles(_AGENT_ANSWER, by="agent", legend="{{agent}}", where=_AGENT), RINGS,
                ),
            ),
        ),
        (
            "处理 Handling",
            (
                Panel(
                    "接话量 Calls handled",
                    "KPI-1: 120 a day. Calls in which the agent talked with the caller, also those we placed; being "
                    "consulted is none.",
                    "stat", "short",
                    (_increase("sanling_agent_talks_total", "agent", where=_AGENT, window="$__range"),),
                ),
                Panel(
                    "平均处理时长 Mean handle time", "KPI-1: talk + hold + wrap-up, 180 s at most.",
                    "stat", "s",
                    (_share(f"{_HANDLE}_sum{_AGENT}", f"{_HANDLE}_count{_AGENT}", by="agent", legend="{{agent}}"),),
                    HANDLE,
                ),
                Panel(
                    "处理时长 Handle time", "Talk + hold + wrap-up of one call.",
                    "lines", "s", _quantiles(_HANDLE, by="agent", legend="{{agent}}", where=_AGENT), HANDLE,
                ),
                Panel(
                    "处理时长构成 Handle time by part", "Seconds of talk, hold and wrap-up.",
                    "bars", "s", (_increase("sanling_agent_handle_part_seconds_total", "part", where=_AGENT),),
                ),
            ),
        ),
        (
            "话后 After the call",
            (
                Panel(
                    "平均得分 Mean rating",
                    "KPI-7: 1 to 5, keyed after the talk by callers of any role. Of lawyers alone, KPI-4: the report.",
                    "stat", "short",
                    (Query(f"({_POINTS}) / sum by (agent) (increase({_RATINGS}{_AGENT}[$__range]))", "{{agent}}"),),
                ),
                Panel(
                    "评分 Ratings by score", "1 and 2 open a work order for the team leader.",
                    "bars", "short", (_increase(_RATINGS, "score", where=_AGENT),),
                ),
                Panel(
                    "评价邀请 Surveys by result", "What came of the question after each talk.",
                    "bars", "short", (_increase("sanling_surveys_total", "result"),),
                ),
                Panel(
                    "小结 Dispositions", "CRM-7: about 70 % are answered on the spot, the others become work orders.",
                    "bars", "short", (_increase("sanling_dispositions_total", "need, result"),),
                ),
                Panel(
                    "二次来电 Second calls", "KPI-2: calls on a matter that was served within the seven days before.",
                    "bars", "short", (_increase("sanling_second_calls_total", "need"),),
                ),
            ),
        ),
    ),
    since="now/d", by_agent=True,
)  # fmt: skip

SYSTEM: Final = Dashboard(
    "system", "三铃 系统 System health", "The machinery: alerts, links, recordings, database, controller.",
    (
        (
            "告警 Alerts",
            (
                Panel(
                    "告警 Alerts", "Alerts that fire now; the runbook says what to do.",
                    "stat", "short", (Query('count(ALERTS{alertstate="firing"}) or vector(0)', ""),), NONE_IS_GOOD,
                ),
                Panel(
                    "对账差异 Drift", "Calls of the last hour on which ledger, counters and Asterisk do not agree.",
                    "stat", "short",
                    (Query("max by (between, of) (sanling_drift_calls)", "{{between}} {{of}}"),), NONE_IS_GOOD,
                ),
                Panel(
                    "无主残留 Ghosts", "What belonged to no call; if nothing failed before, a fault of ours.",
                    "bars", "short", (_increase("sanling_ghosts_total", "kind"),),
                ),
                Panel(
                    "案件信息 Case look-ups", "What the AGI look-up said before the call reached the controller.",
                    "bars", "short", (_increase("sanling_case_context_total", "status"),),
                ),
            ),
        ),
        (
            "通话声音 Sound",
            (
                Panel(
                    "单通 One-way audio",
                    "Talks in which nothing was heard of a side; `sanling report day --why one_way_audio` names them.",
                    "stat", "short",
                    (_increase("sanling_one_way_audio_total", "side", window="$__range"),), NONE_IS_GOOD,
                ),
                Panel(
                    "单通率 Share of one-way audio", "Of the talks long enough to tell; every fifth is an alarm.",
                    "lines", "percentunit",
                    (
                        Query("sum by (side) (increase(sanling_one_way_audio_total[30m])) / ignoring (side) "
                              "group_left () clamp_min(sum(increase(sanling_talks_judged_total[30m])), 1)", "{{side}}"),
                    ),
                    ((None, "green"), (0.2, "red")),
                ),
                Panel(
                    "单通线路 One-way audio by line", "Which side was not heard, and for whom the agents were there.",
                    "bars", "short", (_increase("sanling_one_way_audio_total", "side, line"),),
                ),
                Panel(
                    "已判通话 Talks judged", "Long enough to tell whether the agent was heard.",
                    "bars", "short", (_increase("sanling_talks_judged_total", "line"),),
                ),
            ),
        ),
        (
            "录音 Recordings",
            (
                Panel(
                    "待存录音 Recordings pending", "Not yet safe in both stores.",
                    "stat", "short", (Query("sum(sanling_recordings_pending)", ""),),
                    ((None, "green"), (20, "yellow"), (100, "red")),
                ),
                Panel(
                    "最久未存 Oldest recording pending", "REC-2: in both stores within 5 min of the call's end.",
                    "stat", "s", (Query("max(sanling_recordings_oldest_pending_seconds)", ""),), FIVE_MINUTES,
                ),
                Panel(
                    "已存录音 Recordings stored", "REC-2: both stores must show the same.",
                    "bars", "short", (_increase("sanling_recordings_stored_total", "store"),),
                ),
                Panel(
                    "录音失败 Recording failures", "Failed attempts; each is tried again.",
                    "stat", "short", (_increase("sanling_recordings_failed_total", "stage", window="$__range"),),
                    NONE_IS_GOOD,
                ),
                Panel(
                    "磁盘余量 Disk free", "By place, and the least that there should be.",
                    "lines", "bytes",
                    (
                        Query("min by (place) (sanling_disk_free_bytes)", "{{place}}"),
                        Query("max(sanling_disk_minimum_bytes)", "下限 minimum"),
                    ),
                ),
            ),
        ),
        (
            "Asterisk",
            (
                Panel(
                    "与 Asterisk 的连接 Link to Asterisk", "1 while the controller hears Asterisk's events.",
                    "stat", "short", (Query("min(sanling_ari_up)", ""),), ONE_IS_GOOD,
                ),
                Panel(
                    "重连 Reconnects", "Times the link to Asterisk came back.",
                    "stat", "short", (_total("sanling_ari_reconnects_total", ""),), NONE_IS_GOOD,
                ),
                Panel(
                    "ARI 请求用时 ARI requests", "Waiting for a lane included.",
                    "lines", "s", _quantiles("sanling_ari_request_seconds", by="lane", legend="{{lane}}"), LATENCY,
                ),
                Panel(
                    "ARI 请求失败 Failed ARI requests", "`gone` is a caller who left; the others are not normal.",
                    "bars", "short", (_increase("sanling_ari_request_failures_total", "kind"),),
                ),
            ),
        ),
        (
            "数据库 Database",
            (
                Panel(
                    "数据库事务 Database transactions", "One transaction, of rows or a question, waiting for a lock "
                    "included.",
                    "lines", "s", _quantiles("sanling_database_seconds"), LATENCY,
                ),
                Panel(
                    "待写行 Rows waiting", "Rows in the local journal that the database has not taken yet.",
                    "lines", "short", (Query("sum(sanling_journal_waiting_rows)", ""),),
                ),
                Panel(
                    "拒收行 Rows refused", "Rows that could not be entered: journal/refused.jsonl, or no room.",
                    "stat", "short", (Query("sum(sanling_journal_refused_rows)", ""),), NONE_IS_GOOD,
                ),
            ),
        ),
        (
            "控制器 Controller",
            (
                Panel(
                    "运行时长 In service", "How long this controller has served; all counters began at zero then.",
                    "stat", "s", (Query("time() - max(sanling_start_time_seconds)", ""),),
                ),
                Panel(
                    "接管的来电 Calls adopted", "Calls of an earlier controller that the present one took up.",
                    "stat", "short", (_total("sanling_calls_adopted_total", ""),), NONE_IS_GOOD,
                ),
                Panel(
                    "事件循环延迟 Event-loop lag", "How late a timer of the controller fires.",
                    "lines", "s", _quantiles("sanling_event_loop_lag_seconds"), LATENCY,
                ),
                Panel(
                    "处理器 CPU", "Of one core.",
                    "lines", "percentunit",
                    (Query("sum(rate(sanling_process_cpu_seconds_total[$__rate_interval]))", ""),),
                    ((None, "green"), (0.7, "yellow"), (0.9, "red")),
                ),
                Panel(
                    "内存 Memory", "Of the controller's process.",
                    "lines", "bytes",
                    (
                        Query("sum(sanling_process_resident_memory_bytes)", "占用 resident"),
                        Query("sum(sanling_process_virtual_memory_bytes)", "虚拟 virtual"),
                    ),
                ),
                Panel(
                    "文件描述符 File descriptors", "Open, of those allowed.",
                    "stat", "percentunit",
                    (Query("max(sanling_process_open_fds / sanling_process_max_fds)", ""),),
                    ((None, "green"), (0.7, "yellow"), (0.9, "red")),
                ),
                Panel(
                    "进程时长 Process age", "Longer than it serves where it stood by as a spare first.",
                    "stat", "s", (Query("time() - max(sanling_process_start_time_seconds)", ""),),
                ),
            ),
        ),
    ),
)  # fmt: skip

DASHBOARDS: Final = (WALL, AGENTS, SYSTEM)
