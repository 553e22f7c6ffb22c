"""The sample data: believable, whole, and nobody's."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app import sample, store
from ari_app.desk import pin_matches
from ari_app.errors import SanlingError
from ari_app.prompts import Catalogue
from ari_app.settings import load
from ari_app.staff import Access, accounts, new_agent, set_role, sip_ha1
from ari_app.store.models import Agent, Case, LawFirm, Lawyer, Milestone, Party
from tests.unit.core_database import in_memory

NOW = 1_795_000_000.0

CASE_NUMBER = re.compile(
    r"（20\d\d）"  # the year
    r"(?:最高法|[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤川青藏琼宁](?:\d{2}|\d{4})?)"  # the court's code
    r"[知]?(?:民初|民终|商初|刑初|行初|执|民申)\d{1,7}号"
)


@pytest.fixture(scope="module")
def house() -> Iterator[tuple[Session, list[Access]]]:
    engine = in_memory()
    with store.session(engine) as session:
        access = sample.fill(session, NOW)
        session.flush()
        yield session, access
    engine.dispose()


def test_every_mobile_number_lies_in_a_block_nobody_has(house):
    session, _ = house
    numbers = [*session.scalars(select(Party.mobile)), *session.scalars(select(Lawyer.mobile))]
    assert numbers
    assert all(re.fullmatch(r"154\d{8}", number) for number in numbers)
    assert len(set(numbers)) == len(numbers)


def test_every_case_has_its_seven_elements(house):
    """CRM-2: case number, law firm, lawyer's mobile, party's mobile, amount in dispute, court, cause of action."""
    session, _ = house
    cases = session.execute(
        select(Case, Lawyer, LawFirm, Party).select_from(Case).join(Lawyer).join(LawFirm).join(Party)
    ).all()
    assert len(cases) == len(sample.CASES)
    for case, lawyer, firm, party in cases:
        elements = (case.number, firm.name, lawyer.mobile, party.mobile, case.court, case.cause)
        assert all(elements)
        assert case.amount_fen > 0


def test_case_numbers_are_written_as_courts_write_them_and_end_in_the_keyed_digits(house):
    session, _ = house
    for case in session.scalars(select(Case)):
        assert CASE_NUMBER.fullmatch(case.number), case.number
        assert case.number.endswith(f"{case.serial_last5}号")
        assert re.fullmatch(r"\d{5}", case.serial_last5)


def test_court_codes_are_of_no_court_there_is(house):
    session, _ = house
    assert all(re.search(r"[京沪粤川]99\d\d", number) for number in session.scalars(select(Case.number)))


def test_licences_have_seventeen_digits(house):
    session, _ = house
    assert all(re.fullmatch(r"\d{17}", licence) for licence in session.scalars(select(Lawyer.licence)))


def test_a_hearing_lies_ahead_and_filings_lie_behind(house):
    session, _ = house
    milestones = session.scalars(select(Milestone)).all()
    assert all(one.at < NOW for one in milestones if one.code == "filed")
    assert any(one.at > NOW for one in milestones if one.code == "heard")
    assert {one.code for one in milestones} == {"filed", "scheduled", "served", "heard", "judged"}


def test_everybody_can_be_asked_by_name(house):
    """SOP-1: the opening asks for the caller by surname and title; every one of them is among the approved wording."""
    from ari_app.cases import surname

    session, _ = house
    catalogue = Catalogue.load(load(environment={}).prompts)
    for party in session.scalars(select(Party)):
        assert catalogue.is_it("mr" if party.title == "先生" else "ms", surname(party.name)), party.name
    for lawyer in session.scalars(select(Lawyer)):
        assert catalogue.is_it("lawyer", surname(lawyer.name)), lawyer.name


def test_agents_get_passwords_and_pins_of_their_own_and_only_hashes_are_kept(house):
    session, access = house
    assert [one.number for one in access] == [str(601 + n) for n in range(len(sample.AGENTS))]
    assert len({one.password for one in access}) == len({one.pin for one in access}) == len(access)
    for one in access:
        agent = session.get(Agent, one.number)
        assert re.fullmatch(r"[A-Za-z0-9]{16}", one.password)
        assert re.fullmatch(r"\d{6}", one.pin)
        assert agent.sip_ha1 == sip_ha1(one.number, one.password)
        assert pin_matches(one.pin, agent.pin_hash)
        assert agent.state == "signed_out"
        assert one.password not in (agent.sip_ha1, agent.pin_hash)
    assert [account.number for account in accounts(session)] == [one.number for one in access]


def test_it_is_entered_once(house):
    session, _ = house
    assert sample.fill(session, NOW) == []


@pytest.mark.parametrize("number", ["6", "60", "061", "60a", "601\n", "123456789", ""])
def test_agent_numbers_that_no_phone_can_have_are_refused(house, number):
    with pytest.raises(SanlingError, match="3 to 8 digits"):
        new_agent(house[0], number, "何静")


def test_an_agent_number_is_given_once(house):
    with pytest.raises(SanlingError, match="taken"):
        new_agent(house[0], "601", "另一位")


def test_there_are_an_inspector_a_mentor_and_a_leader_and_the_others_are_agents(house):
    session, access = house
    roles = {one.number: session.get(Agent, one.number).role for one in access}
    assert {number: role for number, role in roles.items() if role != "agent"} == sample.SUPERVISORS


def test_a_role_is_one_that_exists_and_of_an_agent_who_exists(house):
    with pytest.raises(SanlingError, match="no role 'boss'"):
        set_role(house[0], "601", "boss")
    with pytest.raises(SanlingError, match="no agent 999"):
        set_role(house[0], "999", "mentor")
