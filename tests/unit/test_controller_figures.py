"""What the controller itself tells at each scrape, before any call: every gauge reads something."""

from __future__ import annotations

import asyncio
import math
import socket
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import insert

from ari_app.__main__ import hotline, keep_recordings
from ari_app.prompts import Catalogue
from ari_app.settings import Settings, load
from ari_app.store import models
from tests.unit.core_database import in_file

ADDRESS = "127.0.59.7"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        port = probe.getsockname()[1]
    ready = load(environment={}, instance="figures", var_dir=str(tmp_path), address=ADDRESS, metrics_port=port)
    for folder in (ready.spool_dir / "monitor", ready.local_store, ready.second_store):
        folder.mkdir(parents=True)
    for store in (ready.local_store, ready.second_store):
        (store / ".sanling-store").touch()
    ready.secrets_file.write_text('[ari]\nuser = "sanling"\npassword = "p"\n[trunk]\npassword = "q"\n')
    engine = in_file(ready.run_dir / "sanling.db")
    with engine.begin() as connection:
        connection.execute(insert(models.Agent).values(number="601", name="", sip_ha1="", pin_hash="", state="idle"))
    engine.dispose()
    return ready


def scrape(settings: Settings) -> dict[tuple[str, str], float]:
    """Each gauge's values, by name and the values of its labels."""
    with urllib.request.urlopen(f"http://{ADDRESS}:{settings.metrics_port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, " ".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        if family.type == "gauge"
        for sample in family.samples
    }


@pytest.mark.real_time
async def test_each_gauge_reads_something_before_the_first_call(settings):
    began = time.time()
    async with hotline(settings, Catalogue.load_whatever_holds(settings.prompts)) as (house, vault, pending):
        await house.desk.open()
        sweeping = asyncio.create_task(keep_recordings(house, vault, pending))
        async with asyncio.timeout(20):
            while ("sanling_disk_free_bytes", "second") not in await asyncio.to_thread(scrape, settings):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await house.ledger.flush()
        shown = await asyncio.to_thread(scrape, settings)
        sweeping.cancel()
        await asyncio.wait([sweeping])
        pending.count, pending.oldest_at = 1, time.monotonic() - 40
        later = await asyncio.to_thread(scrape, settings)
    assert [name for name, value in shown.items() if math.isnan(value)] == []
    assert shown["sanling_agents", "signed_out"] + shown["sanling_agents", "idle"] == 1
    assert shown["sanling_agent_state", "601 idle"] == shown["sanling_agents", "idle"]
    assert shown["sanling_open", ""] in (0, 1)
    assert shown["sanling_journal_waiting_rows", ""] == shown["sanling_journal_refused_rows", ""] == 0
    assert shown["sanling_disk_minimum_bytes", ""] == settings.recordings.minimum_free_mb * 1e6
    assert shown["sanling_disk_free_bytes", "spool"] > 0
    assert shown["sanling_recordings_oldest_pending_seconds", ""] == 0
    assert 40 <= later["sanling_recordings_oldest_pending_seconds", ""] < 45
    assert began - 1 <= shown["sanling_start_time_seconds", ""] <= time.time()
