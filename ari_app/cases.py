"""Cases, parties, lawyers: what a number or an identity opens. Synchronous; a session comes from ``ari_app.store``."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from ari_app.flow.identity import Element, OnFile, Role, Verdict, prove
from ari_app.store.models import Case, LawFirm, Lawyer, Milestone, Party

MOBILE = re.compile(r"1[3-9]\d{9}")
LANDLINE = re.compile(r"0[1-9]\d{8,10}")


def normalise_number(text: str | None) -> str | None:
    """A phone number as the case file writes it: digits only, no country code; None if there is none.

    >>> normalise_number("+86 154-0000-1234")
    '15400001234'
    >>> normalise_number("anonymous") is None
    True
    """
    digits = "".join(c for c in text or "" if c in "0123456789")
    for prefix in ("0086", "86", "0"):
        if MOBILE.fullmatch(digits.removeprefix(prefix)) and digits.startswith(prefix):
            digits = digits.removeprefix(prefix)
    return digits if 3 <= len(digits) <= 20 else None


def is_mobile(number: str | None) -> bool:
    return bool(number and MOBILE.fullmatch(number))


def can_be_called(number: str | None) -> bool:
    """Whether we would call it: a mobile, or a landline with its area code; nothing abroad, nothing short.

    >>> [can_be_called(n) for n in ("13800001111", "02150001234", "008613800001111", "12368", None)]
    [True, True, False, False, False]
    """
    return bool(number and (MOBILE.fullmatch(number) or LANDLINE.fullmatch(number)))


@dataclass(frozen=True)
class CaseContext:
    """What the agent's side needs to know of a caller's cases: codes and counts, no personal data."""

    status: Literal["ok", "none"]
    role: Role
    cases: int
    milestone: str
    """Code of the newest milestone that has happened, or ``none``."""
    next: str
    """``hearing`` if a milestone lies ahead, else ``none``."""


def context(
    session: Session,
    *,
    number: str | None,
    role: str | None = None,
    case_last5: str | None = None,
    licence_last4: str | None = None,
    now: float | None = None,
) -> CaseContext:
    """The cases of whoever has `number` on file; what was keyed narrows them down."""
    none = CaseContext("none", Role.UNKNOWN, 0, "none", "none")
    if not number:
        return none
    query = select(Case.id, Party.mobile).join(Party).join(Lawyer)
    of_party, of_lawyer = Party.mobile == number, Lawyer.mobile == number
    if role == Role.LAWYER:
        query = query.where(of_lawyer)
    elif role == Role.PARTY:
        query = query.where(of_party)
    else:
        query = query.where(or_(of_party, of_lawyer))
    if case_last5:
        query = query.where(Case.serial_last5 == case_last5)
    if licence_last4:
        query = query.where(Lawyer.licence.endswith(licence_last4, autoescape=True))
    found = session.execute(query).all()
    if not found:
        return none
    moment = time.time() if now is None else now
    milestones = session.execute(
        select(Milestone.code, Milestone.at)
        .where(Milestone.case_id.in_([case for case, _ in found]))
        .order_by(Milestone.at)
    ).all()
    past = [code for code, at in milestones if at <= moment]
    return CaseContext(
        status="ok",
        role=Role.PARTY if any(mobile == number for _, mobile in found) else Role.LAWYER,
        cases=len(found),
        milestone=past[-1] if past else "none",
        next="hearing" if len(past) < len(milestones) else "none",
    )


@dataclass(frozen=True)
class Person:
    """A proven caller. Personal data: never logged, never in a channel variable."""

    role: Role
    surname: str
    title: Literal["lawyer", "mr", "ms"]
    party_id: int | None = None
    lawyer_id: int | None = None
    case_id: int | None = None
    """The case asked about: the one that was keyed, or the person's only one; None if it may be any of several."""


def check_identity(
    session: Session, role: Role, answers: dict[Element, str]
) -> tuple[Person | None, tuple[Element, ...]]:
    """The person whom `answers` prove (SOP-2), or the elements that remain.

    Candidates are taken by any element that can be looked up exactly, so that a wrong one still says what is missing.
    """
    mobile = answers.get(Element.MOBILE) or ""
    if role is Role.LAWYER:
        licence = answers.get(Element.LICENCE) or ""
        lawyers = session.execute(
            select(Lawyer, LawFirm)
            .join(LawFirm)
            .where(
                or_(
                    Lawyer.mobile == mobile,
                    Lawyer.licence.endswith(licence, autoescape=True) if licence else Lawyer.mobile == mobile,
                )
            )
        ).all()
        files = {
            OnFile(role, one.name, one.mobile, firm=firm.name, firm_short=firm.short_name, licence=one.licence): one
            for one, firm in lawyers
        }
        verdict = prove(role, answers, files)
        if verdict.proven is None:
            return None, verdict.missing
        lawyer = files[verdict.proven]
        return _as_person(lawyer, _only_case(session, Case.lawyer_id == lawyer.id)), ()
    last5 = answers.get(Element.CASE) or ""
    parties = session.execute(
        select(Party, Case.serial_last5)
        .join(Case, Case.party_id == Party.id)
        .where(or_(Party.mobile == mobile, Case.serial_last5 == last5))
    ).all()
    people = {OnFile(role, one.name, one.mobile, case_last5=last5): one for one, last5 in parties}
    verdict = prove(role, answers, people)
    if verdict.proven is None:
        return None, verdict.missing
    party = people[verdict.proven]
    return _as_person(party, _only_case(session, Case.party_id == party.id, Case.serial_last5 == last5)), ()


def person(
    session: Session, *, party_id: int | None, lawyer_id: int | None, case_id: int | None = None
) -> Person | None:
    """The party or lawyer with this id, who asks about that case; None if there is no such one any more."""
    found = session.get(Party, party_id) if party_id is not None else session.get(Lawyer, lawyer_id)
    return _as_person(found, case_id) if found is not None else None


def _only_case(session: Session, *conditions: ColumnElement[bool]) -> int | None:
    found = session.scalars(select(Case.id).where(*conditions).limit(2)).all()
    return found[0] if len(found) == 1 else None


def _as_person(found: Lawyer | Party, case_id: int | None = None) -> Person:
    if isinstance(found, Lawyer):
        return Person(Role.LAWYER, surname(found.name), "lawyer", lawyer_id=found.id, case_id=case_id)
    title: Literal["mr", "ms"] = "mr" if found.title == "先生" else "ms"
    return Person(Role.PARTY, surname(found.name), title, party_id=found.id, case_id=case_id)


_DOUBLE_SURNAMES = (
    "欧阳",
    "上官",
    "司马",
    "诸葛",
    "司徒",
    "夏侯",
    "皇甫",
    "尉迟",
    "公孙",
    "令狐",
    "慕容",
    "东方",
)


def surname(name: str) -> str:
    """
    >>> surname("欧阳修文"), surname("张伟")
    ('欧阳', '张')
    """
    return name[:2] if name.startswith(_DOUBLE_SURNAMES) and len(name) > 2 else name[:1]


__all__ = [
    "CaseContext", "Person", "Verdict", "check_identity", "context", "is_mobile", "normalise_number", "surname",
]  # fmt: skip
