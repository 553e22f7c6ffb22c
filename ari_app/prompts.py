"""The approved wording and its audio, sealed by hash (SCR-1).

Three files, one way round::

    catalogue.toml --(approved by three roles)--> wording --(rendered)--> audio/ --(hashed)--> seal.toml

``catalogue.toml`` is the only one a person writes. Each sentence carries the SHA-256 of the wording that operations,
legal and quality approved; a family (queue position 1 to 50, …) is approved as the whole list it expands to, so that
neither its template nor the spelling of numbers can change unnoticed. ``seal.toml`` says what the audio was made of
(the cache key) and the SHA-256 of the result. `Catalogue.load` follows the chain for every prompt and refuses the
whole catalogue if one link does not hold; `Catalogue.media` looks again whenever a file was touched since. Only where
refusing all of it would cost more than what is wrong, `Catalogue.load_whatever_holds` goes without that one prompt.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
import json
import logging
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from ari_app.errors import PromptAltered

log = logging.getLogger("sanling.prompts")

SECTIONS = ("opening", "identity", "need", "solution", "risk", "closing")
ROLES = ("operations", "legal", "quality")
"""Who approves a sentence: 业务, 法务, 质检. SCR-1."""

EXTENSION = "alaw"
"""What Asterisk's format_pcm plays as raw 8 kHz A-law."""

BYTES_PER_SECOND = 8000

Title = Literal["lawyer", "mr", "ms"]
Source = Literal["voice", "recording", "composition"]


class Sentence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    id: str
    section: Literal["opening", "identity", "need", "solution", "risk", "closing"]
    text: str
    approved: dict[str, str]
    """Role → SHA-256 of the wording this role approved."""
    voice: str = ""
    speed: float = 0.0


class Variable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a family's placeholder stands for; exactly one of `numbers`, `words` and `names`."""

    numbers: tuple[int, int] | None = None
    spelt: Literal["ordinal", "quantity", "digits", "hour", "minute"] = "ordinal"
    words: dict[str, str] | None = None
    names: str = ""

    def values(self) -> list[tuple[str, str]]:
        """Pairs (as in the id, as spoken)."""
        if self.numbers is not None:
            first, last = self.numbers
            return [(str(n), SPELLINGS[self.spelt](n)) for n in range(first, last + 1)]
        if self.words is not None:
            return list(self.words.items())
        return [(in_id(name), name) for name in self.names.split()]


class Family(Sentence, frozen=True, kw_only=True):
    """A sentence with placeholders, in its id as in its text."""

    variables: dict[str, Variable]

    def expand(self) -> Iterator[tuple[str, str]]:
        """Pairs (id, text) of every member."""
        for choice in itertools.product(*(v.values() for v in self.variables.values())):
            ids = {name: pair[0] for name, pair in zip(self.variables, choice, strict=True)}
            words = {name: pair[1] for name, pair in zip(self.variables, choice, strict=True)}
            yield self.id.format(**ids), self.text.format(**words)


class Composition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    version: int
    """Raised when `ari_app.music` composes differently."""


class Speech(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pipeline: int
    """Raised when `ari_app.speech` makes different audio of the same wording."""
    model: str
    """SHA-256 of the speech model."""
    voice: str
    speed: float
    voices: dict[str, str]
    """Voice → SHA-256 of its file."""


class Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """catalogue.toml as written."""

    speech: Speech
    readings: dict[str, str] = {}
    """Phrase → pinyin with tone digits, where the voice would read it wrongly."""
    sentence: list[Sentence]
    family: list[Family] = []
    composition: list[Composition] = []


class Seal(msgspec.Struct, frozen=True):
    """What one audio file was made of, and what it is. A line in seal.toml."""

    text: str
    audio: str
    seconds: float
    made_from: Source
    key: str

    def line(self, id: str) -> str:
        return (
            f'{id} = {{ text = "{self.text}", audio = "{self.audio}", seconds = {self.seconds:.3f},'
            f' from = "{self.made_from}", key = "{self.key}" }}\n'
        )


class Prompt(msgspec.Struct, frozen=True):
    id: str
    section: str
    """One of `SECTIONS`, or ``music``."""
    text: str
    voice: str
    speed: float
    source: Source
    key: str
    """Changes with whatever the audio depends on: wording, voice, speed, readings, model, pipeline or recording."""
    file: Path
    seconds: float = 0.0
    """Length of the audio; 0 as long as it is not rendered."""
    readings: tuple[tuple[str, str], ...] = ()


class Finding(msgspec.Struct, frozen=True):
    """Something that does not hold."""

    id: str
    part: Literal["wording", "audio", "seal", "recording", "catalogue"]
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"Prompt '{self.id}', {self.part}: {self.problem} {self.remedy}"


SEAL_HEAD = """\
# Written by `sanling prompts render`; not for editing. One line a prompt: SHA-256 of the wording and of the audio,
# the audio's length, what it was made from, and the key of everything it depends on.
"""
_LINE = re.compile(
    r'([a-z0-9-]+) = \{ text = "([0-9a-f]{64})", audio = "([0-9a-f]{64})", seconds = (\d+\.\d{3}),'
    r' from = "(voice|recording|composition)", key = "([0-9a-f]{32})" \}\n'
)
RESTORE = "Restore it from version control, or render it anew: `sanling prompts render`."
RENDER = "Render it: `sanling prompts render`."


class Catalogue(Mapping[str, Prompt]):
    """Every prompt by its id; the finders return the id of the whole clause for a number, name or state."""

    def __init__(
        self, folder: Path, prompts: dict[str, Prompt], seals: dict[str, Seal], findings: list[Finding]
    ) -> None:
        self.folder = folder
        self.seals = seals
        self.findings = findings
        """What does not hold; always empty in a catalogue that `load` returned."""
        self._prompts = prompts
        self._seen: dict[str, tuple[int, int] | None] = {}
        """Of every prompt whose audio is what was sealed, when it was last touched."""
        self._barred: dict[str, Finding] = {}
        """What may not be played, whatever its audio is: wording that was not approved, for one."""

    @classmethod
    def load(cls, folder: Path) -> Catalogue:
        """The catalogue, every wording and every byte of audio verified.

        Raises PromptAltered naming the first prompt that is not as approved or sealed, and what to do about it.
        """
        catalogue = cls.inspect(folder)
        if catalogue.findings:
            more = len(catalogue.findings) - 1
            raise PromptAltered(
                f"{catalogue.findings[0]}"
                + (f" (And {more} more: `sanling prompts verify` lists them.)" if more else "")
            )
        return catalogue

    @classmethod
    def load_whatever_holds(cls, folder: Path) -> Catalogue:
        """The catalogue without the prompts that are not as approved or sealed: `media` refuses those.

        For a hotline that has calls: one sentence less is better than none. What is wrong is said on the log. Raises
        PromptAltered if no prompt holds, or if catalogue.toml cannot be read.
        """
        catalogue = cls.inspect(folder)
        findings, catalogue.findings = catalogue.findings, []
        if findings and len(catalogue.lacking) == len(catalogue):
            raise PromptAltered(f"{findings[0]} (And no other prompt holds.)")
        for finding in findings:
            log.error("%s", finding)
        if catalogue.lacking:
            log.error("going on without %d prompts: %s", len(catalogue.lacking), ", ".join(sorted(catalogue.lacking)))
        return catalogue

    @classmethod
    def inspect(cls, folder: Path) -> Catalogue:
        """The catalogue with all that is wrong in `findings`, for listing and rendering.

        Raises PromptAltered only if catalogue.toml itself cannot be read.
        """
        folder = Path(folder).resolve()
        source = read_source(folder / "catalogue.toml")
        findings: list[Finding] = list(_unapproved(source))
        spoken = _read_spoken(folder, findings)
        prompts = _expand(source, folder, spoken, findings)
        seals = _read_seals(folder / "seal.toml", findings)
        catalogue = cls(folder, prompts, seals, findings)
        catalogue._bar(source)
        for prompt in prompts.values():
            catalogue._verify(prompt)
        catalogue._look_for_strays()
        for id, seal in seals.items():
            if id in prompts:
                prompts[id] = msgspec.structs.replace(prompts[id], seconds=seal.seconds)
        return catalogue

    def __getitem__(self, id: str) -> Prompt:
        return self._prompts[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._prompts)

    def __len__(self) -> int:
        return len(self._prompts)

    def is_current(self, id: str) -> bool:
        """Whether the audio is there, whole, and made from what the catalogue says now."""
        return id in self._seen

    @property
    def lacking(self) -> frozenset[str]:
        """What is not to be played, as far as is known."""
        return frozenset(id for id in self._prompts if id not in self._seen or id in self._barred)

    def look_again(self) -> None:
        """Verifies what was touched since it was read; what does not hold any more is said on the log."""
        for id in self._prompts.keys() - self.lacking:
            try:
                self.media(id)
            except PromptAltered as error:
                log.error("going on without %s: %s", id, error)

    def audio(self, id: str) -> Path:
        """The file, raw 8 kHz A-law."""
        return self._prompts[id].file

    def media(self, id: str) -> str:
        """The ARI media URI. Raises PromptAltered if it is not to be played: see `lacking`.

        A file that was changed since it was verified is verified anew, so that one that was put back plays again.
        """
        prompt = self._prompts[id]
        if id in self._barred:
            raise PromptAltered(str(self._barred[id]))
        if id not in self._seen or self._seen[id] != _touched(prompt.file):
            before = len(self.findings)
            self._seen.pop(id, None)
            self._verify(prompt)
            if len(self.findings) > before:
                found = self.findings[before]
                del self.findings[before:]
                raise PromptAltered(str(found))
        return f"sound:{prompt.file.with_suffix('')}"

    def is_it(self, title: Title, surname: str) -> str | None:
        """「请问是王律师吗？」; None for a surname that is not among the rendered ones. SOP-1."""
        return self._if_there(f"is-it-{title}-{in_id(surname)}")

    def position(self, place: int) -> str:
        """「您现在排在第二位。」; `place` 1 is next."""
        return self._if_there(f"position-{max(place, 1)}") or "position-many"

    def wait(self, minutes: float) -> str:
        """「预计还需等待两分钟。」, rounded up to whole minutes."""
        return self._if_there(f"wait-{max(math.ceil(minutes), 1)}") or "wait-many"

    def agent_opening(self, number: str) -> str | None:
        """「您好，法辅在线工号六零一，」; None for an agent number that is not rendered."""
        return self._if_there(f"opening-agent-{number}")

    def date(self, day: dt.date) -> tuple[str, ...]:
        """「十一月」「二十二日，」."""
        return f"month-{day.month}", f"day-{day.day}"

    def time(self, hour: int, minute: int) -> tuple[str, ...]:
        """「上午九点」「三十分。」."""
        return f"hour-{hour}", f"minute-{minute}"

    def court(self, name: str) -> str:
        """「开庭法院是……」; of a court that is not rendered the summons tells."""
        return self._if_there(f"court-{in_id(name)}") or "court-unnamed"

    def whisper(
        self,
        role: Literal["lawyer", "party", "unknown"],
        verified: bool,
        need: Literal["milestone", "material", "time", "pressing", "none"],
    ) -> str:
        """What the agent hears before being joined: 「当事人，已核身，查询节点。」"""
        return f"whisper-{role}-{'verified' if verified else 'unverified'}-{need}"

    def _if_there(self, id: str) -> str | None:
        return id if id in self._prompts else None

    def _bar(self, source: Written) -> None:
        """Bars what the findings so far, about wording and seals, forbid: of a family every member."""
        members = {
            wording.id: [id for id, _ in wording.expand()] if isinstance(wording, Family) else [wording.id]
            for wording in (*source.sentence, *source.family)
        }
        for finding in self.findings:
            self._barred.update(dict.fromkeys(members.get(finding.id, [finding.id]), finding))

    def _verify(self, prompt: Prompt) -> None:
        seal, file = self.seals.get(prompt.id), prompt.file

        def found(part: Literal["wording", "audio", "seal"], problem: str, remedy: str) -> None:
            self.findings.append(Finding(prompt.id, part, problem, remedy))

        touched = _touched(file)
        try:
            audio = file.read_bytes()
        except OSError:
            found("audio", f"there is no file {file.name}.", RESTORE if seal else RENDER)
            return
        if seal is None:
            found("seal", "it is not in seal.toml.", RENDER)
        elif seal.text != sha256(prompt.text.encode()):
            found("wording", "the audio speaks another wording.", RENDER)
        elif seal.key != prompt.key or seal.made_from != prompt.source:
            found("seal", "voice, speed, reading or recording changed since it was rendered.", RENDER)
        elif seal.audio != sha256(audio) or abs(seal.seconds * BYTES_PER_SECOND - len(audio)) > 4:
            found("audio", f"{file.name} is not what was sealed.", RESTORE)
        else:
            self._seen[prompt.id] = touched

    def _look_for_strays(self) -> None:
        for id in self.seals.keys() - self._prompts.keys():
            self.findings.append(Finding(id, "seal", "seal.toml has it, catalogue.toml does not.", RENDER))
        files = {prompt.file for prompt in self._prompts.values()}
        folder = self.folder / "audio"
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            if file not in files:
                problem = f"{file.name} belongs to no prompt."
                self.findings.append(Finding(file.stem, "audio", problem, "Remove the file."))


def seal_text(seals: Mapping[str, Seal]) -> str:
    """seal.toml, sorted by id."""
    return SEAL_HEAD + "".join(seals[id].line(id) for id in sorted(seals))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def approval_of(wording: Sentence) -> str:
    """What a role writes when it approves: of a sentence the hash of its text, of a family that of all it says."""
    if isinstance(wording, Family):
        return sha256("".join(f"{id} {text}\n" for id, text in wording.expand()).encode())
    return sha256(wording.text.encode())


def in_id(name: str) -> str:
    """A Chinese name in an id: its code points. 王 → ``738b``, 欧阳 → ``6b27-9633``."""
    return "-".join(f"{ord(character):x}" for character in name)


_DIGITS = "零一二三四五六七八九"


def ordinal(number: int) -> str:
    """1 to 99: 12 → 十二, 20 → 二十, 2 → 二."""
    tens, ones = divmod(number, 10)
    return ("" if tens == 0 else "十" if tens == 1 else f"{_DIGITS[tens]}十") + (_DIGITS[ones] if ones else "")


def quantity(number: int) -> str:
    """As before a measure word: 2 → 两, but 12 → 十二."""
    return "两" if number == 2 else ordinal(number)


def digits(number: int) -> str:
    """Digit by digit: 601 → 六零一."""
    return "".join(_DIGITS[int(digit)] for digit in str(number))


def hour(number: int) -> str:
    """0 to 23: 0 → 凌晨零点, 9 → 上午九点, 14 → 下午两点."""
    part = next(part for until, part in PARTS_OF_DAY if number < until)
    twelve = number if number <= 12 else number - 12
    return f"{part}{'零' if twelve == 0 else quantity(twelve)}点"


def minute(number: int) -> str:
    """0 to 59, after an hour: 0 → 整, 5 → 零五分, 20 → 二十分."""
    return ("零" if number < 10 else "") + ordinal(number) + "分" if number else "整"


PARTS_OF_DAY = ((6, "凌晨"), (8, "早上"), (12, "上午"), (13, "中午"), (18, "下午"), (24, "晚上"))

SPELLINGS: dict[str, Callable[[int], str]] = {
    "ordinal": ordinal, "quantity": quantity, "digits": digits, "hour": hour, "minute": minute,
}  # fmt: skip


def read_source(path: Path) -> Written:
    """catalogue.toml as written, unverified. Raises PromptAltered if it cannot be read."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Written)
    except OSError as error:
        raise PromptAltered(f"There is no catalogue of prompts at {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise PromptAltered(f"{path} cannot be read: {error}. Restore it from version control.") from error


def _unapproved(source: Written) -> Iterator[Finding]:
    for wording in (*source.sentence, *source.family):
        expected = approval_of(wording)
        missing = [role for role in ROLES if wording.approved.get(role) != expected]
        if missing:
            yield Finding(
                wording.id,
                "wording",
                f"it is not what {', '.join(missing)} approved (SCR-1).",
                "Restore it from version control; or, once they have approved the new wording, write"
                f' approved.{missing[0]} = "{expected}" in catalogue.toml.',
            )
        for role in wording.approved.keys() - set(ROLES):
            yield Finding(wording.id, "catalogue", f"no role is called {role}.", f"Use {', '.join(ROLES)}.")


def _read_spoken(folder: Path, findings: list[Finding]) -> dict[str, str]:
    """Hash of the wording that each human recording speaks, from overrides/spoken.toml."""
    path = folder / "overrides" / "spoken.toml"
    if not path.exists():
        return {}
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), dict[str, str])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        findings.append(Finding("spoken.toml", "recording", f"{error}.", 'Write lines like: opening = "<hash>"'))
        return {}


def _expand(source: Written, folder: Path, spoken: Mapping[str, str], findings: list[Finding]) -> dict[str, Prompt]:
    prompts: dict[str, Prompt] = {}
    recordings = {path.stem: path for path in sorted((folder / "overrides").glob("*.wav"))}

    def add(prompt: Prompt) -> None:
        if prompt.id in prompts:
            findings.append(Finding(prompt.id, "catalogue", "it is there twice.", "Remove one."))
        prompts[prompt.id] = prompt

    for wording in (*source.sentence, *source.family):
        members = wording.expand() if isinstance(wording, Family) else [(wording.id, wording.text)]
        voice, speed = wording.voice or source.speech.voice, wording.speed or source.speech.speed
        for id, text in members:
            file = folder / "audio" / f"{id}.{EXTENSION}"
            if id in recordings:
                recording = recordings.pop(id)
                expected = sha256(text.encode())
                if spoken.get(id) != expected:
                    findings.append(
                        Finding(
                            id,
                            "recording",
                            f"overrides/{recording.name} does not speak the approved wording.",
                            f'Record it anew and write {id} = "{expected}" in overrides/spoken.toml.',
                        )
                    )
                key = _key("recording", source.speech.pipeline, sha256(recording.read_bytes()))
                add(Prompt(id, wording.section, text, "recording", 1.0, "recording", key, file))
            else:
                readings = tuple((phrase, as_) for phrase, as_ in source.readings.items() if phrase in text)
                key = _key(
                    *("voice", source.speech.pipeline, source.speech.model, text),
                    *(voice, source.speech.voices.get(voice), speed, readings),
                )
                add(Prompt(id, wording.section, text, voice, speed, "voice", key, file, 0.0, readings))
    for piece in source.composition:
        file = folder / "audio" / f"{piece.id}.{EXTENSION}"
        key = _key("composition", piece.version)
        add(Prompt(piece.id, "music", "", "", 1.0, "composition", key, file))
    for id, path in recordings.items():
        findings.append(Finding(id, "recording", f"overrides/{path.name} speaks no prompt.", "Remove the file."))
    return prompts


def _key(*parts: Any) -> str:
    return sha256(json.dumps(parts, ensure_ascii=False).encode())[:32]


def _read_seals(path: Path, findings: list[Finding]) -> dict[str, Seal]:
    if not path.exists():
        return {}
    seals: dict[str, Seal] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    for line in lines[SEAL_HEAD.count("\n") :]:
        match = _LINE.fullmatch(line)
        id = match[1] if match else line.partition(" ")[0]
        if match is None or id in seals:
            findings.append(Finding(id, "seal", "its line in seal.toml was altered.", RESTORE))
            continue
        _, text, audio, seconds, made_from, key = match.groups()
        seals[id] = Seal(text, audio, float(seconds), made_from, key)  # type: ignore[arg-type]
    if "".join(lines) != seal_text(seals) and not any(finding.part == "seal" for finding in findings):
        findings.append(Finding("seal.toml", "seal", "its head or its order was altered.", RESTORE))
    return seals


def _touched(file: Path) -> tuple[int, int] | None:
    """Differs whenever the file was written to; None if it is not there."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


class Row(msgspec.Struct, frozen=True):
    """A line of ``sanling prompts list``."""

    id: str
    section: str
    text: str
    seconds: float
    source: str
    state: str
    """``sealed``, or what is wrong."""


def rows(folder: Path) -> list[Row]:
    """Every prompt with its state, in the catalogue's order."""
    catalogue = Catalogue.inspect(folder)
    wrong: dict[str, str] = {}
    for finding in catalogue.findings:
        wrong.setdefault(finding.id, f"{finding.part}: {finding.problem}")
    listed = [Row(p.id, p.section, p.text, p.seconds, p.source, wrong.get(p.id, "sealed")) for p in catalogue.values()]
    strays = [Row(id, "", "", 0.0, "", state) for id, state in wrong.items() if id not in catalogue]
    return listed + strays


def verify(folder: Path) -> list[Finding]:
    """All that does not hold; empty if every wording is approved and every file is what was sealed."""
    return Catalogue.inspect(folder).findings
