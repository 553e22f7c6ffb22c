"""What a newcomer sees first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ari_app.settings import PROJECT


@pytest.mark.asterisk
@pytest.mark.timeout(180)
def test_the_demo_s_call_is_heard_and_every_figure_is_right(tmp_path: Path) -> None:
    written = tmp_path / "demo.json"
    ran = subprocess.run(
        [Path(sys.executable).with_name("sanling"), "demo", "--json", written],
        cwd=PROJECT, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads(written.read_text(encoding="utf-8"))
    assert result["ok"] is True
    assert len(result["checks"]) >= 15
    assert "hold-music" in [heard["prompt"] for heard in result["heard"] if heard["side"] == "caller"]
