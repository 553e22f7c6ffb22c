"""A trunk that must also pass digest authentication."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ari_app.instance import Instance
from ari_app.settings import load
from ari_app.testcall.hearing import Ear, PromptSounds
from ari_app.testcall.phone import Phones, Refused
from tests.calls.real import own_network

pytestmark = [pytest.mark.asterisk, pytest.mark.timeout(120)]


async def test_a_trunk_with_a_password_lets_in_nobody_else(tmp_path):
    net = own_network(6)
    settings = load(
        Path(os.devnull), {}, instance="digest", address=f"{net}.1", var_dir=str(tmp_path),
        trunk={"addresses": [f"{net}.0/24"], "username": "carrier"},
    )  # fmt: skip
    instance = Instance(settings)
    instance.prepare([])
    await instance.start_asterisk()
    try:
        async with Phones(f"{net}.2", ear=Ear(PromptSounds(settings.prompts / "audio"))) as phones:
            for account in (("", ""), ("carrier", "not the password")):
                call = await phones.caller("15400001234", account=account).dials("12368", at=f"{net}.1:5060")
                with pytest.raises(Refused) as refused:
                    await call.answered()
                assert refused.value.code == 401
            trusted = ("carrier", instance.trunk_password)
            call = await phones.caller("15400001234", account=trusted).dials("12368", at=f"{net}.1:5060")
            await call.answered()  # by the fallback: no controller runs here
            call.hang_up()
            await call.ended()
    finally:
        await instance.stop()
