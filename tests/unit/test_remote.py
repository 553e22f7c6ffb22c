"""The command line over the API: what it says when it may not, or cannot know as whom."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from ari_app import live
from ari_app.api.remote import Refused, connect
from ari_app.settings import PROJECT, load
from tests.unit import test_cli
from tests.unit.test_cli import sanling

instance = test_cli.instance


def answers(to: Callable[[httpx.Request], httpx.Response]) -> httpx.MockTransport:
    return httpx.MockTransport(to)


def nobody(_: httpx.Request) -> httpx.Response:
    return httpx.Response(401, json={"detail": "There is no such token.", "errors": []})


def test_an_own_token_that_is_not_known_says_which_file_to_remove(instance):
    file = instance / "cli.token"
    file.write_text("sanling_old\n", encoding="ascii")
    with pytest.raises(Refused) as told:
        connect(load(), answers(nobody)).get("/agents")
    assert str(told.value) == f"The token in {file} is not known here: remove that file, a new one is made."


def test_a_file_in_the_project_is_named_from_there(instance, monkeypatch):
    monkeypatch.setattr("ari_app.api.remote.PROJECT", instance.parent)
    (instance / "cli.token").write_text("sanling_old\n", encoding="ascii")
    with pytest.raises(Refused, match=r"The token in cli/cli\.token is not known here"):
        connect(load(), answers(nobody)).get("/agents")
    assert instance.parent != PROJECT


def test_a_token_of_the_environment_that_is_not_known_is_said_so(instance, monkeypatch):
    monkeypatch.setenv("SANLING_API_TOKEN", "sanling_old")
    with pytest.raises(Refused, match=r"The token in SANLING_API_TOKEN is not known here.*sanling token new"):
        connect(load(), answers(nobody)).get("/agents")
    assert not (instance / "cli.token").exists()


@pytest.mark.parametrize(
    "order", [("listen", "601"), ("take-over", "601"), ("pull", "cli-1.1"), ("agents", "move", "601", "lawyer")]
)
def test_who_leads_must_be_said_unless_the_token_says_it(instance, monkeypatch, order):
    asked: list[str] = []

    def api(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.path}")
        return httpx.Response(200, json={"agent": whose})

    monkeypatch.setattr(live, "connect", lambda settings: connect(settings, answers(api)))
    whose = None
    assert str(sanling(*order).exception) == "Say as which leader: --as 612"
    assert asked == ["GET /v1/me"], "nothing was tried"
    assert sanling(*order, "--as", "612").exit_code == 0
    assert len(asked) == 2
    whose = "612"
    assert sanling(*order).exit_code == 0


def test_the_queue_tells_the_line_and_nothing_of_the_identity_of_a_callback(instance, monkeypatch):
    row = {
        "position": 1, "line_name": "律师", "call": "cli-1.1", "kind": "callback", "caller": None, "since": 0.0,
        "waited_s": 1.0, "expected_wait_s": 2.0, "need": None, "verified": False, "offered_to": None,
    }  # fmt: skip
    monkeypatch.setattr(
        live, "connect", lambda settings: connect(settings, answers(lambda _: httpx.Response(200, json=[row])))
    )
    monkeypatch.setattr(live.out, "_width", 160)
    shown = sanling("queue").output
    for said in ("line", "律师", "callback"):
        assert said in shown
    assert "unverified" not in shown
