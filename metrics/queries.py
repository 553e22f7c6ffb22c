"""What the dashboard shows: each panel's question, its queries, and where its colours change.

Plain values: ``metrics.dashboard`` draws them for Grafana, and the tests put each query to a real Prometheus.
``$__rate_interval`` and ``$__range`` are Grafana's, ``$agent`` is the dashboard's choice of agents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from metrics.hotline import MEAN_HANDLE_S, NATIONAL_LIMIT_S, SECOND_LINE_WAIT_S, THREE_RINGS_S

Colour = Literal["green", "yellow", "red", "blue"]
Thresholds = tuple[tuple[float | None, Colour], ...]
"""From each value on, this colour; the first one has None: from the bottom."""

RINGS: Final[Thresholds] = ((None, "green"), (THREE_RINGS_S, "yellow"), (NATIONAL_LIMIT_S, "red"))
WAIT: Final[Thresholds] = ((None, "green"), (SECOND_LINE_WAIT_S, "yellow"), (MEAN_HANDLE_S, "red"))
HANDLE: Final[Thresholds] = ((None, "green"), (SECOND_LINE_WAIT_S, "blue"), (MEAN_HANDLE_S, "red"))
AT_LEAST_95: Final[Thresholds] = ((None, "red"), (0.90, "yellow"), (0.95, "green"))
AT_MOST_5: Final[Thresholds] = ((None, "green"), (0.05, "yellow"), (0.10, "red"))
NONE_IS_GOOD: Final[Thresholds] = ((None, "green"), (1.0, "red"))
ONE_IS_GOOD: Final[Thresholds] = ((None, "red"), (1.0, "green"))
CLOSING: Final[Thresholds] = ((None, "green"), (5.3, "red"))
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
    kind: Literal["stat", "lines", "bars"]
    unit: Literal["s", "short", "percentunit"]
    queries: tuple[Query, ...]
    thresholds: Thresholds = PLAIN


def _quantiles(metric: str, *, by: str = "", legend: str = "", where: str = "") -> tuple[Query, ...]:
    labels = f"le, {by}" if by else "le"
    return tuple(
        Query(
            f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{where}[$__rate_interval])))",
            f"{legend} {name}".strip(),
        )
        for q, name in ((0.5, "p50"), (0.95, "p95"))
    )


def _increase(metric: str, by: str, *, where: str = "", window: str = "$__rate_interval") -> Query:
    labels = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return Query(f"sum by ({by}) (increase({metric}{where}[{window}]))", labels)


def _total(metric: str, legend: str) -> Query:
    return Query(f"sum(increase({metric}[$__range]))", legend)


def _share(part: str, whole: str, *, by: str = "", legend: str = "") -> Query:
    group = f" by ({by})" if by else ""
    return Query(f"sum{group} (increase({part}[$__range])) / sum{group} (increase({whole}[$__range]))", legend)


_AGENT: Final = '{agent=~"$agent"}'
_ANSWER: Final = "sanling_hotline_answer_seconds"
_AGENT_ANSWER: Final = "sanling_agent_answer_seconds"
_HANDLE: Final = "sanling_agent_handle_seconds"
_WAIT: Final = "sanling_queue_wait_seconds"
_RATINGS: Final = "sanling_ratings_total"
_POINTS: Final = " + ".join(
    f'{score} * sum by (agent) (increase({_RATINGS}{{agent=~"$agent", score="{score}"}}[$__range]))'
    for score in range(1, 6)
)


def _answered_by(edge: str) -> str:
    return f'sum(increase({_ANSWER}_bucket{{le="{edge}"}}[$__rate_interval]))'


ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    (
        "接听 Answering",
        (
            Panel(
                "三声内接听 Answered within three rings", "SOP-1: 11 s at most; the national standard asks for 95 %.",
                "stat", "percentunit",
                (_share(f'{_ANSWER}_bucket{{le="11.0"}}', f"{_ANSWER}_count"),), AT_LEAST_95,
            ),
            Panel(
                "接听用时 Seconds to answer", "From the call's arrival to the hotline's answer.",
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
                "来电 Calls", "Calls that reached the controller, and those it holds now.",
                "stat", "short",
                (
                    _total("sanling_calls_arrived_total", "来电 arrived"),
                    Query("sum(sanling_calls_in_progress)", "通话中 now"),
                ),
            ),
            Panel(
                "通话结果 Calls by outcome", "How each call ended; `broken` is always worth a look at the log.",
                "bars", "short", (_increase("sanling_calls_ended_total", "outcome"),),
            ),
            Panel(
                "案件信息 Case look-ups", "What the AGI look-up said before the call reached the controller.",
                "bars", "short", (_increase("sanling_case_context_total", "status"),),
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
                "排队人数 Waiting now", "Callers waiting for an agent.",
                "stat", "short", (Query("sum(sanling_queue_length)", ""),),
                ((None, "green"), (5, "yellow"), (20, "red")),
            ),
            Panel(
                "最长等待 Longest wait now", "Of those who wait now.",
                "stat", "s", (Query("max(sanling_queue_oldest_wait_seconds)", ""),), WAIT,
            ),
            Panel(
                "放弃率 Abandoned", "Of the callers in the queue, those who gave up; not within the first seconds.",
                "stat", "percentunit",
                (_share(f'{_WAIT}_count{{result="abandoned"}}', f'{_WAIT}_count{{result!="short_abandon"}}'),),
                AT_MOST_5,
            ),
            Panel("等待时长 Seconds waited", "However the waiting ended.", "lines", "s", _quantiles(_WAIT), WAIT),
            Panel(
                "排队结果 How waiting ended", "Answered, or given up.",
                "bars", "short", (_increase(f"{_WAIT}_count", "result"),),
            ),
        ),
    ),
    (
        "座席 Agents",
        (
            Panel(
                "座席状态 Agents by state", "Over time; the last bar is now.",
                "bars", "short", (Query("sum by (state) (sanling_agents)", "{{state}}"),),
            ),
            Panel(
                "座席三声内接听 Agents: answered within three rings", "SOP-1: an offer rings 11 s at most.",
                "stat", "percentunit",
                (
                    _share(f'{_AGENT_ANSWER}_bucket{{agent=~"$agent", le="11.0"}}', f"{_AGENT_ANSWER}_count{_AGENT}",
                           by="agent", legend="{{agent}}"),
                ),
                AT_LEAST_95,
            ),
            Panel(
                "座席接听用时 Agents: seconds to answer", "How long the agent's phone rang.",
                "lines", "s", _quantiles(_AGENT_ANSWER, by="agent", legend="{{agent}}", where=_AGENT), RINGS,
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
            Panel(
                "接话量 Calls handled", "KPI-1: 120 a day.",
                "stat", "short", (_increase(f"{_HANDLE}_count", "agent", where=_AGENT, window="$__range"),),
            ),
            Panel(
                "派话结果 Offers by outcome", "Each ringing of an agent's phone.",
                "bars", "short", (_increase("sanling_offers_total", "agent, outcome", where=_AGENT),),
            ),
            Panel(
                "未接暂停 RONA", "Times an agent was paused because an offer was not taken.",
                "stat", "short", (_increase("sanling_agent_rona_total", "agent", where=_AGENT, window="$__range"),),
                NONE_IS_GOOD,
            ),
            Panel(
                "状态修复 States mended", "Agents held for nothing, freed by the watchdog; see the log.",
                "stat", "short", (_increase("sanling_agents_mended_total", "state", window="$__range"),),
                NONE_IS_GOOD,
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
        "话后 After the call",
        (
            Panel(
                "平均得分 Mean rating", "KPI-4, KPI-7: 1 to 5, keyed by the caller after the talk.",
                "stat", "short",
                (
                    Query(f"({_POINTS}) / sum by (agent) (increase({_RATINGS}{_AGENT}[$__range]))", "{{agent}}"),
                ),
                ((None, "red"), (4.0, "yellow"), (4.7, "green")),
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
    (
        "录音与回电 Recordings and callbacks",
        (
            Panel(
                "待存录音 Recordings pending", "Not yet safe in both stores.",
                "stat", "short", (Query("sum(sanling_recordings_pending)", ""),),
                ((None, "green"), (20, "yellow"), (100, "red")),
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
                    _increase("sanling_calls_placed_ringing_seconds_total", "purpose"),
                    _increase("sanling_calls_placed_talk_seconds_total", "purpose"),
                ),
            ),
        ),
    ),
    (
        "系统 Machinery",
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
                "接管的来电 Calls adopted", "Calls of an earlier controller that the present one took up.",
                "stat", "short", (_total("sanling_calls_adopted_total", ""),), NONE_IS_GOOD,
            ),
            Panel(
                "无主残留 Ghosts", "What belonged to no call and was ended; if nothing failed before, a fault of ours.",
                "bars", "short", (_increase("sanling_ghosts_total", "kind"),),
            ),
            Panel(
                "ARI 请求用时 ARI requests", "Waiting for a lane included.",
                "lines", "s", _quantiles("sanling_ari_request_seconds", by="lane", legend="{{lane}}"), LATENCY,
            ),
            Panel(
                "ARI 请求失败 Failed ARI requests", "`gone` is a caller who left; the others are not normal.",
                "bars", "short", (_increase("sanling_ari_request_failures_total", "kind"),),
            ),
            Panel(
                "事件循环延迟 Event-loop lag", "How late a timer of the controller fires.",
                "lines", "s", _quantiles("sanling_event_loop_lag_seconds"), LATENCY,
            ),
            Panel(
                "数据库写入 Database writes", "One committed write.",
                "lines", "s", _quantiles("sanling_database_write_seconds"), LATENCY,
            ),
        ),
    ),
)  # fmt: skip
