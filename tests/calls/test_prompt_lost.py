"""A prompt whose audio was lost while the hotline runs: everything else is said, and everything is done."""

from __future__ import annotations

import pytest

from ari_app.errors import PromptAltered
from ari_app.prompts import Catalogue
from tests.calls.house import FakeHouse


@pytest.fixture
def hotline() -> FakeHouse:
    return FakeHouse()


async def test_an_agent_signs_in_without_the_words_that_are_lost(
    hotline: FakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Catalogue.media

    def media(catalogue: Catalogue, prompt: str) -> str:
        if prompt in ("agent-enter-pin", "agent-signed-in"):
            raise PromptAltered(f"Prompt '{prompt}', audio: there is no file.")
        return real(catalogue, prompt)

    monkeypatch.setattr(Catalogue, "media", media)
    phone = await hotline.phone("601")
    signing = await phone.dials("*11")
    await signing.answered()
    await signing.keys(f"{hotline.access['601'].pin}#")
    await signing.ended()
    await hotline.duty_becomes("601", "idle")
