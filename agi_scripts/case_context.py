#!/usr/bin/env python3
"""What the case file says of a caller, as channel variables: codes and counts, never names or numbers.

In the dialplan, the number first and, once the caller has keyed an identity, what was keyed::

    AGI(agi://ADDRESS:4573/case_context,${CALLERID(num)})
    AGI(agi://ADDRESS:4573/case_context,NUMBER,lawyer|party,LAST FIVE OF THE CASE,LAST FOUR OF THE LICENCE)

Sets SANLING_CONTEXT (ok, none, unavailable), SANLING_ROLE (lawyer, party, unknown), SANLING_CASES (how many),
SANLING_MILESTONE (code of the newest, or none), SANLING_NEXT (hearing, none). SANLING_CONTEXT is ``unavailable`` from
the first command on and something else only with the last one: half an answer is no answer.

Also a plain AGI script: ``AGI(/path/to/agi_scripts/case_context.py,…)`` or ``python -m agi_scripts.case_context``.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

import logging
import os
import re
import signal

from sqlalchemy import Engine

from agi_scripts.database import open_reader
from agi_scripts.session import Session
from ari_app import cases, store
from ari_app.settings import load

_SHAPES = (re.compile(r"lawyer|party"), re.compile(r"\d{5}", re.ASCII), re.compile(r"\d{4}", re.ASCII))
"""Of the role, the case number's last five and the licence's last four."""


def answer(session: Session, engine: Engine) -> None:
    """Looks the caller of `session` up and sets the variables.

    Raises what the conversation or the database raises; the variables say ``unavailable`` then.
    """
    session.set_variable("SANLING_CONTEXT", "unavailable")
    found = _look_up(engine, *(*session.arguments[:4], "", "", "", "")[:4])
    session.set_variable("SANLING_ROLE", str(found.role) if found else "unknown")
    session.set_variable("SANLING_CASES", found.cases if found else 0)
    session.set_variable("SANLING_MILESTONE", found.milestone if found else "none")
    session.set_variable("SANLING_NEXT", found.next if found else "none")
    session.set_variable("SANLING_CONTEXT", found.status if found else "none")


def _look_up(engine: Engine, number: str, *keyed: str) -> cases.CaseContext | None:
    # What was keyed narrows the search. Malformed, it must not widen it by being left out.
    if any(value and not shape.fullmatch(value) for value, shape in zip(keyed, _SHAPES, strict=True)):
        return None
    caller = cases.normalise_number(number)
    if caller is None:
        return None
    role, case_last5, licence_last4 = (value or None for value in keyed)
    with store.session(engine) as session:
        return cases.context(session, number=caller, role=role, case_last5=case_last5, licence_last4=licence_last4)


def main() -> int:
    """As a plain AGI script: Asterisk's stdin and stdout. 0 if the variables are set, 1 if not."""
    logging.getLogger().addHandler(logging.NullHandler())
    # Nothing to tidy up: Asterisk sees the end of the script, and the call goes on.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
    try:
        settings = load()
        signal.setitimer(signal.ITIMER_REAL, settings.agi_deadline_s)
        answer(Session(sys.stdin.buffer, sys.stdout.buffer), open_reader(settings))
    except Exception as error:
        return _quietly(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)  # the interpreter takes its handler away before it ends
    return 0


def _quietly(error: Exception) -> int:
    # The message could hold the caller's number (SQLAlchemy shows parameters), and stderr is Asterisk's console.
    logging.getLogger("sanling.agi").warning("case_context: %s", type(error).__name__)
    return 1


if __name__ == "__main__":
    sys.exit(main())
