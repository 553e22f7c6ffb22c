"""The wallboard in the terminal: who waits, what agents do, today's figures. Chinese, because agents look at it.

``draw()`` is a pure function of what the API told (``GET /v1/board``), the view and the moment; ``show()`` asks, draws
and reads keys until `q`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ari_app.api.remote import Remote
from ari_app.errors import SanlingError

STATES = {
    "idle": ("空闲", "green"), "reserved": ("预占", "yellow"), "ringing": ("振铃", "yellow"),
    "talking": ("通话", "cyan"), "consulting": ("咨询二线", "cyan"), "wrap_up": ("话后处理", "blue"),
    "paused": ("暂停", "magenta"), "no_answer": ("未接暂停", "red"), "signed_out": ("签出", "bright_black"),
}  # fmt: skip
"""Every state of an agent, in the order of the board."""
NEEDS = {"milestone": "节点", "material": "材料", "time": "时间", "pressing": "情绪"}

FILTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "a": ("在岗", tuple(state for state in STATES if state != "signed_out")),
    "i": ("空闲", ("idle",)),
    "t": ("通话", ("reserved", "ringing", "talking", "consulting")),
    "w": ("话后", ("wrap_up",)),
    "p": ("暂停", ("paused", "no_answer")),
    "o": ("签出", ("signed_out",)),
}
"""Key → its name and the agents it shows."""

LATE_S = 90.0
"""A wait as long as this is red: the mean that the second line must keep to. SOP-4."""
WARM_S = 15.0
"""And from here on yellow: the service level's limit."""
ASK_EVERY_S = 1.0
KEYS_EVERY_S = 0.2
COME_BACK_AFTER_S = 2.0


@dataclass(frozen=True)
class View:
    """What the viewer has chosen."""

    filter: str = "a"
    """A key of `FILTERS`."""
    waiting_only: bool = False
    """The queue over the whole width, no agents."""

    def after(self, key: str) -> View:
        if key in FILTERS:
            return replace(self, filter=key, waiting_only=False)
        if key == "k":
            return replace(self, waiting_only=not self.waiting_only)
        return self


def draw(board: dict[str, Any], view: View, now: float, zone: dt.tzinfo, height: int = 40) -> RenderableType:
    """The board `board`, as it stands at `now` (Unix seconds), on a terminal of `height` lines."""
    rows = max(height - 10, 3)
    elapsed_s = max(now - board["at"], 0.0)
    clock = dt.datetime.fromtimestamp(now, zone).strftime("%m-%d %H:%M:%S")
    title = Text.assemble(("三铃 座席大屏  ", "bold"), clock)
    if not board["linked"]:
        title.append("  与 Asterisk 失去连接", "bold red")
    if elapsed_s > 10:
        title.append(f"  {elapsed_s:.0f} 秒没有新数据", "bold red")
    floor = Table.grid(expand=True, padding=(0, 1))
    queue = _queue(board["waiting"], elapsed_s, rows)
    if view.waiting_only:
        floor.add_column(ratio=1)
        floor.add_row(queue)
    else:
        floor.add_column(ratio=1)
        floor.add_column(ratio=1)
        floor.add_row(queue, _agents(board["agents"], view, elapsed_s, rows))
    names = "  ".join(f"{key} {name}" for key, (name, _) in FILTERS.items())
    return Group(title, _figures(board, elapsed_s), floor, Text(f"{names}  k 只看排队  q 退出", "dim"))


def _figures(board: dict[str, Any], elapsed_s: float) -> RenderableType:
    today = board["today"]
    waiting = [one for one in board["waiting"] if one["kind"] == "caller"]
    cells = (
        ("排队", str(len(waiting))),
        ("最长等待", clock_of(max((one["waited_s"] + elapsed_s for one in waiting), default=0.0))),
        (f"{today['service_within_s']:.0f}秒服务水平", percent(today["service_level"])),
        ("今日接听", str(today["handled"])),
        ("放弃", f"{today['abandoned']} ({percent(today['abandonment'])})"),
        ("平均等待", seconds(today["mean_wait_s"])),
        ("平均通话", seconds(today["mean_talk_s"])),
        ("故障", str(today["failed"])),
    )
    table = Table(box=box.SIMPLE, expand=True, show_edge=False)
    for name, _ in cells:
        table.add_column(name, justify="center", no_wrap=True)
    table.add_row(*(Text(value, "bold") for _, value in cells))
    counts = Text("  ")
    for state, (name, colour) in STATES.items():
        count = board["agents_by_state"].get(state, 0)
        if count or state in ("idle", "talking"):
            counts.append(f"{name} {count}   ", colour)
    return Group(table, counts)


def _queue(waiting: list[dict[str, Any]], elapsed_s: float, rows: int) -> Panel:
    table = Table(box=None, expand=True, pad_edge=False)
    for name in ("位", "线", "已等", "预计", "需求", "来电", "身份", "呼叫"):
        table.add_column(name, no_wrap=True)
    for one in waiting[:rows]:
        waited_s = one["waited_s"] + elapsed_s
        colour = "red" if waited_s >= LATE_S else "yellow" if waited_s >= WARM_S else ""
        table.add_row(
            str(one["position"]), one["line_name"], Text(clock_of(waited_s), colour), clock_of(one["expected_wait_s"]),
            NEEDS.get(one["need"] or "", "—"), *_who(one), one["offered_to"] or "",
        )  # fmt: skip
    more = f"，另有 {len(waiting) - rows} 位" if len(waiting) > rows else ""
    return Panel(table if waiting else Text("无人排队", "dim"), title=f"排队 {len(waiting)}{more}", title_align="left")


def _who(one: dict[str, Any]) -> tuple[str, str]:
    """The number's end and the identity of one who waits."""
    if one["kind"] == "callback":
        return "回电", ""
    return one["caller"][-4:] if one["caller"] else "未显示", "已核身" if one["verified"] else "未核身"


def _agents(agents: list[dict[str, Any]], view: View, elapsed_s: float, rows: int) -> Panel:
    name, states = FILTERS[view.filter]
    order = list(STATES)
    chosen = sorted(
        (one for one in agents if one["state"] in states),
        key=lambda one: (order.index(one["state"]), -one["for_s"], one["number"]),
    )
    table = Table(box=None, expand=True, pad_edge=False)
    for column in ("工号", "姓名", "状态", "时长", "通话"):
        table.add_column(column, no_wrap=True)
    for one in chosen[:rows]:
        state, colour = STATES[one["state"]]
        pause = one["pause_name"] or one["pause_code"]
        table.add_row(
            one["number"], one["name"] or "", Text(f"{state} {pause}" if pause else state, colour),
            clock_of(one["for_s"] + elapsed_s), (one["call"] or "").rpartition("-")[2],
        )  # fmt: skip
    more = f"，另有 {len(chosen) - rows} 人" if len(chosen) > rows else ""
    return Panel(table, title=f"座席·{name} {len(chosen)}{more}", title_align="left")


def clock_of(span_s: float) -> str:
    """
    >>> clock_of(75.4)
    '1:15'
    >>> clock_of(3675)
    '1:01:15'
    """
    minutes, s = divmod(int(span_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"


def percent(share: float | None) -> str:
    return "—" if share is None else f"{share:.1%}"


def seconds(span_s: float | None) -> str:
    return "—" if span_s is None else f"{span_s:.0f} 秒"


# ---------------------------------------------------------------- showing it


def show(remote: Remote, console: Console, zone: dt.tzinfo) -> None:
    """Until `q` or Ctrl-C. Raises SanlingError if the hotline does not answer at the start."""
    board, view = remote.get("/board"), View()
    changed, over = threading.Event(), threading.Event()
    threading.Thread(target=_listen, args=(remote, changed, over), name="board", daemon=True).start()

    def drawn() -> RenderableType:
        return draw(board, view, time.time(), zone, console.size.height)

    asked_at = time.monotonic()
    try:
        with keys() as pressed, Live(drawn(), console=console, screen=True, auto_refresh=False) as live:
            while True:
                key = pressed(KEYS_EVERY_S)
                if key in ("q", "\x03"):
                    return
                view = view.after(key)
                if changed.is_set() or time.monotonic() - asked_at >= ASK_EVERY_S:
                    changed.clear()
                    asked_at = time.monotonic()
                    with contextlib.suppress(SanlingError):  # the title says how old the figures are
                        board = remote.get("/board")
                live.update(drawn(), refresh=True)
    except KeyboardInterrupt:
        return
    finally:
        over.set()


def _listen(remote: Remote, changed: threading.Event, over: threading.Event) -> None:
    """Says when something happened."""
    while not over.is_set():
        with contextlib.suppress(SanlingError):
            for _ in remote.events():
                changed.set()
                if over.is_set():
                    return
        over.wait(COME_BACK_AFTER_S)


@contextlib.contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """Keys as they are pressed: the next one, or nothing after so many seconds. Without a terminal none ever comes."""
    if not sys.stdin.isatty():

        def none(within_s: float) -> str:
            time.sleep(within_s)
            return ""

        yield none
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pressed(within_s: float) -> str:
        ready, _, _ = select.select([fd], [], [], within_s)
        return os.read(fd, 1).decode("ascii", "replace") if ready else ""

    try:
        tty.setcbreak(fd)
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
