"""What a number or an identity opens, on the sample data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app import cases, sample, store
from ari_app.cases import check_identity, context, is_mobile, normalise_number, surname
from ari_app.flow.identity import Element, Role
from ari_app.store.models import Case, LawFirm, Lawyer, Milestone, Party
from tests.unit.core_database import in_memory

NOW = 1_795_000_000.0
PARTY = {Element.MOBILE: "15400001001", Element.CASE: "12345", Element.NAME: "99"}
LAWYER = {Element.FIRM: "54", Element.NAME: "954", Element.LICENCE: "0417", Element.MOBILE: "15400002001"}


@pytest.fixture(scope="module")
def filled() -> Iterator[Session]:
    engine = in_memory()
    with store.session(engine) as session:
        sample.fill(session, NOW)
        session.flush()
        yield session
        session.rollback()
    engine.dispose()


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("15400001001", "15400001001"),
        ("+8615400001001", "15400001001"),
        ("008615400001001", "15400001001"),
        ("015400001001", "15400001001"),
        ("154 0000-1001", "15400001001"),
        ("02150001234", "02150001234"),
        ("8610", "8610"),
        ("12", None),
        ("1" * 21, None),
        ("anonymous", None),
        ("１５４００００１００１", None),
        ("٠١٢٣", None),
        ("", None),
        (None, None),
    ],
)
def test_numbers_are_written_as_in_the_case_file(written, number):
    assert normalise_number(written) == number
    assert is_mobile(number) == (number == "15400001001")


# ---------------------------------------------------------------- context


def test_a_party_is_known_by_number(filled):
    found = context(filled, number="15400001003", now=NOW)
    assert (found.status, found.role, found.cases, found.milestone, found.next) == (
        "ok",
        Role.PARTY,
        1,
        "filed",
        "none",
    )


def test_all_cases_of_a_number_are_counted_and_the_keyed_one_narrows_them(filled):
    assert context(filled, number="15400001001", now=NOW).cases == 2
    found = context(filled, number="15400001001", case_last5="12345", now=NOW)
    assert (found.cases, found.milestone, found.next) == (1, "scheduled", "hearing")


def test_milestones_pass_as_time_does(filled):
    later = context(filled, number="15400001001", case_last5="12345", now=NOW + 13 * sample.DAY_S)
    assert (later.milestone, later.next) == ("heard", "none")
    before = context(filled, number="15400001001", case_last5="12345", now=NOW - 41 * sample.DAY_S)
    assert (before.milestone, before.next) == ("none", "hearing")


def test_a_lawyer_is_known_by_number_and_narrowed_by_licence(filled):
    assert context(filled, number="15400002001", now=NOW).role is Role.LAWYER
    assert context(filled, number="15400002001", licence_last4="0417", now=NOW).cases == 2
    assert context(filled, number="15400002001", licence_last4="9999", now=NOW).status == "none"


@pytest.mark.parametrize("number", ["15400009999", "", None, "' OR 1=1 --", "%"])
def test_strangers_open_nothing(filled, number):
    found = context(filled, number=number, now=NOW)
    assert (found.status, found.role, found.cases, found.milestone, found.next) == (
        "none", Role.UNKNOWN, 0, "none", "none",
    )  # fmt: skip


def test_a_role_that_was_keyed_opens_only_that_roles_cases(filled):
    assert context(filled, number="15400001001", role="lawyer", now=NOW).status == "none"
    assert context(filled, number="15400002001", role="party", now=NOW).status == "none"


def test_a_licence_of_wildcards_is_no_licence(filled):
    assert context(filled, number="15400002001", licence_last4="%", now=NOW).status == "none"
    assert context(filled, number="15400002001", licence_last4="____", now=NOW).status == "none"


# ---------------------------------------------------------------- identity


def test_the_right_party_is_a_person_without_a_number(filled):
    person, missing = check_identity(filled, Role.PARTY, PARTY)
    assert missing == ()
    assert (person.surname, person.title, person.role) == ("张", "mr", Role.PARTY)
    assert filled.get(Party, person.party_id).name == "张伟"
    assert "154" not in repr(person)


def test_the_right_lawyer(filled):
    person, missing = check_identity(filled, Role.LAWYER, LAWYER)
    assert missing == ()
    assert (person.surname, person.title) == ("王", "lawyer")
    assert filled.get(Lawyer, person.lawyer_id).name == "王建国"


@pytest.mark.parametrize(("role", "right"), [(Role.PARTY, PARTY), (Role.LAWYER, LAWYER)])
@pytest.mark.parametrize("wrong", Element)
def test_one_wrong_element_opens_nothing_and_is_named(filled, role, right, wrong):
    if wrong not in right:
        return
    assert check_identity(filled, role, {**right, wrong: "77777"}) == (None, (wrong,))


@pytest.mark.parametrize("role", [Role.PARTY, Role.LAWYER])
def test_nothing_keyed_opens_nothing(filled, role):
    person, missing = check_identity(filled, role, {})
    assert person is None
    assert missing == cases.check_identity(filled, role, dict.fromkeys(Element, ""))[1]
    assert len(missing) == (3 if role is Role.PARTY else 4)


def test_another_partys_case_does_not_open_by_ones_own_name_and_mobile(filled):
    person, missing = check_identity(filled, Role.PARTY, {**PARTY, Element.CASE: "20871"})
    assert person is None
    assert missing == (Element.CASE,)


def test_wildcards_prove_nobody(filled):
    for licence in ("%", "____", "%%%%"):
        assert check_identity(filled, Role.LAWYER, {**LAWYER, Element.LICENCE: licence})[0] is None


@pytest.mark.parametrize("row", range(len(sample.PARTIES)))
def test_every_party_of_the_sample_can_prove_an_identity(filled, row):
    name, title, mobile = sample.PARTIES[row]
    from ari_app.flow.identity import initials

    [last5, *_] = filled.scalars(select(Case.serial_last5).join(Party).where(Party.mobile == mobile)).all()
    for way in initials(name):
        answers = {Element.MOBILE: mobile, Element.CASE: last5, Element.NAME: way}
        person, _ = check_identity(filled, Role.PARTY, answers)
        assert person.title == ("mr" if title == "先生" else "ms")
        assert person.surname == surname(name)


def test_two_lawyers_whose_licences_end_alike_are_told_apart():
    engine = in_memory()
    with store.session(engine) as session:
        firm = LawFirm(name="上海明理律师事务所", short_name="明理")
        session.add(firm)
        session.flush()
        session.add_all(
            Lawyer(name=name, licence=f"{n}310120261000{417:04}"[-17:], mobile=f"1540000300{n}", firm_id=firm.id)
            for n, name in ((1, "陈思远"), (2, "王建国"))
        )
        session.flush()
        answers = {Element.FIRM: "65", Element.NAME: "954", Element.LICENCE: "0417", Element.MOBILE: "15400003002"}
        person, _ = check_identity(session, Role.LAWYER, answers)
        assert person.surname == "王"
        crossed = {**answers, Element.MOBILE: "15400003001"}
        assert check_identity(session, Role.LAWYER, crossed)[0] is None
    engine.dispose()


def test_milestones_of_other_cases_do_not_count(filled):
    others = filled.scalars(select(Milestone).join(Case).join(Party).where(Party.mobile != "15400001003")).all()
    assert others
    assert context(filled, number="15400001003", now=NOW + 1000 * sample.DAY_S).milestone == "filed"
