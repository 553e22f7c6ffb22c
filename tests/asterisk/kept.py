"""Asterisks that serve one test after another, one a test process and kind: a start takes all of a small machine for a
second, and calls beside it lose sound. The next test gets a new one after a test that failed or left something in it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from ari_app.errors import SetUpFailed
from ari_app.instance import Instance

T = TypeVar("T")

CLEAN_WITHIN_S = 3.0

_loop: asyncio.AbstractEventLoop | None = None
_kept: dict[str, KeptAsterisk] = {}


class KeptAsterisk:
    """An `Instance` on an event loop that outlives the tests', so that it can be kept."""

    def __init__(self, folder: Path, instance: Instance) -> None:
        self.instance = instance
        self._folder = folder

    async def start(self) -> None:
        """Raises SetUpFailed."""
        await _there(self.instance.start_asterisk())

    async def stop(self) -> None:
        await _there(self.instance.stop())

    async def ended(self) -> int:
        """Its exit code."""
        return await _there(self.instance.wait_asterisk())

    async def end(self) -> None:
        await self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def is_clean(self) -> bool:
        """Whether it is as new, once what a test left in it was cleared away, and its last recordings are complete."""
        try:
            async with asyncio.timeout(CLEAN_WITHIN_S):
                while await self._something_left():  # noqa: ASYNC110 - Asterisk is asked, it does not tell
                    await asyncio.sleep(0.05)
        except (TimeoutError, SetUpFailed):
            return False
        for file in self.instance.settings.spool_dir.rglob("*"):
            if file.is_file():
                file.unlink(missing_ok=True)
        return True

    async def _something_left(self) -> bool:
        left = False
        for kind in ("channels", "bridges"):
            for one in await self._ask(kind):
                left = True
                await self.instance._ari("DELETE", f"{kind}/{one['id']}")
        agents = await self._ask("endpoints/PJSIP")
        recorded = (self.instance.settings.spool_dir / "monitor").glob("*.raw")
        return (
            left
            or any(one["state"] == "online" for one in agents if one["resource"].isdigit())
            or any(not file.with_suffix(".done").exists() for file in recorded)
        )

    async def _ask(self, path: str) -> list[dict[str, Any]]:
        status, body = await self.instance._ari("GET", path)
        if status != 200:
            raise SetUpFailed(f"Asterisk does not tell its {path}: {status}")
        return list(json.loads(body))


@asynccontextmanager
async def kept(kind: str, prepared: Callable[[Path], Instance]) -> AsyncIterator[KeptAsterisk]:
    """One that runs. `prepared` makes an instance of this kind, ready to be started, in a folder."""
    one = _kept.pop(kind, None) or await _started(kind, prepared)
    clean = False
    try:
        yield one
        clean = await one.is_clean()
    except BaseException as error:
        error.add_note(f"Asterisk's last words:\n{one.instance.last_words(40)}")
        raise
    finally:
        if clean:
            _kept[kind] = one
        else:
            await one.end()


async def _started(kind: str, prepared: Callable[[Path], Instance]) -> KeptAsterisk:
    folder = Path(tempfile.mkdtemp(prefix=f"sanling-{kind}-"))
    try:
        one = KeptAsterisk(folder, prepared(folder))
        await one.start()
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return one


def end_all() -> None:
    """Ends every one of this test process."""
    global _loop
    with ExitStack() as ending:
        for one in _kept.values():
            ending.callback(lambda one=one: asyncio.run(one.end()))
    _kept.clear()
    if _loop is not None:
        _loop.call_soon_threadsafe(_loop.stop)
        _loop = None


async def _there(doing: Coroutine[Any, Any, T]) -> T:
    """On the loop of the Asterisks, in a thread of its own, which lasts: children die with the one that made them."""
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
        threading.Thread(target=_loop.run_forever, name="asterisks", daemon=True).start()
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(doing, _loop))
