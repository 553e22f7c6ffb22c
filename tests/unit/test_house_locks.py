from __future__ import annotations

import re
import tomllib

import pytest

from ari_app.settings import PROJECT


def wanted(*extras: str) -> set[str]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in named}


@pytest.mark.parametrize(
    ("lock", "extras"),
    [
        ("requirements.lock", ()),
        ("requirements-dev.lock", ("dev", "phones")),
        ("requirements-render.lock", ("render",)),
    ],
)
def test_a_lock_holds_what_the_project_names_by_hash_and_no_host(lock: str, extras: tuple[str, ...]) -> None:
    text = (PROJECT / lock).read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    pinned = {entry.partition("==")[0] for entry in entries}
    assert wanted(*extras) <= pinned, "run `make lock`"
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
