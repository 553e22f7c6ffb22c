from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ari_app import sample
from ari_app.cases import surname
from ari_app.flow.identity import LETTERS, REQUIRED, Element, OnFile, Role, firm_initials, initials, prove


def test_letters_lie_where_phones_have_them():
    assert "".join(LETTERS[letter] for letter in "abcdefghijklmnopqrstuvwxyz") == "22233344455566677778889999"


@pytest.mark.parametrize(
    ("name", "keyed"),
    [
        ("张伟", {"99"}),
        ("刘芳", {"53"}),
        ("单晓", {"29", "39", "79"}),  # Shàn, Dān, Chán
        ("曾庆华", {"274", "974"}),  # Zēng, Céng
        ("欧阳雪", {"699"}),
        ("Li雷", {"545"}),
        ("３Ｍ", set()),
        ("A1", {"21"}),
        ("", set()),
        ("·— ", set()),
    ],
)
def test_a_name_may_be_keyed_by_every_reading(name, keyed):
    assert initials(name) == keyed


@pytest.mark.parametrize(("name", "keyed"), [("解晓东", {"593", "993"}), ("买买提·艾力", {"66825"}), ("仇和", {"74"})])
def test_the_usual_readings_are_among_those_accepted(name, keyed):
    assert keyed <= initials(name)


@pytest.mark.parametrize("said", ["北京金衡律师事务所", "北京金衡", "金衡"])
def test_a_firm_is_known_by_its_full_name_and_by_its_short_one(said):
    for short_name in ("金衡", "金衡事务所", "金衡律师事务所"):
        assert initials(said) <= firm_initials("北京金衡律师事务所", short_name)


def test_part_of_a_firms_name_is_not_the_firm():
    known = firm_initials("北京金衡律师事务所", "金衡")
    assert not {"", "5", "25", "254"} & known
    assert not initials("律师事务所") & known
    assert firm_initials("", "") == frozenset()


@pytest.mark.parametrize("name", [one[0] for one in (*sample.LAWYERS, *sample.PARTIES)])
def test_every_sample_name_can_be_keyed(name):
    for way in initials(name):
        assert 2 <= len(way) <= 12
        assert set(way) <= set("23456789")


@pytest.mark.parametrize(
    ("name", "family"), [("张伟", "张"), ("欧阳雪", "欧阳"), ("司马相如", "司马"), ("欧阳", "欧"), ("东方朔", "东方")]
)
def test_double_surnames(name, family):
    assert surname(name) == family


# ---------------------------------------------------------------- proving

PARTY = OnFile(Role.PARTY, "张伟", "15400001001", case_last5="12345")
OTHER_CASE = OnFile(Role.PARTY, "张伟", "15400001001", case_last5="10009")
NAMESAKE = OnFile(Role.PARTY, "郑武", "15400001002", case_last5="20871")
LAWYER = OnFile(Role.LAWYER, "单文博", "15400002003", "上海明理律师事务所", "明理", "13101202610002935")
COLLEAGUE = OnFile(Role.LAWYER, "陈思远", "15400002004", "上海明理律师事务所", "明理", "13101202610003308")
FILE = (PARTY, OTHER_CASE, NAMESAKE, LAWYER, COLLEAGUE)

RIGHT = {
    Role.PARTY: {Element.MOBILE: "15400001001", Element.CASE: "12345", Element.NAME: "99"},
    Role.LAWYER: {
        Element.FIRM: "65", Element.NAME: "792", Element.LICENCE: "2935", Element.MOBILE: "15400002003",
    },
}  # fmt: skip

ROLES = st.sampled_from([Role.PARTY, Role.LAWYER])


@pytest.mark.parametrize(("role", "person"), [(Role.PARTY, PARTY), (Role.LAWYER, LAWYER)])
def test_all_elements_prove_the_person(role, person):
    verdict = prove(role, RIGHT[role], FILE)
    assert verdict.proven is person
    assert verdict.missing == ()


@pytest.mark.parametrize("role", RIGHT)
@pytest.mark.parametrize("wrong", Element)
@pytest.mark.parametrize("answer", ["", "0", "99999", None])
def test_one_wrong_element_never_proves_and_is_the_one_missing(role, wrong, answer):
    if wrong not in REQUIRED[role]:
        return
    answers = {**RIGHT[role], wrong: answer}
    if answer is None:
        del answers[wrong]
    verdict = prove(role, answers, FILE)
    assert verdict.proven is None
    assert verdict.missing == (wrong,)


@pytest.mark.parametrize("role", RIGHT)
def test_elements_of_two_people_prove_nobody(role):
    """A colleague's licence with one's own name, another case's number with one's own mobile."""
    mixed = {**RIGHT[role]}
    if role is Role.PARTY:
        mixed[Element.CASE] = NAMESAKE.case_last5
    else:
        mixed[Element.LICENCE] = COLLEAGUE.licence[-4:]
    assert prove(role, mixed, FILE).proven is None


def test_a_party_with_two_cases_is_proven_by_either():
    for case in ("12345", "10009"):
        assert prove(Role.PARTY, {**RIGHT[Role.PARTY], Element.CASE: case}, FILE).proven.case_last5 == case


def test_what_proves_a_party_proves_no_lawyer():
    assert prove(Role.LAWYER, RIGHT[Role.PARTY], FILE).proven is None
    assert prove(Role.PARTY, RIGHT[Role.LAWYER], FILE).proven is None


def test_nobody_on_file_misses_everything():
    assert prove(Role.PARTY, RIGHT[Role.PARTY], []).missing == REQUIRED[Role.PARTY]


answers_of = st.fixed_dictionaries(
    {}, optional={element: st.text("0123456789", max_size=12) for element in Element}
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(ROLES, answers_of, st.sets(st.sampled_from(list(Element))))
def test_missing_names_exactly_what_is_wrong(role, noise, kept):
    """Right answers for the elements in `kept`, noise elsewhere: proven only if nothing is wrong, and else `missing`
    holds what no single person on file explains."""
    answers = {**noise, **{element: RIGHT[role][element] for element in kept if element in RIGHT[role]}}
    verdict = prove(role, answers, FILE)
    right = {element for element in REQUIRED[role] if answers.get(element) == RIGHT[role][element]}
    if verdict.proven is not None:
        assert verdict.missing == ()
    else:
        assert verdict.missing
        assert set(verdict.missing) <= set(REQUIRED[role])
        assert len(verdict.missing) <= len(REQUIRED[role]) - len(right)


@settings(max_examples=100, deadline=None)
@given(ROLES, st.sampled_from(list(Element)), st.text("0123456789", max_size=20))
def test_no_keyed_guess_stands_in_for_an_element(role, element, guess):
    if element not in REQUIRED[role]:
        return
    verdict = prove(role, {**RIGHT[role], element: guess}, FILE)
    expected = {
        Element.FIRM: firm_initials(LAWYER.firm, LAWYER.firm_short), Element.LICENCE: {"2935"},
        Element.NAME: initials("张伟" if role is Role.PARTY else "单文博"), Element.CASE: {"12345", "10009"},
        Element.MOBILE: {RIGHT[role][Element.MOBILE]},
    }  # fmt: skip
    assert (verdict.proven is not None) == (guess in expected[element])
