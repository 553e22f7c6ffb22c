"""The API over a whole hotline (fake Asterisk, virtual time): who may do what, and what comes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from ari_app import orders, staff
from ari_app.api import access
from ari_app.api.access import MATRIX, Act, Holder, Reach, Role
from ari_app.api.app import create
from ari_app.api.floor import Floor
from ari_app.api.happenings import FellBehind, Happenings
from ari_app.desk import WhoWaits
from ari_app.errors import SanlingError, StoreUnavailable
from ari_app.store import models
from tests.calls.house import PARTY, FakeHouse


class Api:
    """The API of a hotline, asked with a token of each role."""

    def __init__(self, house: FakeHouse, floor: Floor, tokens: dict[str, str]) -> None:
        self.house, self.floor, self.tokens = house, floor, tokens
        self.app = create(floor)
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False), base_url="http://api"
        )

    async def ask(self, role: str, method: str, path: str, **how: Any) -> httpx.Response:
        return await self._client.request(
            method, f"/v1{path}", headers={"Authorization": f"Bearer {self.tokens[role]}"}, **how
        )

    async def get(self, role: str, path: str, **how: Any) -> Any:
        answer = await self.ask(role, "GET", path, **how)
        assert answer.status_code == 200, answer.text
        return answer.json()


@asynccontextmanager
async def api_of(house: FakeHouse) -> AsyncIterator[Api]:
    async with house:
        happenings = Happenings(house.house.clock())
        house.house.ledger.watch(happenings.written)
        house.house.desk.watch(
            lambda news: happenings.desk_changed(house.house.clock(), house.house.desk.queue_length, news)
        )
        floor = Floor(
            house.house, lambda: list(house.reception.calls.values()), house.house.ledger.look_up,
            house.reception.leading, house.reception.case_calls, happenings, asyncio.get_running_loop(),
        )  # fmt: skip

        def make(session: Any) -> dict[str, str]:
            return {
                role.value: access.new_token(session, role, "601" if role is Role.AGENT else None, "", 0.0)[0]
                for role in Role
            }

        yield Api(house, floor, await house.ask(make))


@pytest.fixture
def api() -> Any:
    return Entered()


class Entered:
    async def __aenter__(self) -> Api:
        self._inner = api_of(FakeHouse())
        return await self._inner.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        await self._inner.__aexit__(*error)


async def waits(house: FakeHouse) -> Any:
    """A proven party who waits."""
    caller = await house.rings(from_=PARTY)
    await caller.answered()
    await caller.keys("2112345#99#1")
    await asyncio.sleep(8)
    return caller


# ---------------------------------------------------------------- who may


async def test_without_a_token_nothing_is_told(api):
    for headers in ({}, {"Authorization": "Bearer sanling_wrong"}, {"Authorization": "Basic YTpi"}):
        answer = await api._client.get("/v1/agents", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "sanling token new" in answer.json()["detail"]


async def test_a_revoked_token_opens_nothing_a_moment_later(api, monkeypatch):
    monkeypatch.setattr("ari_app.api.app.KNOWN_S", 0.0)
    id = (await api.get("leader", "/me"))["id"]
    await api.house.ask(lambda session: access.revoke(session, id, 1.0))
    assert (await api.ask("leader", "GET", "/me")).status_code == 401


async def test_only_hashes_of_tokens_are_stored(api):
    rows = await api.house.ask(lambda session: session.scalars(select(models.ApiToken)).all())
    for row in rows:
        for token in api.tokens.values():
            assert token not in str(vars(row))
    assert {row.hash for row in rows} == {access.digest(token) for token in api.tokens.values()}


ROUTES = {
    Act.SEE_ITSELF: ("GET", "/me"),
    Act.SEE_BOARD: ("GET", "/board"),
    Act.SEE_AGENTS: ("GET", "/agents"),
    Act.SEE_QUEUE: ("GET", "/queue"),
    Act.SEE_CALLS: ("GET", "/calls"),
    Act.SEE_CALLBACKS: ("GET", "/callbacks"),
    Act.SEE_ORDERS: ("GET", "/orders"),
    Act.SEE_AUDIT: ("GET", "/audit"),
    Act.PAUSE: ("POST", "/agents/602/pause"),
    Act.RESUME: ("POST", "/agents/602/resume"),
    Act.END_WRAP_UP: ("POST", "/agents/602/end-wrap-up"),
    Act.SIGN_OUT: ("POST", "/agents/602/sign-out"),
    Act.CLOSE_ORDER: ("POST", "/orders/none/close"),
    Act.SEE_LISTENING: ("GET", "/listening"),
    Act.CALL_OUT: ("POST", "/agents/602/call"),
    Act.LISTEN: ("POST", "/agents/602/listen"),
    Act.WHISPER: ("POST", "/agents/602/whisper"),
    Act.JOIN: ("POST", "/agents/602/join"),
    Act.TAKE_OVER: ("POST", "/agents/602/take-over"),
    Act.PULL: ("POST", "/queue/demo-1.1/pull"),
    Act.MOVE: ("POST", "/agents/602/move"),
    Act.ADD_CALLBACK: ("POST", "/callbacks"),
    Act.CANCEL_CALLBACK: ("DELETE", "/callbacks/none"),
    Act.RELOAD: ("POST", "/reload"),
    Act.DRAIN: ("POST", "/drain"),
}


async def test_the_matrix_is_what_the_api_does(api):
    assert set(ROUTES) == set(Act) - {Act.SEE_EVENTS}
    for role in Role:
        for act, (method, path) in ROUTES.items():
            body = {
                Act.MOVE: {"line": "lawyer"},
                Act.ADD_CALLBACK: {"number": "12368"},
                Act.CALL_OUT: {"whom": "party"},
            }.get(act, {})
            answer = await api.ask(role.value, method, path, **({"json": body} if method == "POST" else {}))
            reach = MATRIX[act][list(Role).index(role)]
            if reach is Reach.NONE or (reach is Reach.OWN and "602" in path):  # which is not the token's agent
                assert answer.status_code == 403, (role, act)
                assert "may" in answer.json()["detail"]
            else:
                assert answer.status_code in (200, 204, 404, 409), (role, act, answer.text)


def test_every_act_is_in_the_matrix_and_in_openapi_and_nothing_else():
    app = create(None)  # type: ignore[arg-type]
    operations = {operation["operationId"] for path in app.openapi()["paths"].values() for operation in path.values()}
    assert set(MATRIX) == set(Act)
    assert operations - {"see_agent", "see_call"} == {act.value for act in Act}


def test_an_inspector_and_ops_never_reach_all_of_what_has_numbers():
    for act in (Act.SEE_BOARD, Act.SEE_QUEUE, Act.SEE_CALLS, Act.SEE_CALLBACKS, Act.SEE_AGENTS):
        for role in (Role.INSPECTOR, Role.OPS):
            assert Holder("x", role, None).reach(act) in (Reach.MASKED, Reach.NONE)
        assert Holder("x", Role.AGENT, "601").reach(act) in (Reach.OWN, Reach.NONE)


# ---------------------------------------------------------------- what is told


async def test_who_waits_and_who_talks_is_told_with_numbers_by_role(api):
    await waits(api.house)
    leader, inspector = await api.get("leader", "/queue"), await api.get("inspector", "/queue")
    assert [(one["position"], one["need"], one["verified"]) for one in leader] == [(1, "milestone", True)]
    assert (leader[0]["caller"], leader[0]["line_name"]) == (PARTY, "当事人")
    assert inspector[0]["caller"] == "*********01"
    for path in ("/board", "/calls", f"/calls/{leader[0]['call']}", "/queue", "/callbacks", "/agents", "/audit"):
        for role in ("inspector", "ops"):
            told = (await api.ask(role, "GET", path)).text
            assert PARTY not in told
            assert "张伟" not in told
            assert "何静" not in told
    board = await api.get("leader", "/board")
    assert board["calls"][0]["state"] == "WAITING"
    assert board["waiting"] == leader


async def test_who_waits_is_told_by_kind_and_callers_alone_are_counted(api):
    caller = await waits(api.house)
    desk, [call] = api.house.house.desk, api.house.reception.calls
    desk.join("demo-9.1", api.house.house.clock(), [], who=WhoWaits.CALLBACK)  # type: ignore[arg-type]
    desk.join(f"{call}~second", api.house.house.clock() + 1, [])  # type: ignore[arg-type]
    told = await api.get("leader", "/queue")
    assert [(one["kind"], one["call"], one["caller"]) for one in told] == [
        ("caller", call, PARTY), ("callback", "demo-9.1", None), ("second_line", f"{call}~second", PARTY),
    ]  # fmt: skip
    assert [data["length"] for kind, data in api_events(api) if kind == "queue"][-1] == 1
    await make_leader(api, "612")
    desk._holding = True
    await api.house.agent_signs_in("612")
    refused = await api.ask("leader", "POST", "/queue/demo-9.1/pull", json={"leader": "612"})
    assert (refused.status_code, "no caller" in refused.json()["detail"]) == (409, True)
    caller.hang_up()


async def test_an_agent_sees_own_things_only(api):
    phone = await api.house.agent_signs_in("601")
    other = await api.house.agent_signs_in("602")
    for one in (phone, other):
        await waits(api.house)
        await (await one.rings()).picks_up()
    await asyncio.sleep(5)
    assert [one["number"] for one in await api.get("agent", "/agents")] == ["601"]
    assert (await api.ask("agent", "GET", "/agents/602")).status_code == 404
    calls = await api.get("leader", "/calls")
    assert {one["agent"] for one in calls} == {"601", "602"}
    assert [one["agent"] for one in await api.get("agent", "/calls")] == ["601"]
    for one in calls:
        answer = await api.ask("agent", "GET", f"/calls/{one['id']}")
        assert answer.status_code == (200 if one["agent"] == "601" else 404)


async def test_todays_figures_are_counted_from_the_ledger(api):
    def enter(session: Any) -> None:
        now = api.house.house.clock()
        for n, (outcome, wait_s, talk_s, at) in enumerate(
            [("handled", 10.0, 60.0, now), ("handled", 20.0, 120.0, now), ("abandoned", 40.0, 0.0, now),
             ("abandoned", 2.0, 0.0, now), ("broken", 0.0, 0.0, now), ("handled", 1.0, 1.0, now - 2 * 86400)]
        ):  # fmt: skip
            session.add(models.Call(id=f"demo-1.{n}", caller_number=None, called_number="", at=at))
            session.flush()
            session.add(
                models.Ending(call_id=f"demo-1.{n}", at=at, outcome=outcome, hung_up_by="caller", agent=None,
                              answered_after_s=1.0, wait_s=wait_s, talk_s=talk_s, after_closing_s=None)
            )  # fmt: skip

    await api.house.ask(enter)
    today = (await api.get("ops", "/board"))["today"]
    assert (today["over"], today["handled"], today["abandoned"], today["failed"]) == (5, 2, 1, 1)
    assert today["service_level"] == pytest.approx(1 / 3)
    assert today["abandonment"] == pytest.approx(1 / 3)
    assert (today["mean_wait_s"], today["longest_wait_s"], today["mean_talk_s"]) == (15.0, 40.0, 90.0)


# ---------------------------------------------------------------- what is done


async def test_a_leader_pauses_and_resumes_and_signs_out_an_agent_and_each_is_in_the_audit(api):
    await api.house.agent_signs_in("602")
    for path, state in (("pause", "paused"), ("resume", "idle"), ("sign-out", "signed_out")):
        answer = await api.ask("leader", "POST", f"/agents/602/{path}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["state"] == state
        assert await api.house.duty("602") == state
        await asyncio.sleep(1)
    refused = await api.ask("leader", "POST", "/agents/602/pause")
    assert refused.status_code == 409
    assert "*11" in refused.json()["detail"]
    for role in ("agent", "inspector"):
        await asyncio.sleep(1)
        assert (await api.ask(role, "POST", "/agents/602/pause")).status_code == 403
    await asyncio.sleep(1)
    audit = await api.get("leader", "/audit")
    assert [(one["act"], one["role"], one["agent"], one["result"]) for one in reversed(audit)] == [
        ("pause", "leader", "602", "done"),
        ("resume", "leader", "602", "done"),
        ("sign_out", "leader", "602", "done"),
        ("pause", "leader", "602", "refused: agent-not-signed-in"),
        ("pause", "agent", "602", "refused: NotAllowed"),
        ("pause", "inspector", None, "refused: NotAllowed"),
    ]


async def test_a_pause_is_told_by_its_code_and_name(api):
    await api.house.agent_signs_in("602")
    paused = (await api.ask("leader", "POST", "/agents/602/pause", json={"code": "2"})).json()
    assert (paused["pause_code"], paused["pause_name"]) == ("2", "用餐")
    resumed = (await api.ask("leader", "POST", "/agents/602/resume")).json()
    assert (resumed["pause_code"], resumed["pause_name"]) == (None, None)


async def test_what_leaders_do_by_code_is_in_the_audit_among_the_rest_the_latest_first(api):
    def enter(session: Any) -> None:
        staff.set_role(session, "612", "leader")
        now = api.house.house.clock()
        for n, (event, at, detail) in enumerate(
            [("began", now - 30, ""), ("ended", now - 20, ""), ("refused", now + 60, "leading-not-now")]
        ):
            session.add(models.Supervision(session="s-1", n=n, event=event, at=at, who="612", whom="601",
                                           what="listen", call_id="demo-1.1", detail=detail))  # fmt: skip

    await api.house.ask(enter)
    await api.ask("leader", "POST", "/agents/999/pause")
    await asyncio.sleep(1)
    audit = await api.get("leader", "/audit")
    assert [(one["act"], one["role"], one["result"], one["detail"]) for one in audit] == [
        ("listen", "leader", "refused: leading-not-now", ""),
        ("pause", "leader", "refused: NotThere", ""),
        ("listen", "leader", "ended", ""),
        ("listen", "leader", "began", ""),
    ]
    assert {(one["by"], one["agent"], one["call"]) for one in audit if one["act"] == "listen"} == {
        ("612", "601", "demo-1.1")
    }
    assert [one["result"] for one in await api.get("leader", "/audit", params={"last": 1})] == [
        "refused: leading-not-now"
    ]


async def test_an_agent_pauses_only_himself(api):
    await api.house.agent_signs_in("601")
    assert (await api.ask("agent", "POST", "/agents/601/pause")).json()["state"] == "paused"


async def test_who_is_not_there_cannot_be_paused(api):
    answer = await api.ask("leader", "POST", "/agents/999/pause")
    assert answer.status_code == 404
    assert "999" in answer.json()["detail"]


async def make_leader(api: Api, number: str) -> None:
    await api.house.ask(lambda session: staff.set_role(session, number, "leader"))


async def test_a_leader_listens_from_the_own_phone_and_is_seen_listening_by_leaders_only(api):
    await make_leader(api, "612")
    agent = await api.house.agent_signs_in("601")
    leader = await api.house.agent_signs_in("612")
    await waits(api.house)
    await (await agent.rings()).picks_up()
    await asyncio.sleep(8)
    refused = await api.ask("leader", "POST", "/agents/601/listen")
    assert (refused.status_code, "leader" in refused.json()["detail"]) == (409, True)
    begun = await api.ask("leader", "POST", "/agents/601/listen", json={"leader": "612"})
    assert begun.status_code == 202, begun.text
    listening = await leader.rings()
    await listening.picks_up()
    await asyncio.sleep(5)
    told = await api.get("inspector", "/listening")
    assert [(one["leader"], one["agent"], one["act"]) for one in told] == [("612", "601", "listen")]
    assert told[0]["session"] == begun.json()["session"]
    assert (await api.ask("agent", "GET", "/listening")).status_code == 403


async def test_a_leaders_own_token_acts_as_nobody_else(api):
    token = await api.house.ask(lambda session: access.new_token(session, Role.LEADER, "612", "", 0.0)[0])
    api.tokens["own"] = token
    answer = await api.ask("own", "POST", "/agents/601/listen", json={"leader": "611"})
    assert answer.status_code == 403
    answer = await api.ask("own", "POST", "/agents/601/listen")
    assert answer.status_code == 409
    assert "signed in" in answer.json()["detail"]


async def test_an_agent_is_moved_to_another_line(api):
    await make_leader(api, "612")
    await api.house.agent_signs_in("612")
    moved = await api.ask("leader", "POST", "/agents/601/move", json={"line": "lawyer", "leader": "612"})
    assert moved.status_code == 200, moved.text
    skills = api.house.house.desk.skills_of("601")
    assert (skills.get("party", 0), skills["lawyer"] > 0) == (0, True)


async def test_a_waiting_caller_is_pulled_by_a_leader_who_is_paused(api):
    await make_leader(api, "612")
    leader = await api.house.agent_signs_in("612")
    assert (await api.ask("leader", "POST", "/agents/612/pause")).status_code == 200
    await waits(api.house)
    call = (await api.get("leader", "/queue"))[0]["call"]
    pull = f"/queue/{call}/pull"
    pulled = await api.ask("leader", "POST", pull, json={"leader": "612"})
    assert pulled.status_code == 204, pulled.text
    await (await leader.rings()).picks_up()
    await asyncio.sleep(5)
    assert (await api.get("leader", "/calls"))[0]["agent"] == "612"
    assert (await api.ask("leader", "POST", pull, json={"leader": "612"})).status_code == 409


async def test_a_callback_is_asked_for_once_and_cancelled(api):
    made = await api.ask("leader", "POST", "/callbacks", json={"number": "+86 138-0000-1111", "window": "morning"})
    assert made.status_code == 201, made.text
    assert (made.json()["number"], made.json()["window"]) == ("13800001111", "morning")
    again = await api.ask("leader", "POST", "/callbacks", json={"number": "13800001111"})
    assert (again.status_code, "already" in again.json()["detail"]) == (409, True)
    for wrong in ("12368", "008613800001111"):
        assert (await api.ask("leader", "POST", "/callbacks", json={"number": wrong})).status_code == 409
    assert [one["number"] for one in await api.get("ops", "/callbacks")] == ["*********11"]
    id = made.json()["id"]
    assert (await api.ask("leader", "DELETE", f"/callbacks/{id}")).status_code == 204
    assert await api.get("leader", "/callbacks") == []
    assert (await api.ask("leader", "DELETE", f"/callbacks/{id}")).status_code == 404


async def test_an_agent_calls_the_party_of_the_own_last_talk_and_of_no_other_case(api):
    none = await api.ask("agent", "POST", "/agents/601/call", json={"whom": "party"})
    assert (none.status_code, "case" in none.json()["detail"]) == (409, True)
    other = await api.ask("agent", "POST", "/agents/601/call", json={"whom": "party", "case": 1})
    assert (other.status_code, "last talk" in other.json()["detail"]) == (403, True)
    leader = await api.ask("leader", "POST", "/agents/601/call", json={"whom": "lawyer", "case": 1})
    assert (leader.status_code, "trunk.outbound" in leader.json()["detail"]) == (409, True)


async def test_an_order_is_closed_by_whom_it_is_for(api):
    house = api.house.house
    for who in ("601", "602"):
        orders.open_order(
            house.ledger,
            kind=orders.Kind.MESSAGE,
            at=1.0,
            due_at=2.0,
            must_answer=who,
            call_id=f"c-{who}",
            case_id=7 if who == "601" else None,
        )
    await asyncio.sleep(1)
    house.ledger.write(models.Call(id="c-601", caller_number="15400001001", called_number="12368", at=1.0))
    await asyncio.sleep(1)
    seen = {role: await api.get(role, "/orders") for role in ("leader", "inspector", "agent")}
    numbers = {role: {one["must_answer"]: one["caller"] for one in rows} for role, rows in seen.items()}
    assert numbers == {
        "leader": {"601": "15400001001", "602": None},
        "inspector": {"601": "*********01", "602": None},
        "agent": {"601": "*********01"},
    }
    assert {one["must_answer"]: one["case"] for one in seen["leader"]} == {"601": 7, "602": None}
    mine = await api.get("agent", "/orders")
    assert [(one["must_answer"], one["overdue"]) for one in mine] == [("601", True)]
    closed = await api.ask("agent", "POST", f"/orders/{mine[0]['id']}/close", json={"note": "answered"})
    assert (closed.status_code, closed.json()["standing"]) == (200, "closed")
    assert await api.get("agent", "/orders") == []
    assert len(await api.get("leader", "/orders", params={"closed": True})) == 2
    others = (await api.get("leader", "/orders"))[0]["id"]
    assert (await api.ask("agent", "POST", f"/orders/{others}/close", json={})).status_code == 403
    again = await api.ask("leader", "POST", f"/orders/{mine[0]['id']}/close", json={})
    assert (again.status_code, "already" in again.json()["detail"]) == (409, True)


async def test_rules_that_are_wrong_are_told_and_those_in_force_stay(api, monkeypatch, tmp_path):
    wrong = tmp_path / "desk.toml"
    wrong.write_text("[routing]\nlast_agent_s = 999\n", encoding="utf-8")
    monkeypatch.setattr(api.house.house.desk.rules, "_file", wrong)
    answer = await api.ask("ops", "POST", "/reload")
    assert answer.status_code == 409
    assert "desk.toml, line 2: routing.last_agent_s" in answer.json()["detail"]
    wrong.write_text("[routing]\nlast_agent_s = 9\n", encoding="utf-8")
    assert (await api.ask("ops", "POST", "/reload")).status_code == 204
    assert api.house.house.desk.rules.now.routing.last_agent_s == 9


# ---------------------------------------------------------------- what is wrong


async def test_mistakes_are_problems_in_clear_words(api):
    answer = await api.ask("leader", "GET", "/audit", params={"last": "many"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0].startswith("query.last:")
    typo = await api.ask("leader", "GET", "/audit", params={"lats": "5"})
    assert (typo.status_code, typo.json()["detail"]) == (422, "Unknown in the query: lats; known here: last.")
    assert (await api.ask("leader", "GET", "/nowhere")).json()["detail"].startswith("There is nothing")
    wrong = await api.ask("leader", "DELETE", "/agents")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")
    long = await api.ask("leader", "POST", "/orders/none/close", content=b" " * 70_000)
    assert long.status_code == 413


async def test_while_the_database_is_away_known_tokens_go_on_and_the_rest_is_told_so(api, monkeypatch):
    await api.get("leader", "/me")

    async def away(_: Any) -> Any:
        raise StoreUnavailable("The database is away.")

    monkeypatch.setattr(api.floor, "read", away)
    monkeypatch.setattr("ari_app.api.app.KNOWN_S", 0.0)
    assert (await api.ask("leader", "GET", "/agents")).status_code == 200
    unknown = await api.ask("ops", "GET", "/agents")
    assert (unknown.status_code, unknown.json()["detail"]) == (503, "The database is away.")


async def test_what_breaks_is_told_without_its_inside(api, monkeypatch):
    def broken() -> Any:
        raise RuntimeError("15400001001")

    monkeypatch.setattr(api.house.house.desk, "agents", broken)
    answer = await api.ask("leader", "GET", "/agents")
    assert answer.status_code == 500
    assert "15400001001" not in answer.text


async def test_a_controller_that_stands_still_is_not_waited_for(api, monkeypatch):
    async def never(*_: Any) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(api.house.house.desk, "pause", never)
    answer = await api.ask("leader", "POST", "/agents/601/pause")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("role", "agent", "said"),
    [("boss", None, "no role boss"), ("agent", None, "--agent"), ("leader", "999", "no agent 999")],
)
async def test_a_token_that_makes_no_sense_is_not_made(api, role, agent, said):
    with pytest.raises(SanlingError, match=said):
        await api.house.ask(lambda session: access.new_token(session, role, agent, "", 0.0))


async def test_a_token_is_revoked_once(api):
    id = (await api.get("ops", "/me"))["id"]
    await api.house.ask(lambda session: access.revoke(session, id, 1.0))
    with pytest.raises(SanlingError, match="already"):
        await api.house.ask(lambda session: access.revoke(session, id, 1.0))
    with pytest.raises(SanlingError, match="no token"):
        await api.house.ask(lambda session: access.revoke(session, "none", 1.0))


# ---------------------------------------------------------------- the stream


async def welcome() -> bool:
    return True


async def read(stream: AsyncIterator[str], count: int) -> list[tuple[str, Any]]:
    """The next `count` events, without comments."""
    found: list[tuple[str, Any]] = []
    async for text in stream:
        fields = dict(line.split(": ", 1) for line in text.strip().splitlines() if not line.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], json.loads(fields["data"])))
        if len(found) == count:
            return found
    return found


async def test_a_call_is_told_step_by_step_without_its_number(api):
    stream = api.floor.happenings.stream(None, lambda _: True, welcome)
    assert (await anext(stream)).startswith("retry:")
    reading = asyncio.create_task(read(stream, 14))
    await asyncio.sleep(0)
    await waits(api.house)
    await asyncio.sleep(1)
    told = await reading
    assert told[0][0] == "call"
    assert told[0][1]["heard"] == "ARRIVED"
    steps = [data["heard"] for kind, data in told if kind == "call"]
    assert steps[1:4] == ["RANG_ENOUGH", "SAID_PARTY", "OWN_NUMBER"]
    assert PARTY not in json.dumps(told)
    assert any(kind == "queue" and data["length"] == 1 for kind, data in api_events(api))
    await stream.aclose()


def api_events(api: Api) -> list[tuple[str, Any]]:
    return [(one.kind, one.data) for one in api.floor.happenings.after(0)]


async def test_an_agents_change_is_told(api):
    await api.house.agent_signs_in("601")
    assert ("agent", "idle") in [(kind, data.get("state")) for kind, data in api_events(api)]


def filled(count: int, kept: int = 10) -> Happenings:
    happenings = Happenings(1000.0, kept)
    for n in range(count):
        happenings.publish(float(n), "call", {"n": n}, "601" if n % 2 else None)
    return happenings


async def test_who_comes_back_goes_on_where_it_was():
    happenings = filled(8)
    stream = happenings.stream(happenings.id_of(5), lambda _: True, welcome)
    assert [data["n"] for _, data in await read(stream, 3)] == [5, 6, 7]
    await stream.aclose()


@pytest.mark.parametrize("came_from", ["other-3", "nonsense", "", "f4240-99", "f4240-1", "f4240-²"])
async def test_who_comes_back_too_late_or_from_another_controller_is_told_so(came_from):
    happenings = filled(20)
    assert happenings.last_id == "f4240-20"
    stream = happenings.stream(came_from, lambda _: True, welcome)
    reading = asyncio.create_task(read(stream, 2))
    await asyncio.sleep(0.1)
    happenings.publish(1.0, "call", {"n": "new"})
    assert await reading == [("missed", {}), ("call", {"at": 1.0, "n": "new"})]
    await stream.aclose()


async def test_who_reads_too_slowly_is_cut():
    happenings = filled(0)
    stream = happenings.stream(None, lambda _: True, welcome)
    await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.1)
    for n in range(11):
        happenings.publish(float(n), "call", {"n": n})
    assert "event: cut" in await waiting
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_quiet_stream_says_that_it_lives_and_ends_when_its_token_is_revoked():
    happenings = filled(0)
    still = [True, True, False]

    async def welcome_until() -> bool:
        return still.pop(0)

    began = asyncio.get_running_loop().time()
    told = [text async for text in happenings.stream(None, lambda _: True, welcome_until)]
    assert told[1:] == [": alive\n\n", ": alive\n\n"]
    assert asyncio.get_running_loop().time() - began == pytest.approx(30)


@pytest.mark.parametrize("concerns", [True, False])
async def test_a_busy_stream_says_that_it_lives_and_ends_when_its_token_is_revoked(concerns):
    happenings = filled(0)
    still = [True, False]

    async def welcome_until() -> bool:
        return still.pop(0)

    async def happens() -> None:
        while True:
            happenings.publish(1.0, "call", {})
            await asyncio.sleep(1)

    began = asyncio.get_running_loop().time()
    busy = asyncio.create_task(happens())
    told = [text async for text in happenings.stream(None, lambda _: concerns, welcome_until)]
    busy.cancel()
    assert asyncio.get_running_loop().time() - began == pytest.approx(20, abs=1.1)
    assert told.count(": alive\n\n") == 1
    assert any("event: call" in text for text in told) is concerns


async def test_an_agents_stream_holds_own_events_only():
    happenings = filled(9)
    stream = happenings.stream(happenings.id_of(0), lambda one: one.agent == "601", welcome)
    assert [data["n"] for _, data in await read(stream, 4)] == [1, 3, 5, 7]
    await stream.aclose()


def test_what_is_in_the_buffer_no_more_cannot_be_read():
    happenings = filled(20)
    assert [one.n for one in happenings.after(10)] == list(range(11, 21))
    assert happenings.after(20) == []
    for n in (9, 21):
        with pytest.raises(FellBehind):
            happenings.after(n)


async def test_closing_ends_every_stream():
    happenings = filled(0)
    stream = happenings.stream(None, lambda _: True, welcome)
    reading = asyncio.create_task(read(stream, 1))
    await asyncio.sleep(0.1)
    happenings.close()
    assert await reading == []
