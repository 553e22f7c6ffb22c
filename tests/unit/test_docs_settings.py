"""What stands beside the code is true: hotline.example.toml names every setting, architecture.md the import rules."""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec

from ari_app.settings import PROJECT, Settings, load

EXAMPLE = PROJECT / "hotline.example.toml"


def leaves(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{above}{name}.")
        else:
            found[above + name] = value
    return found


def test_the_example_names_every_setting_with_its_default() -> None:
    defaults = msgspec.json.decode(msgspec.json.encode(Settings()))
    assert leaves(tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))) == leaves(defaults)


def test_the_example_loads_as_the_defaults() -> None:
    assert load(EXAMPLE, {}) == Settings()


def test_the_import_rules_are_told_as_they_are_kept() -> None:
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [kept] = [one["layers"] for one in contracts["contracts"] if one["type"] == "layers"]
    told = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert "```\n" + "\n".join(kept) + "\n```" in told
