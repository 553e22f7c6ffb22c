"""`sanling orders`: what must be answered, and that a mistake is a sentence."""

from __future__ import annotations

import pytest

from ari_app import cli, store
from ari_app.store import models
from tests.unit import test_cli
from tests.unit.test_cli import AT, CALL, sanling

instance = test_cli.instance


@pytest.fixture
def order(instance, monkeypatch: pytest.MonkeyPatch) -> str:
    """An order from a message, long overdue, and its message; on a screen that is wide enough for it."""
    monkeypatch.setattr(cli.out, "_width", 160)
    engine = store.open_engine(f"sqlite:///{instance / 'sanling.db'}")
    with store.session(engine) as session:
        session.add(models.Segment(call_id=CALL, n=3, kind="message", at=AT + 72.0, seconds=12.0, spoken_s=9.0))
        session.add(
            models.WorkOrder(
                id=f"{CALL}~order-message-3", at=AT, kind="message", call_id=CALL, party_id=1, lawyer_id=None,
                case_id=None, need="material", due_at=AT + 3600.0, must_answer="party", opened_by="hotline",
            )
        )  # fmt: skip
    engine.dispose()
    return f"{CALL}~order-message-3"


def test_an_order_is_listed_with_its_message_and_marked_when_it_is_late(order, monkeypatch):
    monkeypatch.setattr("ari_app.cli.time.time", lambda: AT + 3601.0)
    listed = sanling("orders").output
    assert any(line.split()[:2] == ["!", order] for line in listed.splitlines())
    for said in ("message", "party", "open", "12 s"):
        assert said in listed
    assert order not in sanling("orders", "--for", "lawyer").output


def test_an_order_is_reassigned_closed_and_then_only_listed_with_all(order):
    moved = sanling("orders", "reassign", order, "--to", "second_line", "--by", "601")
    assert moved.exit_code == 0, moved.output
    assert order in sanling("orders", "--for", "second_line").output
    closed = sanling("orders", "close", order, "--by", "901", "--note", "answered")
    assert closed.exit_code == 0, closed.output
    assert order not in sanling("orders").output
    assert "answered" in sanling("orders", "--all").output


def test_an_order_is_shown_with_all_there_is_to_answer_it(order, instance):
    with store.session(store.open_engine(f"sqlite:///{instance / 'sanling.db'}")) as session:
        for name in ("local", "second"):
            session.add(
                models.Recording(
                    call_id=CALL, store=name, at=AT, path=f"2026/11/{name}.wav", sha256="0" * 64, seconds=90.0,
                    channels=2, bytes=1,
                )
            )  # fmt: skip
    sanling("orders", "reassign", order, "--to", "leader", "--by", "601", "--note", "difficult")
    shown = sanling("orders", "show", order).output
    for said in ("15400001001", "张伟", "message 留言", "material", "leader", "difficult", "2026-11-18", "  !"):
        assert said in shown, said
    for name in ("local", "second"):
        assert f"{name}: 2026/11/{name}.wav, from 0:01:12 for 12 s" in shown
    assert f"sanling orders close {order} --by" in shown
    sanling("orders", "close", order, "--by", "601")
    assert "orders close" not in sanling("orders", "show", order).output
    assert "There is no order none" in str(sanling("orders", "show", "none").exception)


def test_a_low_score_is_shown_with_its_case_and_the_reason_that_was_spoken(instance):
    id = f"{CALL}~order-rating-2"
    with store.session(store.open_engine(f"sqlite:///{instance / 'sanling.db'}")) as session:
        for n, kind, at in ((1, "message", 5.0), (3, "reason", 30.0)):
            session.add(models.Segment(call_id=CALL, n=n, kind=kind, at=AT + at, seconds=23.0, spoken_s=9.0))
        session.add(
            models.WorkOrder(
                id=id, at=AT + 20.0, kind="rating", call_id=CALL, party_id=None, lawyer_id=1, case_id=1, need=None,
                due_at=AT + 3600.0, must_answer="leader", opened_by="hotline",
            )
        )  # fmt: skip
    shown = sanling("orders", "show", id).output
    for said in ("王建国", "12345号", "not in a store yet, from 0:00:30 for 23 s", "低分评价"):
        assert said in shown, said


def test_an_order_is_reassigned_to_somebody_only(order):
    for nobody in ("judge", "999", ""):
        refused = sanling("orders", "reassign", order, "--to", nobody, "--by", "601")
        assert "party, lawyer, second_line" in str(refused.exception)
    assert sanling("orders", "reassign", order, "--to", "602", "--by", "601").exit_code == 0


@pytest.mark.parametrize(
    ("id", "said"), [("order-none", "There is no order"), (None, "closed already")], ids=["unknown", "closed"]
)
def test_a_mistake_is_a_sentence(order, id, said):
    sanling("orders", "close", order, "--by", "601")
    result = sanling("orders", "close", id or order, "--by", "601")
    assert result.exit_code == 1
    assert said in str(result.exception)
