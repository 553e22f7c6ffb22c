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
from ari_app.flow.leading import Role
from ari_app.instance import AgentAccount
from ari_app.rules import LEVELS, SKILLS
from ari_app.store.models import Agent, AgentSkill

PASSWORD_LENGTH = 16
PIN_LENGTH = 6
REALM = "sanling"


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
    alphabet = string.ascii_letters + string.digits
    password = "".join(secrets.choice(alphabet) for _ in range(PASSWORD_LENGTH))
    pin = "".join(secrets.choice(string.digits) for _ in range(PIN_LENGTH))
    session.add(Agent(number=number, name=name, sip_ha1=sip_ha1(number, password), pin_hash=hash_pin(pin)))
    return Access(number, name, password, pin)


def set_skill(session: Session, number: str, skill: str, level: int) -> None:
    """Sets an agent's level in a line, a need or a language. Raises SanlingError: no such agent, skill or level."""
    if skill not in SKILLS:
        raise SanlingError(f"There is no skill {skill!r}; write one of {', '.join(SKILLS)}.")
    if level not in (0, *LEVELS):
        raise SanlingError(f"Level {level}: write 1 (helps out) to 5 (best), 3 is usual; 0: not at all.")
    if session.get(Agent, number) is None:
        raise SanlingError(f"There is no agent {number}; `sanling agents list` shows who there is.")
    session.merge(AgentSkill(agent=number, skill=skill, level=level))


def set_role(session: Session, number: str, role: str) -> None:
    """Makes `number` an agent, inspector, mentor or leader (AGT-5). Raises SanlingError: no such agent or role."""
    if role not in tuple(Role):
        raise SanlingError(f"There is no role {role!r}; write one of {', '.join(Role)}.")
    agent = session.get(Agent, number)
    if agent is None:
        raise SanlingError(f"There is no agent {number}; `sanling agents list` shows who there is.")
    agent.role = role


def sip_ha1(number: str, password: str) -> str:
    """HA1 of SIP digest authentication (RFC 2617): MD5, because that is what softphones speak."""
    return hashlib.md5(f"{number}:{REALM}:{password}".encode(), usedforsecurity=False).hexdigest()


def accounts(session: Session) -> list[AgentAccount]:
    """Every agent, as Asterisk's configuration needs them."""
    return [AgentAccount(a.number, a.sip_ha1, a.name) for a in session.scalars(select(Agent).order_by(Agent.number))]
