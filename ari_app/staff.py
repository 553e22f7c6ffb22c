"""Agents' accounts: number, SIP password, PIN. AGT-1."""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from ari_app.desk import hash_pin
from ari_app.errors import SanlingError
from ari_app.flow.duty import Duty
from ari_app.flow.leading import Role
from ari_app.flow.routing import levels_with
from ari_app.instance import AgentAccount
from ari_app.rules import LEVELS, SKILLS, Routing
from ari_app.store.models import Agent, AgentSkill, ApiToken

PASSWORD_LENGTH = 16
PIN_LENGTH = 6
REALM = "sanling"
REMOVED = ""
"""Hash of the password and of the PIN of an agent who was removed: no password and no PIN has it."""


@dataclass(frozen=True)
class Access:
    """What an agent needs to register a phone and sign in. Shown once: only hashes are kept."""

    number: str
    name: str
    password: str
    pin: str


def new_agent(session: Session, number: str, name: str) -> Access:
    """Adds an agent with a random password and PIN.

    Raises SanlingError if the number is not 3 to 8 digits or is taken.
    """
    if not re.fullmatch(r"[1-9]\d{2,7}", number):
        raise SanlingError(f"Agent number {number}: write 3 to 8 digits, the first not 0.")
    if session.get(Agent, number) is not None:
        raise SanlingError(f"Agent number {number} is taken; `sanling agents list` shows who has it.")
    access = _access(number, name)
    session.add(
        Agent(number=number, name=name, sip_ha1=sip_ha1(number, access.password), pin_hash=hash_pin(access.pin))
    )
    return access


def new_access(session: Session, number: str) -> Access:
    """A new password and PIN for an agent; the old ones hold no more, and the account is not locked any more.

    Raises SanlingError: no such agent.
    """
    agent = _agent(session, number)
    access = _access(number, agent.name)
    agent.sip_ha1, agent.pin_hash = sip_ha1(number, access.password), hash_pin(access.pin)
    agent.wrong_pins, agent.locked_until = 0, None
    return access


def remove(session: Session, number: str, now: float) -> None:
    """Nothing registers, signs in or asks the API as this agent any more. The row stays, and all that refers to it:
    the number is never another agent's.

    Raises SanlingError: no such agent, removed already, signed in, or somebody is signed in at this agent's phone.
    """
    agent = _agent(session, number)
    if not agent.sip_ha1:
        raise SanlingError(f"Agent {number} is removed already; `sanling agents access {number}` takes that back.")
    for one in session.scalars(select(Agent).where((Agent.number == number) | (Agent.phone == number))):
        if one.state != Duty.SIGNED_OUT:
            where = "" if one.number == number else f" at phone {number}"
            raise SanlingError(f"Agent {one.number} is signed in{where}: first `sanling agents sign-out {one.number}`.")
    agent.sip_ha1 = agent.pin_hash = REMOVED
    agent.role = Role.AGENT
    for token in session.scalars(select(ApiToken).where(ApiToken.agent == number, ApiToken.revoked_at.is_(None))):
        token.revoked_at = now


def _agent(session: Session, number: str) -> Agent:
    agent = session.get(Agent, number)
    if agent is None:
        raise SanlingError(f"There is no agent {number}; `sanling agents list` shows who there is.")
    return agent


def _access(number: str, name: str) -> Access:
    alphabet = string.ascii_letters + string.digits
    password = "".join(secrets.choice(alphabet) for _ in range(PASSWORD_LENGTH))
    pin = "".join(secrets.choice(string.digits) for _ in range(PIN_LENGTH))
    return Access(number, name, password, pin)


def set_skill(session: Session, number: str, skill: str, level: int) -> None:
    """Sets an agent's level in a line, a need or a language. Raises SanlingError: no such agent, skill or level."""
    if skill not in SKILLS:
        raise SanlingError(f"There is no skill {skill!r}; write one of {', '.join(SKILLS)}.")
    if level not in (0, *LEVELS):
        raise SanlingError(f"Level {level}: write 1 (helps out) to 5 (best), 3 is usual; 0: not at all.")
    _agent(session, number)
    session.merge(AgentSkill(agent=number, skill=skill, level=level))


def add_skill(session: Session, number: str, skill: str, level: int, usual: Routing) -> dict[str, int]:
    """As ``set_skill()``; the usual levels of that kind that held until now are entered with it.

    Returns all levels of the kind. Raises SanlingError: no such agent, skill or level.
    """
    rows = session.scalars(select(AgentSkill).where(AgentSkill.agent == number))
    known = {row.skill: row.level for row in rows}
    set_skill(session, number, skill, level)
    levels = levels_with(known, skill, level, usual)
    for one, value in levels.items():
        set_skill(session, number, one, value)
    return levels


def set_role(session: Session, number: str, role: str) -> None:
    """Makes `number` an agent, inspector, mentor or leader (AGT-5). Raises SanlingError: no such agent or role."""
    if role not in tuple(Role):
        raise SanlingError(f"There is no role {role!r}; write one of {', '.join(Role)}.")
    _agent(session, number).role = role


def sip_ha1(number: str, password: str) -> str:
    """HA1 of SIP digest authentication (RFC 2617): MD5, because that is what softphones speak."""
    return hashlib.md5(f"{number}:{REALM}:{password}".encode(), usedforsecurity=False).hexdigest()


def accounts(session: Session) -> list[AgentAccount]:
    """Every agent who is not removed, as Asterisk's configuration needs them."""
    there = select(Agent).where(Agent.sip_ha1 != REMOVED).order_by(Agent.number)
    return [AgentAccount(a.number, a.sip_ha1, a.name) for a in session.scalars(there)]
