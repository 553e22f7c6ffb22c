"""A real Asterisk for the ARI client's tests, with callers and phones made of Local channels."""

from __future__ import annotations

import asyncio
import itertools
import os
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ari_app.ari import Arrival, Client, LinkUp, Mailbox
from ari_app.ari.errors import AriError
from ari_app.ari.websocket import WebSocketWire
from ari_app.instance import Instance
from ari_app.settings import load
from tests.asterisk.kept import kept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ari_app.ari.verbs import BoundChannel

DIALPLAN = """
[ari-test]
exten => caller,1,Stasis(sanling,inbound)
 same => n,Hangup()
exten => returning,1,Stasis(sanling,context)
 same => n,Hangup()
exten => leaving,1,Wait(0.2)
 same => n,Hangup()
exten => phone,1,Answer()
 same => n,Wait(60)
"""
SILENCE = b"\xd5"
"""A-law."""


_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_addresses = (f"127.0.53.{4 + _worker * 8 + n % 8}" for n in itertools.count())
"""One for each Asterisk, so that none waits for the ports of the one before."""


def _prepared(folder: Path) -> Instance:
    settings = load(environment={}, instance="ari", address=next(_addresses), var_dir=str(folder))
    instance = Instance(settings)
    instance.prepare([])
    with (settings.run_dir / "etc" / "extensions.conf").open("a", encoding="utf-8") as dialplan:
        dialplan.write(DIALPLAN)
    _long_prompt(instance).with_suffix(".alaw").write_bytes(SILENCE * 8000 * 30)
    return instance


def _long_prompt(instance: Instance) -> Path:
    """Without its suffix."""
    return instance.settings.run_dir / "lib" / "long"


class AriAsterisk:
    """`client()` gives clients, `a_caller()` and `a_phone()` channels."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._names = (f"call-{n}" for n in itertools.count(1))

    async def __aenter__(self) -> Self:
        self._kept = await self._stack.enter_async_context(kept("ari", _prepared))
        self.instance = self._kept.instance
        self.long_prompt = _long_prompt(self.instance)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)

    async def stop(self) -> None:
        await self._kept.stop()

    async def start(self) -> None:
        await self._kept.start()

    def wire(self) -> WebSocketWire:
        return WebSocketWire(self.instance.ari_url, self.instance.ari_user, self.instance.ari_password, "sanling")

    @asynccontextmanager
    async def client(self, *, timeout_s: float = 5.0) -> AsyncIterator[Client]:
        async with Client(self.wire(), "sanling", timeout_s=timeout_s) as client:
            await linked(client)
            yield client
            with suppress(AriError):
                for channel in await client.channels.list():
                    with suppress(AriError):
                        await channel.hangup()

    async def a_caller(self, client: Client) -> Arrival:
        """Someone who rings and enters Stasis unannounced."""
        await client.channels.originate(
            endpoint="Local/caller@ari-test/n", context="ari-test", extension="phone", priority=1, formats="alaw"
        )
        async with asyncio.timeout(5):
            return await client.arrivals.get()

    async def a_phone(self, client: Client) -> tuple[BoundChannel, Mailbox]:
        """A phone that we call and that picks up."""
        name = next(self._names)
        mailbox = client.mailboxes.open(name)
        channel = await client.channels.originate(
            endpoint="Local/phone@ari-test/n", app="sanling", channelId=name, formats="alaw"
        )
        await hears(mailbox, "StasisStart")
        return channel, mailbox

    @property
    def long_media(self) -> str:
        """Half a minute of silence."""
        return f"sound:{self.long_prompt}"


async def linked(client: Client) -> LinkUp:
    """Wait until the link is up."""
    async with asyncio.timeout(10):
        while not isinstance(link := await client.links.get(), LinkUp):
            pass
    return link


async def hears(mailbox: Mailbox, event_type: str, within_s: float = 5.0) -> list[str]:
    """Read events up to the first of this type; the types that came by."""
    types: list[str] = []
    async with asyncio.timeout(within_s):
        while not types or types[-1] != event_type:
            types.append((await mailbox.get()).type)
    return types
