"""A small exchange for the test phones themselves: the hotline's Asterisk, with a few numbers of its own."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from ari_app.instance import AgentAccount, Instance
from ari_app.settings import load
from ari_app.testcall.hearing import Ear, PromptSounds
from ari_app.testcall.phone import Call, Phone, Phones
from tests.asterisk.kept import kept

DIALPLAN = """
[inbound](+)
exten => prompts,1,Ringing()
 same => n,Wait(1)
 same => n,Answer()
 same => n,Playback(${PROMPTS}/opening)
 same => n,Wait(0.4)
 same => n,Playback(${PROMPTS}/ask-role)
 same => n,Wait(0.3)
 same => n,Hangup()
exten => cut,1,Answer()
 same => n,Set(TIMEOUT(absolute)=3)
 same => n,Playback(${PROMPTS}/ask-need)
exten => digits,1,Answer()
 same => n,Read(KEYED,,20,,1,20)
 same => n,Set(FILE(${SPOOL}/keyed-${CALLERID(num)}.txt,,,l,u)=${KEYED})
 same => n,Hangup()
exten => music,1,Answer()
 same => n,MusicOnHold(sanling,6)
 same => n,Playback(${PROMPTS}/closing)
 same => n,Hangup()
exten => _6XX,1,Dial(PJSIP/${EXTEN},20)
 same => n,Hangup()
[agents](+)
exten => closing,1,Answer()
 same => n,Playback(${PROMPTS}/closing)
 same => n,Hangup()
"""
MODULES = "load = app_dial.so\nload = func_env.so\n"

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_networks = (f"127.0.56.{4 + _worker * 8 + 4 * (n % 2)}" for n in itertools.count())


def _agents_at(address: str) -> str:
    return _after(address, 1)


def _callers_at(address: str) -> str:
    return _after(address, 2)


def _after(address: str, n: int) -> str:
    front, _, last = address.rpartition(".")
    return f"{front}.{int(last) + n}"


def _prepared(folder: Path) -> Instance:
    address = next(_networks)
    settings = load(
        environment={},
        instance="phones",
        address=address,
        var_dir=str(folder),
        trunk={"addresses": [_callers_at(address)]},
    )
    instance = Instance(settings)
    instance.prepare([AgentAccount(n, _ha1(n)) for n in ("601", "602", "603")])
    etc = settings.run_dir / "etc"
    for name, more in (("extensions.conf", DIALPLAN), ("modules.conf", MODULES)):
        with (etc / name).open("a", encoding="utf-8") as file:
            file.write(more)
    return instance


@functools.cache
def _ear(prompts: Path) -> Ear:
    return Ear(PromptSounds(prompts))


class PhoneExchange:
    """Asterisk, and phones around it."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.instance = (await self._stack.enter_async_context(kept("phones", _prepared))).instance
        settings = self.instance.settings
        self.at = f"{settings.address}:{settings.sip_port}"
        self.callers_at = _callers_at(settings.address)
        phones = Phones(_agents_at(settings.address), ear=_ear(settings.prompts))
        self.phones = await self._stack.enter_async_context(phones)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)

    async def agent(self, number: str, *, lines: int = 1) -> Phone:
        return await self.phones.agent(number, _password(number), registrar=self.at, lines=lines)

    def caller(self, number: str = "15400001234", *, display: str = "") -> Phone:
        return self.phones.caller(number, display=display, address=self.callers_at)

    async def call(self, dialled: str, *, from_: str = "15400001234", display: str = "") -> Call:
        return await self.caller(from_, display=display).dials(dialled, at=self.at)

    def keyed(self, number: str) -> str:
        return (self.instance.settings.spool_dir / f"keyed-{number}.txt").read_text(encoding="utf-8").strip()


def _password(number: str) -> str:
    return f"secret-of-{number}"


def _ha1(number: str) -> str:
    return hashlib.md5(f"{number}:sanling:{_password(number)}".encode()).hexdigest()  # noqa: S324
