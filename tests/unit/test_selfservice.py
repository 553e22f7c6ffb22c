"""What is read out of a case, clause by clause, and when somebody will be there."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ari_app import sample, store
from ari_app.cases import Person
from ari_app.flow.identity import Role
from ari_app.orders import Kind, Order, Standing
from ari_app.prompts import Catalogue
from ari_app.selfservice import CASES_READ, MILESTONES, CaseStatus, closed, status_of, told
from ari_app.settings import PROJECT
from tests.unit.core_database import in_memory

ZONE = ZoneInfo("Asia/Shanghai")
CATALOGUE = Catalogue.inspect(PROJECT / "dialplan" / "prompts")
COURT = "示例市第一区人民法院"


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp()


NOW = at("2026-11-22 09:00")


def order(due: str, n: int = 0) -> Order:
    return Order(
        id=f"order-{n}", at=NOW, kind=Kind.MESSAGE, call_id=None, case_id=None, need=None, due_at=at(due),
        must_answer="party", opened_by="hotline", standing=Standing.OPEN, changed_at=NOW, note="",
    )  # fmt: skip


def case(hearing: str | None = None, *past: tuple[str, str], court: str = COURT) -> CaseStatus:
    return CaseStatus(court, at(hearing) if hearing else None, tuple((code, at(when)) for code, when in past))


def text_of(prompts: tuple[str, ...]) -> str:
    return "".join(CATALOGUE[prompt].text for prompt in prompts)


def test_one_case_is_told_in_whole_clauses():
    prompts = told(
        [case("2026-12-04 14:05", ("scheduled", "2026-11-16 10:00"), ("filed", "2025-10-13 10:00"))], [], CATALOGUE,
        ZONE, NOW,
    )  # fmt: skip
    assert text_of(prompts) == (
        "下次开庭时间是今年十二月四日，星期五，下午两点零五分。开庭法院是示例市第一区人民法院。"
        "最近的进展，今年十一月十六日，开庭已经排期。在此之前，去年十月十三日，案件已经立案。您没有正在办理的事项。"
    )


def test_a_hearing_next_year_says_so_and_one_later_is_left_to_the_summons():
    assert text_of(told([case("2027-01-04 09:30")], [], CATALOGUE, ZONE, NOW)).startswith(
        "下次开庭时间是明年一月四日，"
    )
    assert told([case("2028-01-04 09:30")], [], CATALOGUE, ZONE, NOW)[0] == "hearing-later"
    assert told([case()], [], CATALOGUE, ZONE, NOW)[0] == "hearing-none"


def test_a_court_that_is_not_rendered_is_not_named():
    assert "court-unnamed" in told([case("2026-12-04 09:30", court="无名法院")], [], CATALOGUE, ZONE, NOW)


def test_what_happened_long_ago_has_no_date():
    assert told([case(None, ("judged", "2024-12-31 10:00"))], [], CATALOGUE, ZONE, NOW)[1:3] == (
        "earlier",
        "milestone-judged",
    )


def test_several_cases_are_numbered_and_the_rest_is_for_people():
    one = told([case()] * CASES_READ, [], CATALOGUE, ZONE, NOW)
    assert [prompt for prompt in one if prompt.startswith("case")] == ["case-1", "case-2", "case-3"]
    assert "cases-more" in told([case()] * (CASES_READ + 1), [], CATALOGUE, ZONE, NOW)
    assert told([], [], CATALOGUE, ZONE, NOW) == ("no-cases", "open-orders-none")


@pytest.mark.parametrize(
    ("due", "said"),
    [
        (("2026-11-23 12:30", "2026-12-01 10:00"),
         "您有两件事项正在办理，最近一件的答复期限是今年十一月二十三日，中午十二点三十分。"),
        (("2027-01-04 08:00",), "您有一件事项正在办理，最近一件的答复期限是明年一月四日，上午八点整。"),
        (("2026-11-21 12:00",), "您有一件事项正在办理，其中有事项已经超过期限，我们会尽快答复您。"),
        (("2030-01-01 08:00",) * 10, "您有九件以上的事项正在办理，"),
    ],
)  # fmt: skip
def test_open_orders_are_told_with_the_nearest_due_time(due, said):
    orders = [order(one, n) for n, one in enumerate(due)]
    assert text_of(told([case()], orders, CATALOGUE, ZONE, NOW)).endswith(said)


@pytest.mark.parametrize(
    ("opens", "said"),
    [
        ("2026-11-22 13:30", "人工服务的恢复时间是今天下午一点三十分。"),
        ("2026-11-23 08:30", "人工服务的恢复时间是明天上午八点三十分。"),
        ("2026-11-30 00:00", "人工服务的恢复时间是十一月三十日，凌晨零点整。"),
    ],
)
def test_when_somebody_will_be_there(opens, said):
    assert text_of(closed(at(opens), CATALOGUE, ZONE, NOW)) == "现在是非工作时间，暂时没有人工服务。" + said
    assert closed(None, CATALOGUE, ZONE, NOW) == ("closed-now",)


def test_the_nearest_hearing_comes_first_and_only_ones_own_cases_are_found():
    engine = in_memory()
    with store.session(engine) as session:
        sample.fill(session, NOW)
        wei = status_of(session, Person(Role.PARTY, "张", "mr", party_id=1), NOW)
        lawyer = status_of(session, Person(Role.LAWYER, "王", "lawyer", lawyer_id=1), NOW)
    assert [bool(one.next_hearing) for one in wei] == [True, False]
    assert [code for code, _ in wei[0].past] == ["scheduled", "filed"]
    assert [one.court for one in lawyer] == [COURT, COURT]
    assert lawyer[0].next_hearing == wei[0].next_hearing


moments = st.floats(at("2020-01-01 00:00"), at("2032-12-31 23:59"))
cases = st.builds(
    CaseStatus, st.sampled_from([COURT, "别处法院"]), st.none() | moments,
    st.lists(st.tuples(st.sampled_from(MILESTONES), moments), max_size=4).map(tuple),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(cases, max_size=5), st.lists(moments, max_size=12), moments, moments)
def test_whatever_is_told_is_in_the_catalogue(found, due, now, opens):
    orders = [order("2026-01-01 00:00", n) for n, _ in enumerate(due)]
    for prompt in (*told(found, orders, CATALOGUE, ZONE, now), *closed(max(opens, now), CATALOGUE, ZONE, now)):
        assert prompt in CATALOGUE


@pytest.mark.parametrize("hour", range(24))
def test_every_minute_of_a_day_can_be_said(hour):
    assert all(prompt in CATALOGUE for minute in range(60) for prompt in CATALOGUE.time(hour, minute))
