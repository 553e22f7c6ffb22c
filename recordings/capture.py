"""A finished spool file becomes one segment: verified FLAC and a sidecar that says what it is.

Theory of operation. Asterisk's MixMonitor writes ``<call id>.raw`` into the spool, interleaved stereo, 16 bit,
8 kHz, the caller on the left and what the caller heard on the right; when the file is complete its end command
creates ``<call id>.done``. A call that the hotline placed (``<instance>-out_<epoch>.<n>``) is recorded from the other
end of its line, so its sides come the other way round, and are turned here. `seal` reads the one and writes two
files into the staging folder::

    spool/<id>.raw ─┐
    spool/<id>.done ┴─► staged/<id>.flac   same samples, decoded again and compared
                        staged/<id>.json   the sidecar; written last, so its presence means the FLAC is whole

Killed anywhere, `seal` starts again from the spool file and comes to the same end. A call always leaves a segment:
where nothing was captured, it is silence as long as the call lasted.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path

import msgspec

log = logging.getLogger("sanling.recordings")

RATE_HZ = 8000
SIDES = ("caller", "heard")
"""Left is what the caller said, right is what the caller heard."""
FRAME_BYTES = 4
"""One sample of each side, 16 bit."""
SHORTEST_FRAMES = 160
"""20 ms, one packet of telephone speech: the length of the shortest segment."""
LONGEST_SILENCE_S = 4 * 3600.0
"""Longer than any call may last: a clock that was set must not invent a day of silence."""
BLOCK_FRAMES = 1 << 18
CHINA = timezone(timedelta(hours=8))
"""China has kept one time, without summer time, since 1991."""


class Unsealable(Exception):
    """The segment could not be made from the spool file; the spool file is untouched."""


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside a segment, as JSON."""

    call_id: str
    sha256: str
    """Of the FLAC file."""
    size_bytes: int
    audio_sha256: str
    """Of the samples: interleaved, 16 bit, little endian."""
    seconds: float
    channels: int
    rate_hz: int
    sides: tuple[str, ...]
    captured_bytes: int
    """What Asterisk had written; 0: nothing was captured, and the segment is silence as long as the call."""
    padded_bytes: int = 0
    """Zero bytes added to complete a last sample that was cut off."""
    salvaged: bool = False
    """Asterisk never said that the file was complete; it was taken because its call was gone."""
    made_at: str
    software: dict[str, str]

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> Sidecar | None:
        """None where `text` is not a whole sidecar."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


def was_placed(call_id: str) -> bool:
    """Whether the hotline placed this call. No instance's name has an underscore.

    >>> was_placed("demo-out_1763763200.3"), was_placed("demo-out-1763763200.3")
    (True, False)
    """
    return re.search(r"-out_\d{9,11}\.\d+$", call_id) is not None


def began_at(call_id: str) -> datetime | None:
    """When the call's channel was made, which is in its id: ``demo-1763763200.3``, ``demo-out_1763763200.3``."""
    match = re.search(r"(?:^|[-_])(\d{9,11})\.\d+$", call_id)
    return datetime.fromtimestamp(int(match[1]), UTC) if match else None


def key(call_id: str, zone: tzinfo = CHINA) -> str:
    """Where a call's segment lies in every store, without the ending: ``2025/11/22/demo-1763763200.3``.

    Follows from the call id alone, so that a copy is found without any index.
    """
    began = began_at(call_id)
    folder = began.astimezone(zone).strftime("%Y/%m/%d") if began else "undated"
    return f"{folder}/{call_id}"


def staged_flac(staged: Path, call_id: str) -> Path:
    return staged / f"{call_id}.flac"


def staged_sidecar(staged: Path, call_id: str) -> Path:
    return staged / f"{call_id}.json"


def seal(spool: Path, staged: Path, call_id: str) -> Sidecar:
    """Make the segment of a finished call, or find the one made before. Takes processor time: not for the event loop.

    Raises Unsealable.
    """
    flac, beside = staged_flac(staged, call_id), staged_sidecar(staged, call_id)
    if (made := made_before(staged, call_id)) is not None:
        return made
    raw = spool / f"{call_id}.raw"
    try:
        captured = raw.stat().st_size if raw.exists() else 0
        _expect_room(staged, captured)
        part = flac.with_name(f".{flac.name}.part")
        frames, audio_sha256 = _encode(raw, part, captured, call_id)
        _expect_same_samples(part, audio_sha256, frames)
        sha256, size = digest(part)
        sidecar = Sidecar(
            call_id=call_id,
            sha256=sha256,
            size_bytes=size,
            audio_sha256=audio_sha256,
            seconds=frames / RATE_HZ,
            channels=len(SIDES),
            rate_hz=RATE_HZ,
            sides=SIDES,
            captured_bytes=captured,
            padded_bytes=-captured % FRAME_BYTES,
            salvaged=not (spool / f"{call_id}.done").exists(),
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            software=_software(),
        )
        settle(part, flac)
        note = beside.with_name(f".{beside.name}.part")
        note.touch(mode=0o600)
        note.write_bytes(sidecar.to_json())
        settle(note, beside)
    except OSError as error:
        raise Unsealable(f"{error.strerror or error}: {error.filename or staged}") from error
    return sidecar


def made_before(staged: Path, call_id: str) -> Sidecar | None:
    """The sidecar of a segment that is staged and whole, every byte of it read again."""
    flac, beside = staged_flac(staged, call_id), staged_sidecar(staged, call_id)
    if not (beside.exists() and flac.exists()):
        return None
    sidecar = Sidecar.from_json(beside.read_bytes())
    return sidecar if sidecar is not None and digest(flac)[0] == sidecar.sha256 else None


def digest(file: Path) -> tuple[str, int]:
    """SHA-256 of a file and its length in bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest(), opened.tell()


def settle(part: Path, whole: Path) -> None:
    """Give a finished file its name, so that after a power cut it is there whole or not at all."""
    with part.open("rb") as opened:
        os.fsync(opened.fileno())
    part.rename(whole)
    sync_folder(whole.parent)


def sync_folder(folder: Path) -> None:
    """Make names given or taken away in `folder` outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _encode(raw: Path, part: Path, captured: int, call_id: str) -> tuple[int, str]:
    import numpy as np
    import soundfile

    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    samples = hashlib.sha256()
    frames = 0
    turned = was_placed(call_id)
    blocks = _blocks(raw, captured) if captured else _silence(_elapsed_frames(raw, call_id))
    try:
        with soundfile.SoundFile(
            str(part), "w", samplerate=RATE_HZ, channels=len(SIDES), format="FLAC", subtype="PCM_16"
        ) as out:
            for block in blocks:
                sides = np.frombuffer(block, dtype="<i2").reshape(-1, len(SIDES))
                if turned:
                    sides = np.ascontiguousarray(sides[:, ::-1])
                samples.update(sides.tobytes())
                frames += len(sides)
                out.write(sides)
    except (soundfile.SoundFileError, AssertionError) as error:
        raise Unsealable(f"the FLAC could not be written to {part.parent}: {_cause(part, error)}") from error
    return frames, samples.hexdigest()


def _expect_same_samples(part: Path, audio_sha256: str, frames: int) -> None:
    import soundfile

    decoded = hashlib.sha256()
    found = 0
    try:
        with soundfile.SoundFile(str(part)) as back:
            while len(block := back.read(BLOCK_FRAMES, dtype="int16", always_2d=True)):
                decoded.update(block.astype("<i2", copy=False).tobytes())
                found += len(block)
    except soundfile.SoundFileError as error:
        raise Unsealable(f"the FLAC written to {part.parent} is cut off: {_cause(part, error)}") from error
    if decoded.hexdigest() != audio_sha256:
        raise Unsealable(
            f"the FLAC written to {part.parent} does not give back the same samples"
            f" ({found} of {frames}): {_cause(part, None)}"
        )


def _blocks(raw: Path, captured: int) -> Iterator[bytes]:
    """The first `captured` bytes, the last sample completed with zero bytes; at least 20 ms."""
    left = captured
    with raw.open("rb") as opened:
        while left:
            block = opened.read(min(left, BLOCK_FRAMES * FRAME_BYTES))
            if not block:
                raise Unsealable(f"{raw} became shorter while it was read")
            left -= len(block)
            yield block + bytes(-len(block) % FRAME_BYTES)
    yield from _silence(max(0, SHORTEST_FRAMES - -(-captured // FRAME_BYTES)))


def _silence(frames: int) -> Iterator[bytes]:
    while frames > 0:
        block = min(frames, BLOCK_FRAMES)
        yield bytes(block * FRAME_BYTES)
        frames -= block


def _elapsed_frames(raw: Path, call_id: str) -> int:
    """How long a call without any captured sound lasted, from its id to the end that the spool shows."""
    began = began_at(call_id)
    shown = [file for file in (raw.with_suffix(".done"), raw) if file.exists()]
    if began is None or not shown:
        return SHORTEST_FRAMES
    elapsed_s = min(shown[0].stat().st_mtime - began.timestamp(), LONGEST_SILENCE_S)
    return max(SHORTEST_FRAMES, round(elapsed_s * RATE_HZ))


def _expect_room(staged: Path, captured: int) -> None:
    """FLAC is never longer than the samples plus a little; stop before the disk is full, not after."""
    free = shutil.disk_usage(staged).free
    if free < captured + 65536:
        raise Unsealable(f"{staged} has {free} bytes free, the recording may need {captured + 65536}")


def _cause(part: Path, error: BaseException | None) -> str:
    free = shutil.disk_usage(part.parent).free
    return f"{error or 'unknown cause'} ({free} bytes free, {part.stat().st_size} written)"


def _software() -> dict[str, str]:
    import soundfile

    version: Callable[[str], str] = importlib.metadata.version
    try:
        own = version("sanling")
    except importlib.metadata.PackageNotFoundError:
        own = "unknown"
    return {"sanling": own, "soundfile": version("soundfile"), "libsndfile": soundfile.__libsndfile_version__}
