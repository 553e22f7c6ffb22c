"""What became of calls, read from the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app import outcomes, sample, store
from ari_app.cases import Person, check_identity, person
from ari_app.flow.identity import Element, Role
from ari_app.flow.matters import WITHIN_S, Matter
from ari_app.flow.sop import Need
from ari_app.outcomes import Result, disposition, figures, last_handled, matters_of, row_of
from ari_app.store import models
from tests.unit.core_database import in_memory

NOW = 1_795_000_000.0
DAY_S = 86_400.0
WEI = Person(Role.PARTY, "张", "mr", party_id=1, case_id=1)
CALL = Matter("demo-1.1", NOW - DAY_S, NOW - DAY_S + 60, "601", 1, None, 1, Need.TIME)


@pytest.fixture
def session() -> Iterator[Session]:
    engine = in_memory()
    with store.session(engine) as session:
        sample.fill(session, NOW)
        session.flush()
        yield session
        session.rollback()
    engine.dispose()


def rating(call_id: str, agent: str, score: int) -> models.Rating:
    return models.Rating(call_id=call_id, n=1, at=NOW, agent=agent, score=score)


def test_what_a_person_called_about_in_the_last_seven_days_is_found(session):
    old = replace(CALL, call_id="demo-0.1", until=NOW - WITHIN_S - 1)
    other = replace(CALL, call_id="demo-1.2", party_id=2)
    nobody = replace(CALL, call_id="demo-1.3", party_id=None, need=None)
    session.add_all(row_of(one, None) for one in (old, CALL, other, nobody))
    assert matters_of(session, WEI, NOW) == (CALL,)
    assert matters_of(session, replace(WEI, party_id=None), NOW) == ()


def test_the_last_disposition_of_a_call_says_its_need(session):
    session.add(row_of(CALL, None))
    for n, need in enumerate((Need.MATERIAL, Need.PRESSING)):
        session.add(outcomes.disposition_row(CALL.call_id, "601", NOW + n, need, Result.ON_THE_SPOT))
        session.flush()
    assert matters_of(session, WEI, NOW) == (replace(CALL, need=Need.PRESSING),)


@pytest.mark.parametrize("need", "1234")
@pytest.mark.parametrize("result", "12")
def test_every_code_is_a_need_and_a_result(need, result):
    assert disposition(need + result) == ([*Need][int(need) - 1], [*Result][int(result) - 1])


@pytest.mark.parametrize("keys", ["", "1", "13", "51", "01", "111", "1*", "１１"])
def test_any_other_digits_are_none(keys):
    assert disposition(keys) is None


def test_the_call_that_an_agent_handled_last_is_the_one_joined_last(session):
    assert last_handled(session, "601") is None
    for n, agent in enumerate(("601", "601", "602")):
        call_id = f"demo-1.{n}"
        session.add(models.Call(id=call_id, caller_number=None, called_number="12368", at=NOW))
        session.flush()
        session.add(models.OfferEvent(call_id=call_id, n=1, event="joined", at=NOW + n, agent=agent))
    session.add(models.OfferEvent(call_id="demo-1.2", n=2, event="offered", at=NOW + 9, agent="601"))
    session.flush()
    found = last_handled(session, "601")
    assert found is not None
    assert (found.call_id, found.person) == ("demo-1.1", None)
    session.add(
        models.Identity(
            call_id="demo-1.1",
            n=0,
            at=NOW,
            role="party",
            verified=True,
            missing="",
            party_id=1,
            lawyer_id=None,
            case_id=1,
        )
    )
    session.flush()
    found = last_handled(session, "601")
    assert found is not None
    assert found.person == WEI


def test_figures_of_each_agent(session):
    session.add_all([rating("a", "601", 5), rating("b", "601", 2), rating("c", "602", 4)])
    for n, result in enumerate((Result.WORK_ORDER, Result.ON_THE_SPOT)):
        session.add(outcomes.disposition_row("a", "601", NOW + n, Need.TIME, result))
    long_ago = replace(CALL, call_id="demo-0.2", at=NOW - 9 * DAY_S, until=NOW - 9 * DAY_S)
    session.add_all(row_of(one, None) for one in (long_ago, replace(CALL, case_id=2)))
    session.flush()
    first, second = figures(session, NOW - 30 * DAY_S, NOW + 60)
    assert (first.agent, first.ratings, first.mean, first.low) == ("601", 2, 3.5, 1)
    assert (first.on_the_spot, first.work_orders, first.answered_share) == (1, 0, 1.0)
    assert (first.resolution.judged, first.resolution.share) == (1, 1.0)
    assert (second.agent, second.mean, second.answered_share, second.resolution.share) == ("602", 4.0, None, None)


def test_the_row_of_a_second_call_names_the_first(session):
    session.add(row_of(replace(CALL, call_id="demo-1.9"), CALL))
    session.flush()
    [row] = session.scalars(select(models.Matter))
    assert (row.second_of, row.need) == (CALL.call_id, "time")


# ---------------------------------------------------------------- the case of a proven caller


def test_a_party_asks_about_the_case_that_was_keyed(session):
    proven, _ = check_identity(
        session, Role.PARTY, {Element.MOBILE: "15400001001", Element.CASE: "10009", Element.NAME: "99"}
    )
    assert proven is not None
    assert session.get(models.Case, proven.case_id).serial_last5 == "10009"  # type: ignore[union-attr]
    assert person(session, party_id=1, lawyer_id=None, case_id=proven.case_id) == proven


@pytest.mark.parametrize(
    ("keyed", "known"),
    [
        ({Element.FIRM: "54", Element.NAME: "954", Element.LICENCE: "0417", Element.MOBILE: "15400002001"}, False),
        ({Element.FIRM: "65", Element.NAME: "279", Element.LICENCE: "3308", Element.MOBILE: "15400002004"}, True),
    ],
    ids=["of two cases", "of one"],
)
def test_a_lawyer_asks_about_a_case_only_if_there_is_one(session, keyed, known):
    proven, _ = check_identity(session, Role.LAWYER, keyed)
    assert proven is not None
    assert (proven.case_id is not None) == known
