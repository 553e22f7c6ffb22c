"""A real Prometheus for the tests: it scrapes a hotline every second, and each of the dashboards' queries is put to it.

    async with Prometheus("127.0.20.1:9464") as prometheus:
        await prometheus.scraped_again()
        ...  # what happens while it scrapes; events from before the first scrape are no increase, and do not count
        await prometheus.scraped_again()
        assert await prometheus.idle_panels() == []

It evaluates the committed rules and alerts every second, too.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import socket
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Final, Literal, Self

from ari_app import roots
from ari_app.instance import SUITE
from ari_app.settings import PROJECT

DASHBOARDS = PROJECT / "metrics" / "grafana"
RULES = PROJECT / "metrics" / "prometheus"
STARTS_WITHIN_S = 20.0


NOTHING_FAILED: Final = {
    "wall: 告警 Alerts": "no alert fires",
    "wall: 振铃次数 Calls by rings before the answer, 2": "the hotline picks up at the first ring",
    "wall: 振铃次数 Calls by rings before the answer, 3": "as the second",
    "wall: 振铃次数 Calls by rings before the answer, > 3": "as the second",
    "agents: 状态修复 States mended": "the watchdog found nothing",
    "system: 告警 Alerts": "no alert fires",
    "system: 对账差异 Drift": "the accounts agree",
    "system: 无主残留 Ghosts": "all belonged to a call",
    "system: 单通 One-way audio": "both sides were heard",
    "system: 单通率 Share of one-way audio": "both sides were heard",
    "system: 单通线路 One-way audio by line": "both sides were heard",
    "system: 录音失败 Recording failures": "both stores took them",
    "system: 重连 Reconnects": "the link holds",
    "system: ARI 请求失败 Failed ARI requests": "Asterisk did what it was asked",
    "system: 待写行 Rows waiting": "the database takes them at once",
    "system: 拒收行 Rows refused": "the database takes them all",
    "system: 接管的来电 Calls adopted": "it is the first controller",
}
"""Panels that may show zero only, if nothing failed while Prometheus looked; and why."""


def queries(agent: str = ".*") -> list[tuple[str, str]]:
    """(dashboard, panel and, if the panel has several, legend; query) of the committed dashboards, Grafana's variables
    replaced as Grafana would.
    """
    replaced = {"$__rate_interval": "4s", "$__range": "1h", "$agent": agent}
    found = []
    for file in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            targets = panel.get("targets", [])
            for target in targets:
                expr, legend = target["expr"], f", {target['legendFormat']}" if len(targets) > 1 else ""
                for variable, value in replaced.items():
                    expr = expr.replace(variable, value)
                if unknown := re.findall(r"\$\w+", expr):
                    raise AssertionError(f"{panel['title']} uses {unknown}, which Grafana does not know")
                found.append((f"{file.stem}: {panel['title']}{legend}", expr))
    return found


def program(name: Literal["prometheus", "promtool"], *arguments: str, folders: Iterable[Path] = ()) -> list[str]:
    """The command line of the machine's, else of one from Debian in a private root, which sees `folders` only.

    Blocks for as long as a download takes.
    """
    command = [name, *arguments]
    if shutil.which(name) is not None:
        return command
    root = roots.fetch("prometheus", SUITE, ["prometheus"], progress=print)
    return roots.sandbox(root, command, rw_binds=folders)


class Prometheus:
    """Scrapes `target` every second from entering, which waits for the first scrape, until leaving."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._began = 0.0
        self._url = ""
        self._folder: TemporaryDirectory[str] | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._folder = TemporaryDirectory(prefix="sanling-prometheus-")
        folder = Path(self._folder.name)
        listen = f"127.0.0.1:{_free_port()}"
        self._url = f"http://{listen}/api/v1"
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
            f"rule_files: [{folder}/recording.yml, {folder}/alerts.yml]\n"
            "scrape_configs: [{job_name: sanling, static_configs: [{targets: ['" + self._target + "']}]}]\n"
        )
        for rules in ("recording.yml", "alerts.yml"):
            shutil.copy(RULES / rules, folder)
        command = await asyncio.to_thread(
            program, "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={listen}", "--log.level=warn", folders=[folder],
        )  # fmt: skip
        with (folder / "said").open("wb") as said:
            self._process = await asyncio.create_subprocess_exec(*command, stdout=said, stderr=said)
        try:
            await self._scraped(at_least=1, within_s=STARTS_WITHIN_S)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()
        if self._folder is not None:
            self._folder.cleanup()

    async def scraped_again(self, times: int = 2) -> None:
        """Returns when that many more scrapes were stored."""
        await self._scraped(at_least=await self._scrapes() + times, within_s=times + 10.0)

    async def idle_panels(self, *, may_be_zero: Mapping[str, str] = NOTHING_FAILED) -> list[str]:
        """Panels of which nothing above zero was seen since the first scrape: every series begins at zero, so what
        nobody ever counts has points as well. Those that `may_be_zero`, with why, must have a point. A name there that
        no panel has is returned, too.
        """
        asked = queries()
        most = await asyncio.gather(*(self._most(expr) for _, expr in asked))
        idle = [
            f"{title}: {expr}"
            for (title, expr), value in zip(asked, most, strict=True)
            if value is None or (value <= 0 and title not in may_be_zero)
        ]
        return idle + sorted(may_be_zero.keys() - {title for title, _ in asked})

    async def value(self, expr: str) -> float:
        """The one value of `expr` now. Raises AssertionError if there is none or more than one."""
        result = (await self._get("query", query=expr))["result"]
        assert len(result) == 1, (expr, result)
        return float(result[0]["value"][1])

    async def values(self, expr: str, label: str) -> dict[str, float]:
        """The values of `expr` now, by `label`."""
        result = (await self._get("query", query=expr))["result"]
        return {series["metric"][label]: float(series["value"][1]) for series in result}

    async def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        result = (await self._get("query", query='ALERTS{alertstate="firing"}'))["result"]
        return {series["metric"]["alertname"] for series in result}

    async def _most(self, expr: str) -> float | None:
        """The highest point of a graph of `expr` since the first scrape; None if it has none."""
        data = await self._get("query_range", query=expr, start=self._began, end=time.time(), step="1s")
        points = (float(value) for series in data["result"] for _, value in series["values"])
        return max((point for point in points if math.isfinite(point)), default=None)

    async def _scraped(self, *, at_least: int, within_s: float) -> None:
        async with asyncio.timeout(within_s):
            while await self._scrapes() < at_least:  # noqa: ASYNC110 - another program has no Event
                await asyncio.sleep(0.1)

    async def _scrapes(self) -> int:
        try:
            result = (await self._get("query", query="sum_over_time(up[1h])"))["result"]
        except OSError:
            self._still_runs()
            return 0
        if result and not self._began:
            self._began = time.time() - 1.0
        return int(float(result[0]["value"][1])) if result else 0

    def _still_runs(self) -> None:
        if self._process is not None and self._process.returncode is not None and self._folder is not None:
            said = (Path(self._folder.name) / "said").read_text(errors="replace")
            raise AssertionError(f"Prometheus ended: {said[-1000:]}")

    async def _get(self, what: str, **parameters: object) -> dict[str, Any]:
        url = f"{self._url}/{what}?{urllib.parse.urlencode(parameters)}"

        def ask() -> dict[str, Any]:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
                data: dict[str, Any] = json.load(answer)["data"]
                return data

        return await asyncio.to_thread(ask)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
