"""The catalogue as committed: complete, to the letter, and loud enough."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from ari_app import music
from ari_app.prompts import ROLES, SECTIONS, Catalogue, digits, in_id, ordinal, quantity
from ari_app.settings import PROJECT

FOLDER = PROJECT / "dialplan" / "prompts"

APPROVED_BY_THE_SOURCE = {
    "disclaimer": "上述内容仅供参考，最终解释权归法院。",  # SOP-5
    "closing": "请问还有其他可以帮您？",  # SOP-6
    "opening-agent-601": "您好，法辅在线工号六零一，",  # SOP-1
    "is-it-lawyer-738b": "请问是王律师吗？",
    "is-it-mr-738b": "请问是王先生吗？",
    "is-it-ms-738b": "请问是王女士吗？",
}

FIXED = {
    "recording-notice",
    "opening",
    "ask-role",
    "interrupted",
    "ask-own-number",
    "ask-mobile",
    "ask-case",
    "ask-name",
    "ask-firm",
    "ask-licence",
    "entry-invalid",
    "entry-missing",
    "entry-cleared",
    "identity-proven",
    "identity-retry",
    "cannot-verify",
    "check-unavailable",
    "ask-need",
    "transferring",
    "position-many",
    "wait-many",
    "back-in-queue",
    "ceiling-near",
    "agent-enter-pin",
    "agent-pin-wrong",
    "agent-signed-in",
    "agent-signed-out",
    "agent-paused",
    "agent-resumed",
    "agent-ready",
    "agent-not-signed-in",
    "agent-busy",
    "fallback-sorry",
    "fallback-leave-number",
    "fallback-noted",
    "fallback-goodbye",
    "fallback-agent",
    "disclaimer",
    "closing",
    "hold-music",
}


SURNAME_READINGS = {
    **{"曾": "zeng1", "任": "ren2", "覃": "qin2", "翟": "zhai2", "单": "shan4"},
    **{"解": "xie4", "仇": "qiu2", "华": "hua4", "查": "zha1"},
}

SPELT = [
    *((1, "一", "一"), (2, "二", "两"), (10, "十", "十"), (12, "十二", "十二")),
    *((20, "二十", "二十"), (52, "五十二", "五十二")),
]


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.load(FOLDER)


def test_every_sentence_the_call_needs_is_there(catalogue: Catalogue) -> None:
    assert set(catalogue) >= FIXED
    assert {f"position-{n}" for n in range(1, 51)} <= set(catalogue)
    assert {f"wait-{n}" for n in range(1, 61)} <= set(catalogue)
    assert {f"opening-agent-{n}" for n in range(601, 661)} <= set(catalogue)
    for role in ("lawyer", "party", "unknown"):
        for verified in (True, False):
            for need in ("milestone", "material", "time", "pressing", "none"):
                assert catalogue.whisper(role, verified, need) in catalogue
    assert {prompt.section for prompt in catalogue.values()} == {*SECTIONS, "music"}


def test_wording_is_that_of_the_source(catalogue: Catalogue) -> None:
    assert {id: catalogue[id].text for id in APPROVED_BY_THE_SOURCE} == APPROVED_BY_THE_SOURCE


@pytest.mark.parametrize(("number", "as_ordinal", "as_quantity"), SPELT)
def test_numbers_are_spelt_as_spoken(number: int, as_ordinal: str, as_quantity: str) -> None:
    assert (ordinal(number), quantity(number)) == (as_ordinal, as_quantity)


def test_agent_numbers_are_spelt_digit_by_digit() -> None:
    assert (digits(601), digits(660)) == ("六零一", "六六零")


def test_whole_clauses_are_found_by_what_they_say(catalogue: Catalogue) -> None:
    def says(id: str | None) -> str:
        assert id is not None
        return catalogue[id].text

    assert says(catalogue.position(1)) == "您现在排在第一位。"
    assert says(catalogue.position(2)) == "您现在排在第二位。"
    assert says(catalogue.position(12)) == "您现在排在第十二位。"
    assert says(catalogue.position(51)) == "您前面还有五十多位来电者。"
    assert catalogue.position(0) == "position-1"
    assert says(catalogue.wait(2)) == "预计还需等待两分钟。"
    assert says(catalogue.wait(11.2)) == "预计还需等待十二分钟。"
    assert says(catalogue.wait(60.5)) == "预计等待时间超过一小时。"
    assert catalogue.wait(0) == "wait-1"
    assert says(catalogue.agent_opening("607")) == "您好，法辅在线工号六零七，"
    assert catalogue.agent_opening("999") is None
    assert says(catalogue.is_it("ms", "欧阳")) == "请问是欧阳女士吗？"
    assert catalogue.is_it("mr", "夔") is None
    assert says(catalogue.whisper("party", True, "milestone")) == "当事人，已核身，查询节点。"
    assert in_id("欧阳") == "6b27-9633"


def test_surnames_read_otherwise_than_as_words_have_a_reading(catalogue: Catalogue) -> None:
    for surname, syllable in SURNAME_READINGS.items():
        for title in ("lawyer", "mr", "ms"):
            id = catalogue.is_it(title, surname)
            assert id is not None
            assert dict(catalogue[id].readings)[f"是{surname}"] == f"shi4 {syllable}"


def test_every_approval_is_there(catalogue: Catalogue) -> None:
    assert len(ROLES) == 3
    assert not catalogue.findings


def decoded(file: Path) -> npt.NDArray[np.float64]:
    """G.711 A-law to samples in ±1."""
    code = np.frombuffer(file.read_bytes(), dtype=np.uint8) ^ 0x55
    segment, mantissa = (code >> 4).astype(int) & 7, code.astype(int) & 0x0F
    magnitude = np.where(segment, (mantissa * 2 + 33) << np.maximum(segment - 1, 0), mantissa * 2 + 1) * 8
    return np.where(code & 0x80, magnitude, -magnitude) / 32768


def test_every_clip_is_at_the_same_level_and_clips_nowhere(catalogue: Catalogue) -> None:
    wrong = []
    for prompt in catalogue.values():
        samples = decoded(prompt.file)
        power = (samples[: samples.size // 400 * 400].reshape(-1, 400) ** 2).mean(axis=1)
        speaking_db = 10 * np.log10(power[power > power.max() / 100].mean())
        peak_db = 20 * np.log10(np.abs(samples).max())
        edge_db = 10 * np.log10(max((samples[:240] ** 2).mean(), (samples[-400:] ** 2).mean()) + 1e-12)
        if not (-28 < speaking_db < -17 and peak_db < -2.5) or (prompt.section != "music" and edge_db > -45):
            wrong.append((prompt.id, round(speaking_db, 1), round(peak_db, 1), round(edge_db, 1)))
    assert wrong == []


def test_clips_are_as_long_as_their_wording(catalogue: Catalogue) -> None:
    pace = {p.id: (p.seconds - 0.18) / len(p.text) for p in catalogue.values() if p.section != "music"}
    slowest = {p.id: 0.45 if len(p.text) <= 2 else 0.4 for p in catalogue.values()}  # a word by itself is drawn out
    assert {id: round(s, 2) for id, s in pace.items() if not 0.1 < s < slowest[id]} == {}


def test_audio_stays_small_enough_to_commit(catalogue: Catalogue) -> None:
    assert sum(prompt.file.stat().st_size for prompt in catalogue.values()) < 20_000_000


@pytest.fixture(scope="module")
def samples(catalogue: Catalogue) -> npt.NDArray[np.float64]:
    return decoded(catalogue.audio("hold-music"))


class TestHoldMusic:
    def test_it_lasts_a_minute(self, samples: npt.NDArray[np.float64]) -> None:
        assert samples.size == 60 * 8000

    def test_no_part_repeats_another(self, samples: npt.NDArray[np.float64]) -> None:
        spectrum = np.fft.rfft(samples, 2 * samples.size)
        likeness = np.fft.irfft(np.abs(spectrum) ** 2)[: samples.size]
        likeness = likeness / likeness[0]
        assert np.abs(likeness[4000:]).max() < 0.2

    def test_its_end_runs_into_its_beginning(self, samples: npt.NDArray[np.float64]) -> None:
        steps = np.abs(np.diff(np.concatenate([samples[-80:], samples[:80]])))
        assert steps.max() < np.abs(np.diff(samples)).max()

    def test_it_is_composed_the_same_every_time(self) -> None:
        assert np.array_equal(music.compose(8000), music.compose(8000))
