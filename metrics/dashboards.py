"""Draws ``metrics/grafana/*.json`` from ``metrics.queries``: ``python -m metrics.dashboards`` writes them anew.

Needs grafana-foundation-sdk, which is for developers: the JSON is committed, and whoever runs the hotline imports it.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model

from metrics.hotline import AGENT_STATES
from metrics.queries import DASHBOARDS, STATES, Dashboard, Panel

FOLDER: Final = Path(__file__).parent / "grafana"
ZONE: Final = "Asia/Shanghai"
"""The hotline's, whose day ``now/d`` is, wherever one looks from: the default of `time_zone` in hotline.toml."""
_SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")


def file_of(board: Dashboard) -> Path:
    return FOLDER / f"{board.name}.json"


def build(board: Dashboard) -> str:
    """The dashboard as Grafana imports it."""
    drawn = (
        dashboard.Dashboard(board.title)
        .uid(f"sanling-{board.name}")
        .description(board.meaning)
        .tags(["sanling"])
        .timezone(ZONE)
        .refresh(board.refresh)
        .time(board.since, "now")
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    if board.by_agent:
        drawn = drawn.with_variable(
            dashboard.QueryVariable("agent")
            .label("工号 Agent")
            .datasource(_SOURCE)
            .query("label_values(sanling_offers_total, agent)")
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.NUMERICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".*")
        )
    ids = count(1)
    for title, panels in board.rows:
        drawn = drawn.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            wide = panel.kind == "states"
            drawn = drawn.with_panel(_drawn(panel, board).id(next(ids)).span(12 if wide else 6).height(7))
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(drawn.build()) + "\n"


def _drawn(panel: Panel, board: Dashboard) -> stat.Panel | timeseries.Panel | statetimeline.Panel:
    drawn: stat.Panel | timeseries.Panel | statetimeline.Panel
    match panel.kind:
        case "stat":
            filled = common_model.BigValueColorMode.BACKGROUND
            drawn = (
                stat.Panel()
                .color_mode(filled if board.for_the_wall else common_model.BigValueColorMode.VALUE)
                .graph_mode(common_model.BigValueGraphMode.NONE)
                .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
            )
        case "states":
            drawn = statetimeline.Panel().mappings([_states()]).show_value(common_model.VisibilityMode.NEVER)
        case "lines" | "bars":
            drawn = _over_time(panel)
    drawn = (
        drawn.title(panel.title)
        .description(panel.meaning)
        .datasource(_SOURCE)
        .unit(panel.unit)
        .min(0)
        .thresholds(
            dashboard.ThresholdsConfig()
            .mode(model.ThresholdsMode.ABSOLUTE)
            .steps([model.Threshold(value=value, color=colour) for value, colour in panel.thresholds])
        )
    )
    for n, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(chr(ord("A") + n))
        drawn = drawn.with_target(target.instant() if panel.kind == "stat" else target.range())
    return drawn


def _over_time(panel: Panel) -> timeseries.Panel:
    bars = panel.kind == "bars"
    return (
        timeseries.Panel()
        .draw_style(common_model.GraphDrawStyle.BARS if bars else common_model.GraphDrawStyle.LINE)
        .fill_opacity(60 if bars else 0)
        .stacking(
            common.StackingConfig().mode(common_model.StackingMode.NORMAL if bars else common_model.StackingMode.NONE)
        )
        .thresholds_style(
            common.GraphThresholdsStyleConfig().mode(
                common_model.GraphThresholdsStyleMode.OFF
                if len(panel.thresholds) == 1
                else common_model.GraphThresholdsStyleMode.DASHED
            )
        )
        .legend(
            common.VizLegendOptions()
            .display_mode(common_model.LegendDisplayMode.LIST)
            .placement(common_model.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )


def _states() -> model.ValueMap:
    return model.ValueMap(
        options={
            str(n): model.ValueMappingResult(text=STATES[state][0], color=STATES[state][1], index=n)
            for n, state in enumerate(AGENT_STATES, 1)
        }
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for one in DASHBOARDS:
        file_of(one).write_text(build(one), encoding="utf-8")
