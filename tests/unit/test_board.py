"""The wallboard, drawn: what stands where for a given moment. The pictures are in tests/unit/boards."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console

from ari_app.board import FILTERS, STATES, View, clock_of, draw, percent
from ari_app.desk import Duty

ALL = View()
ZONE = ZoneInfo("Asia/Shanghai")
AT = 1_795_000_000.0
PICTURES = Path(__file__).parent / "boards"


def agent(number: str, name: str, state: str, for_s: float, **more: Any) -> dict[str, Any]:
    return {"number": number, "name": name, "state": state, "since": AT - for_s, "for_s": for_s, "call": None,
            "wrap_up_until": None, "phone": number, "pause_code": None, "pause_name": None, **more}  # fmt: skip


def waiting(position: int, waited_s: float, need: str | None, **more: Any) -> dict[str, Any]:
    return {"call": f"hotline-1794999000.{position}", "kind": "caller", "line_name": "当事人",
            "caller": f"*********{position:02}", "position": position, "since": AT - waited_s,
            "waited_s": waited_s, "expected_wait_s": 60.0 * position, "need": need, "verified": position % 2 == 1,
            "offered_to": None, **more}  # fmt: skip


BUSY: dict[str, Any] = {
    "at": AT, "last_event": "x-1", "linked": True,
    "agents": [
        agent("601", "何静", "talking", 125.0, call="hotline-1794999870.4"), agent("602", "郭磊", "idle", 8.0),
        agent("603", "马超", "paused", 610.0, pause_code="2", pause_name="用餐"), agent("604", "林芳", "wrap_up", 12.0),
        agent("605", "罗丹", "ringing", 3.0, call="hotline-1794999990.9"), agent("606", "宋涛", "no_answer", 45.0),
        agent("607", "谢敏", "signed_out", 0.0, phone=None), agent("608", "唐勇", "idle", 40.0),
    ],
    "agents_by_state": {"talking": 1, "idle": 2, "paused": 1, "wrap_up": 1, "ringing": 1, "no_answer": 1,
                        "signed_out": 1, "reserved": 0, "consulting": 0},
    "waiting": [
        waiting(1, 95.0, "pressing", offered_to="605"), waiting(2, 30.0, "milestone"),
        waiting(3, 4.0, None, caller=None, line_name="律师"), waiting(4, 3.0, None, caller=None, kind="callback"),
    ],
    "calls": [],
    "today": {"since": AT - 40000, "over": 412, "handled": 380, "abandoned": 12, "failed": 1, "service_level": 0.8535,
              "service_within_s": 15.0, "abandonment": 0.0311, "mean_wait_s": 14.4, "longest_wait_s": 190.0,
              "mean_talk_s": 171.2},
}  # fmt: skip
QUIET: dict[str, Any] = {
    **BUSY, "linked": False, "waiting": [], "agents": [], "agents_by_state": {},
    "today": {**BUSY["today"], "over": 0, "handled": 0, "abandoned": 0, "failed": 0, "service_level": None,
              "abandonment": None, "mean_wait_s": None, "longest_wait_s": None, "mean_talk_s": None},
}  # fmt: skip


def drawn(board: dict[str, Any], view: View = ALL, now: float = AT, height: int = 40, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None, force_terminal=False)
    console.print(draw(board, view, now, ZONE, height))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize(
    ("name", "board", "view", "now"),
    [
        ("busy", BUSY, View(), AT),
        ("two-seconds-later", BUSY, View(), AT + 2),
        ("talking-only", BUSY, View("t"), AT),
        ("queue-only", BUSY, View(waiting_only=True), AT),
        ("quiet-and-unlinked", QUIET, View(), AT),
        ("no-news-for-a-minute", BUSY, View("o"), AT + 60),
    ],
)
def test_the_board_looks_as_in_its_picture(name, board, view, now):
    """After a wanted change, remove the picture and run once: it is painted anew, and the test fails that once."""
    picture, looks = PICTURES / f"{name}.txt", drawn(board, view, now)
    if not picture.exists():
        picture.parent.mkdir(exist_ok=True)
        picture.write_text(looks, encoding="utf-8")
        pytest.fail(f"{picture} was painted anew: look at it")
    assert looks == picture.read_text(encoding="utf-8")


def test_what_does_not_fit_is_counted():
    crowd = {**BUSY, "waiting": [waiting(n, 1.0, None) for n in range(1, 31)],
             "agents": [agent(str(600 + n), "某", "idle", 1.0) for n in range(28)]}  # fmt: skip
    looks = drawn(crowd, height=24)
    assert "排队 30，另有 16 位" in looks
    assert "在岗 28，另有 14 人" in looks
    assert len(looks.splitlines()) <= 24


@pytest.mark.parametrize("width", [60, 80, 200])
def test_it_fits_any_usual_terminal(width):
    from rich.cells import cell_len

    assert max(cell_len(line) for line in drawn(BUSY, width=width).splitlines()) <= width


def test_keys_choose_what_is_shown():
    view = View()
    for key in FILTERS:
        assert view.after(key).filter == key
    assert view.after("k").waiting_only
    assert not view.after("k").after("k").waiting_only
    assert not view.after("k").after("i").waiting_only
    assert view.after("x") == view
    assert view.after("") == view


def test_every_state_of_an_agent_has_a_name_and_a_key():
    assert set(STATES) == {duty.value for duty in Duty}
    assert {state for _, states in FILTERS.values() for state in states} == set(STATES)


def test_figures_as_people_write_them():
    assert [clock_of(s) for s in (0, 59.9, 60, 3675)] == ["0:00", "0:59", "1:00", "1:01:15"]
    assert [percent(one) for one in (None, 0.8535, 1.0)] == ["—", "85.4%", "100.0%"]
