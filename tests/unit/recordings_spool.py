"""A spool as Asterisk leaves it, and two folder stores."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from recordings.stores import FolderStore, Store
from recordings.vault import Vault
from recordings.worker import Worker

BEGAN = 1763763200
"""2025-11-22 06:13:20 in Shanghai."""


def speech_like(seconds: float, seed: int = 1) -> bytes:
    """Interleaved stereo, 16 bit, 8 kHz: a different noise on each side, swelling and fading."""
    frames = round(seconds * 8000)
    noise = np.random.default_rng(seed).standard_normal((frames, 2))
    swell = np.sin(np.arange(frames)[:, None] / (1500.0, 2100.0))
    return (noise * swell * 3000).astype("<i2").tobytes()


class Spool:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "spool/monitor"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.local = FolderStore(home / "local", "local")
        self.second = FolderStore(home / "second", "second")
        for store in (self.local, self.second):
            store.prepare()
        self._calls = 0

    def vault(self, worker: Worker | None, *, second: Store | None = None, **settings: Any) -> Vault:
        return Vault(self.folder, self.local, second or self.second, worker=worker, **settings)

    def ended_call(
        self,
        *,
        seconds: float = 0.5,
        raw: bytes | None = None,
        done: bool = True,
        lasted_s: float = 0.0,
        placed: bool = False,
    ) -> str:
        self._calls += 1
        call_id = f"demo-{'out_' if placed else ''}{BEGAN}.{self._calls}"
        file = self.folder / f"{call_id}.raw"
        file.write_bytes(speech_like(seconds, self._calls) if raw is None else raw)
        if done:
            self.declares_complete(call_id, lasted_s or seconds)
        return call_id

    def declares_complete(self, call_id: str, lasted_s: float) -> None:
        file = self.folder / f"{call_id}.done"
        file.touch()
        os.utime(file, (BEGAN + lasted_s,) * 2)

    def falls_quiet(self, call_id: str, for_s: float) -> None:
        os.utime(self.folder / f"{call_id}.raw", (time.time() - for_s,) * 2)

    def left(self) -> list[str]:
        """What the spool still holds."""
        return sorted(
            str(file.relative_to(self.folder))
            for file in self.folder.rglob("*")
            if file.is_file() and file.name != ".lock"
        )

    def copy(self, store: FolderStore, call_id: str, ending: str = ".flac") -> Path:
        return store.root / f"2025/11/22/{call_id}{ending}"

    def samples(self, store: FolderStore, call_id: str) -> bytes:
        samples, rate_hz = soundfile.read(str(self.copy(store, call_id)), dtype="int16", always_2d=True)
        assert rate_hz == 8000
        assert samples.shape[1] == 2
        return bytes(samples.astype("<i2").tobytes())
