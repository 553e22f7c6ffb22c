"""The report as one HTML page that needs nothing else: plots are SVG inside it, read by a team leader at 07:00.

The plots hold digits only; what they say is said by the page around them, so that no Chinese font is needed where the
page is made, and the reader's own is used.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from ari_app.flow.measures import SERVICE_WITHIN_S, Figure
from ari_app.report import NO_SOURCE, Report, quotient, shown, verdict, wanted

HEADLINES = (
    "calls", "answered", "service_level", "asa", "abandonment", "answer_within_three_rings", "handle_time", "occupancy",
    "first_call_resolution", "satisfaction",
)  # fmt: skip
AGENT_HEADLINES = ("calls_a_day", "handle_time", "occupancy", "offers_taken", "first_call_resolution", "satisfaction")
COLUMNS = (
    "calls_a_day", "handle_time", "occupancy", "offers_taken", "transfer_rate", "first_call_resolution",
    "lawyer_satisfaction", "satisfaction", "on_the_spot",
)  # fmt: skip
"""Of each agent."""
BLUE, GREEN, YELLOW, RED, GREY = "#2f6fb5", "#3c9d6b", "#e3b341", "#c8473c", "#8a94a0"
HOURS = range(24)


@dataclass(frozen=True)
class Plot:
    title: str
    says: str
    """What is to be seen, and in which colours."""
    legend: tuple[tuple[str, str], ...]
    """Colour and word."""
    svg: str
    """As a data URI."""


def page(report: Report) -> str:
    """The whole page."""
    folder = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return folder.get_template("report.html.j2").render(
        report=report,
        headlines=[report.figure(id) for id in (HEADLINES if report.agent is None else AGENT_HEADLINES)],
        columns=COLUMNS,
        plots=_plots(report),
        shown=shown,
        quotient=quotient,
        wanted=wanted,
        verdict=verdict,
        no_source=NO_SOURCE,
    )


def _plots(report: Report) -> list[Plot]:
    if report.agent is not None:
        return [_handled_by_hour(report)]
    return [_waits(report), _calls(report), _service(report), _handled_by_agent(report)]


def _waits(report: Report) -> Plot:
    answered, gave_up, everybody = (report.by_hour(id) for id in ("asa", "abandon_wait", "queue_wait"))
    of_answered, of_gave_up = _longest(answered), _longest(gave_up)

    def draw(axes: Axes) -> None:
        axes.bar([hour - 0.2 for hour in HOURS], _values(answered), width=0.4, color=BLUE)
        axes.bar([hour + 0.2 for hour in HOURS], _values(gave_up), width=0.4, color=RED)
        for hour, wait in enumerate(_longest(everybody)):
            if wait:
                colour = RED if wait == of_gave_up[hour] else BLUE if wait == of_answered[hour] else GREY
                axes.plot(hour, wait, "o", color=colour, markersize=5, markeredgecolor="white")
                axes.annotate(
                    f"{wait:.0f}", (hour, wait), (0, 4), textcoords="offset points", ha="center", fontsize=6
                )  # fmt: skip
        _by_hour(axes, "s")

    says = "按来电时刻，排队等待的秒数：柱为接通者、放弃者（含短放弃）各自的平均，圆点为该时段等得最久的一通"
    legend = ((BLUE, "接通"), (RED, "放弃"), (GREY, "其他（转回拨、中断等，仅圆点）"))
    return Plot("各时段等待", says, legend, _svg("waits", draw))


def _longest(figures: Sequence[Figure]) -> list[float]:
    return [max((part.numerator for part in one.parts), default=0.0) for one in figures]


def _calls(report: Report) -> Plot:
    answered, abandoned, short = (_values(report.by_hour(id)) for id in ("answered", "abandoned", "short_abandons"))
    held_against_us = [all_of_them - soon for all_of_them, soon in zip(abandoned, short, strict=True)]

    def draw(axes: Axes) -> None:
        _stack(axes, HOURS, [(answered, BLUE), (held_against_us, RED), (short, GREY)])
        _by_hour(axes, "")

    legend = ((BLUE, "接通"), (RED, "放弃"), (GREY, "短放弃"))
    return Plot("各时段来电", "按来电时刻，排队后接通或放弃的来电（通）", legend, _svg("calls", draw))


def _service(report: Report) -> Plot:
    one_day = len(report.period.days) == 1
    figures = report.by_hour("service_level") if one_day else list(report.by_day("service_level").values())
    labels = [str(hour) for hour in HOURS] if one_day else [f"{day:%m-%d}" for day in report.period.days]

    def draw(axes: Axes) -> None:
        places = range(len(figures))
        axes.bar(places, [100 * value for value in _values(figures)], color=GREEN)
        for place, one in zip(places, figures, strict=True):
            if one.value is not None:
                axes.annotate(f"{one.value:.0%}", (place, 100 * one.value), ha="center", va="bottom", fontsize=6)
        axes.set_ylim(0, 110)
        axes.set_xticks(places, labels)
        axes.set_ylabel("%")

    within = f"{SERVICE_WITHIN_S:.0f} 秒内接通"
    says = f"{'各时段' if one_day else '各日'}，{within}的占比；没有柱的没有可计的来电"
    return Plot("服务水平", says, ((GREEN, within),), _svg("service", draw))


HANDLE = (("talk_time", BLUE, "通话"), ("hold_time", YELLOW, "保持"), ("wrap_up_time", GREY, "话后"))


def _handle_target_s(report: Report) -> float:
    """What is asked of the mean handle time (KPI-1); 0: nothing."""
    return max((one.at_most for one in report.rules.targets if one.measure == "handle_time"), default=0.0)


def _handle_plot(report: Report, title: str, says: str, draw: Callable[[Axes], None]) -> Plot:
    target_s = _handle_target_s(report)
    legend = tuple((colour, word) for _, colour, word in HANDLE)

    def draw_with_target(axes: Axes) -> None:
        draw(axes)
        if target_s:
            axes.axhline(target_s, color=RED, linewidth=1, linestyle="--")

    if target_s:
        legend = (*legend, (RED, f"要求：{target_s:.0f} 秒以内"))
    return Plot(title, says, legend, _svg("handled", draw_with_target))


def _handled_by_agent(report: Report) -> Plot:
    agents = [number for number, figures in report.by_agent.items() if figures["handle_time"].parts]

    def draw(axes: Axes) -> None:
        rows = [([report.by_agent[agent][id].value or 0.0 for agent in agents], colour) for id, colour, _ in HANDLE]
        _stack(axes, range(len(agents)), rows)
        axes.set_xticks(range(len(agents)), agents, rotation=60 if len(agents) > 12 else 0)
        axes.set_ylabel("s")

    return _handle_plot(report, "各座席处理时长", "平均每通（秒）", draw)


def _handled_by_hour(report: Report) -> Plot:
    def draw(axes: Axes) -> None:
        _stack(axes, HOURS, [(_values(report.by_hour(id)), colour) for id, colour, _ in HANDLE])
        _by_hour(axes, "s")

    return _handle_plot(report, "各时段处理时长", "按来电时刻，平均每通（秒）", draw)


def _values(figures: Sequence[Figure]) -> list[float]:
    return [one.value or 0.0 for one in figures]


def _stack(axes: Axes, places: Sequence[int], rows: Sequence[tuple[Sequence[float], str]]) -> None:
    below = [0.0] * len(places)
    for values, colour in rows:
        axes.bar(places, values, bottom=below, color=colour)
        below = [low + value for low, value in zip(below, values, strict=True)]


def _by_hour(axes: Axes, unit: str) -> None:
    axes.set_xticks(HOURS, [str(hour) for hour in HOURS])
    axes.set_xlim(-0.7, 23.7)
    axes.set_ylabel(unit)


def _svg(name: str, draw: Callable[[Axes], None]) -> str:
    """Drawn without a display, the same bytes for the same figures."""
    canvas = Canvas(figsize=(7.2, 2.6), layout="constrained")
    axes = canvas.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
    axes.grid(axis="y", linewidth=0.4)
    axes.set_axisbelow(True)
    draw(axes)
    axes.set_ylim(bottom=0)
    out = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        canvas.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()
