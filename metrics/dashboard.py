"""Draws ``metrics/grafana/hotline.json`` from ``metrics.queries``: ``python -m metrics.dashboard`` writes it anew.

Needs grafana-foundation-sdk, which is for developers: the JSON is committed, and whoever runs the hotline imports it.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model

from metrics.queries import ROWS, Panel

FILE: Final = Path(__file__).parent / "grafana" / "hotline.json"
_SOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")


def build() -> str:
    """The dashboard as Grafana imports it."""
    board = (
        dashboard.Dashboard("三铃热线 Sanling hotline")
        .uid("sanling-hotline")
        .description("One legal hotline: answering, queue, agents, closing, recordings, machinery.")
        .tags(["sanling"])
        .timezone("browser")
        .refresh("10s")
        .time("now-1h", "now")
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
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
    )
    ids = count(1)
    for title, panels in ROWS:
        board = board.with_row(dashboard.Row(title).id(next(ids)))
        for panel in panels:
            board = board.with_panel(_drawn(panel).id(next(ids)).span(6).height(7))
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(board.build()) + "\n"


def _drawn(panel: Panel) -> stat.Panel | timeseries.Panel:
    drawn: stat.Panel | timeseries.Panel
    if panel.kind == "stat":
        drawn = (
            stat.Panel()
            .color_mode(common_model.BigValueColorMode.VALUE)
            .graph_mode(common_model.BigValueGraphMode.NONE)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        )
    else:
        bars = panel.kind == "bars"
        drawn = (
            timeseries.Panel()
            .draw_style(common_model.GraphDrawStyle.BARS if bars else common_model.GraphDrawStyle.LINE)
            .fill_opacity(60 if bars else 0)
            .stacking(
                common.StackingConfig().mode(
                    common_model.StackingMode.NORMAL if bars else common_model.StackingMode.NONE
                )
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


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(build(), encoding="utf-8")
