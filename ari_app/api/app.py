"""The API's routes: who asks, what for, and the answer in words.

Every error is a problem (RFC 9457, ``application/problem+json``) whose `detail` says what to do. Each route names the
`Act` that it is; ``access.MATRIX`` says who may.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Path, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ari_app.api import shapes
from ari_app.api.access import Act, Holder, Reach, digest, holder_of
from ari_app.api.floor import Floor, NotAllowed, NotNow, NotThere, denied
from ari_app.api.happenings import Happening
from ari_app.errors import SanlingError, StoreUnavailable
from ari_app.flow import leading as law

log = logging.getLogger("sanling.api")

BODY_BYTES = 64 * 1024
KNOWN_S = 5.0
"""So long a token is not looked up again: a revoked one opens nothing after this."""
KNOWN_WHILE_AWAY_S = 600.0
"""While the database is away, a token that was good goes on for so long."""
KNOWN_TOKENS = 1000
STREAMS = 64
"""Event streams at once."""

TITLES = {
    400: "Bad request", 401: "Who are you?", 403: "Not allowed", 404: "Not there", 405: "Method not allowed",
    409: "Not now", 413: "Too long", 422: "Not understood", 500: "Our fault", 503: "Not available now",
}  # fmt: skip


LOOKING = frozenset(act for act in Act if act.name.startswith("SEE_"))
"""Changes nothing, so it is not in the audit."""


class Gate:
    """Tells whom a token belongs to, and remembers it for a moment."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._known: dict[str, tuple[float, Holder]] = {}

    async def holder(self, token: str) -> Holder | None:
        """None: nobody's, or revoked. Raises StoreUnavailable."""
        hash, now = digest(token), time.monotonic()
        seen_at, known = self._known.get(hash, (0.0, None))
        if known is not None and now - seen_at < KNOWN_S:
            return known
        try:
            found: Holder | None = await self._floor.read(lambda session: holder_of(session, hash))
        except StoreUnavailable:
            if known is not None and now - seen_at < KNOWN_WHILE_AWAY_S:
                return known
            raise
        self._known.pop(hash, None)
        if found is not None:
            if len(self._known) >= KNOWN_TOKENS:
                self._known.pop(next(iter(self._known)))
            self._known[hash] = (now, found)
        return found


bearer = HTTPBearer(auto_error=False, description="A token from `sanling token new ROLE`.")


async def floor_of(request: Request) -> Floor:
    found: Floor = request.app.state.floor
    return found


async def holder(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> Holder:
    gate: Gate = request.app.state.gate
    found = await gate.holder(given.credentials) if given is not None else None
    if found is None:
        said = "There is no such token, or it is revoked." if given is not None else "There is no token."
        raise HTTPException(
            401, f"{said} Send `Authorization: Bearer TOKEN`; `sanling token new ROLE` makes one.",
            {"WWW-Authenticate": "Bearer"},
        )  # fmt: skip
    return found


def may(act: Act) -> Callable[..., Awaitable[Holder]]:
    """Lets in who has any right to `act`."""

    async def let_in(
        request: Request, floor: Annotated[Floor, Depends(floor_of)], asking: Annotated[Holder, Depends(holder)]
    ) -> Holder:
        known = {one.alias for one in request.scope["route"].dependant.query_params}
        if unknown := sorted(set(request.query_params) - known):
            names = ", ".join(sorted(known)) or "none at all"
            raise NotUnderstood(f"Unknown in the query: {', '.join(unknown)[:200]}; known here: {names}.")
        if asking.reach(act) is Reach.NONE:
            if act not in LOOKING:
                await floor.deny(asking, act)
            raise NotAllowed(denied(asking, act))
        return asking

    return let_in


TheFloor = Annotated[Floor, Depends(floor_of)]
AgentNumber = Annotated[
    str, Path(description="Agent number (工号): 3 to 8 digits.", pattern=r"^[1-9][0-9]{2,7}$", examples=["601"])
]
CALL = r"^[A-Za-z0-9_-]{1,64}[-_][0-9]{1,12}\.[0-9]{1,9}$"
CallId = Annotated[
    str, Path(description="A call's id, as in /v1/calls.", pattern=CALL, examples=["hotline-1795000000.1"])
]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {
            "description": TITLES[status],
            "model": shapes.Problem,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


routes = APIRouter(prefix="/v1", responses=problems(400, 401, 403, 422, 500, 503))


def route(method: str, path: str, act: Act, *more: int, **how: Any) -> Callable[[Any], Any]:
    """A route whose operation id is its act; `more`: statuses that it answers besides the usual ones."""
    return routes.api_route(path, methods=[method], operation_id=act.value, responses=problems(*more), **how)


# ---------------------------------------------------------------- looking


@route("GET", "/me", Act.SEE_ITSELF, tags=["token"])
async def see_itself(asking: Annotated[Holder, Depends(may(Act.SEE_ITSELF))]) -> shapes.Itself:
    """Whose token this is, and what it may do."""
    reaches = {act.value: asking.reach(act) for act in Act}
    rights = {name: reach.name.lower() for name, reach in reaches.items() if reach is not Reach.NONE}
    return shapes.Itself(id=asking.id, role=asking.role.value, agent=asking.agent, rights=rights)  # type: ignore[arg-type]


@route("GET", "/board", Act.SEE_BOARD, tags=["floor"])
async def see_board(floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.SEE_BOARD))]) -> shapes.Board:
    """Everything a wallboard shows, of one moment."""
    return await floor.board(asking)


@route("GET", "/agents", Act.SEE_AGENTS, tags=["agents"])
async def see_agents(floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.SEE_AGENTS))]) -> list[shapes.Agent]:
    """Every agent and what they are doing; an agent sees himself or herself."""
    return await floor.agents(asking)


@routes.get("/agents/{number}", operation_id="see_agent", responses=problems(404), tags=["agents"])
async def see_agent(
    floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.SEE_AGENTS))], number: AgentNumber
) -> shapes.Agent:
    return await floor.agent(asking, number)


@route("GET", "/queue", Act.SEE_QUEUE, tags=["queue"])
async def see_queue(floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.SEE_QUEUE))]) -> list[shapes.Waiting]:
    """Who waits for an agent, in order."""
    return await floor.queue(asking)


@route("GET", "/calls", Act.SEE_CALLS, tags=["calls"])
async def see_calls(floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.SEE_CALLS))]) -> list[shapes.LiveCall]:
    """Calls in progress, the oldest first; an agent sees his or her own."""
    return await floor.in_progress(asking)


@routes.get("/calls/{id}", operation_id="see_call", responses=problems(404), tags=["calls"])
async def see_call(
    floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.SEE_CALLS))], id: CallId
) -> shapes.PastCall:
    """A call in progress or past, with every step; an agent sees those he or she talked in."""
    return await floor.call(asking, id)


@route("GET", "/callbacks", Act.SEE_CALLBACKS, tags=["callbacks"])
async def see_callbacks(
    floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.SEE_CALLBACKS))]
) -> list[shapes.Callback]:
    """Open callbacks: first of those whom we cut off, then by the places that are kept."""
    return await floor.callbacks(asking)


@route("GET", "/orders", Act.SEE_ORDERS, tags=["orders"])
async def see_orders(
    floor: TheFloor,
    asking: Annotated[Holder, Depends(may(Act.SEE_ORDERS))],
    closed: Annotated[bool, Query(description="Closed ones too.")] = False,
) -> list[shapes.Order]:
    """Work orders (派单), the most urgent first; an agent sees those that he or she opened or must answer."""
    return await floor.orders(asking, closed=closed)


@route("GET", "/audit", Act.SEE_AUDIT, tags=["audit"])
async def see_audit(
    floor: TheFloor,
    asking: Annotated[Holder, Depends(may(Act.SEE_AUDIT))],
    last: Annotated[int, Query(description="How many.", ge=1, le=1000)] = 100,
) -> list[shapes.AuditRow]:
    """Who did what upon the floor, the newest first."""
    return await floor.audit(asking, last)


class EventStream(StreamingResponse):
    media_type = "text/event-stream"


@route(
    "GET", "/events", Act.SEE_EVENTS, tags=["events"], response_class=EventStream,
)  # fmt: skip
async def see_events(
    request: Request,
    floor: TheFloor,
    asking: Annotated[Holder, Depends(may(Act.SEE_EVENTS))],
    given: Annotated[HTTPAuthorizationCredentials, Security(bearer)],
    last_event_id: Annotated[
        str | None,
        Header(description="The id of the last event that was read: it goes on after it.", max_length=64),
    ] = None,
) -> EventStream:
    """What happens, as it happens: server-sent events `agent`, `queue`, `call`, `offer`, `callback`.

    Each `data` is a JSON object with `at` (Unix seconds). `missed`: events were lost since Last-Event-ID, read the
    board anew. `cut`: you read too slowly; the stream ends. A comment comes every 10 s. An agent hears of himself or
    herself only. No event holds a caller's number or name.
    """
    gate: Gate = request.app.state.gate
    own = asking.agent if asking.reach(Act.SEE_EVENTS) is Reach.OWN else None
    if request.app.state.streams >= STREAMS:
        raise NotAvailable(f"{STREAMS} event streams are open already: close one.")

    def concerns(one: Happening) -> bool:
        return own is None or one.agent == own

    async def still_welcome() -> bool:
        try:
            return await gate.holder(given.credentials) is not None
        except StoreUnavailable:
            return True

    async def counted() -> AsyncIterator[str]:
        request.app.state.streams += 1
        try:
            async for text in floor.happenings.stream(last_event_id, concerns, still_welcome):
                yield text
        finally:
            request.app.state.streams -= 1

    return EventStream(counted(), headers={"Cache-Control": "no-store"})


# ---------------------------------------------------------------- acting: agents


@route("POST", "/agents/{number}/pause", Act.PAUSE, 404, 409, tags=["agents"])
async def pause(
    floor: TheFloor,
    asking: Annotated[Holder, Depends(may(Act.PAUSE))],
    number: AgentNumber,
    wanted: shapes.Pause | None = None,
) -> shapes.Agent:
    """No more calls for this agent until resumed. One who is on a call cannot be paused."""
    code = wanted.code if wanted else None
    return await floor.of_agent(asking, Act.PAUSE, number, lambda: floor.house.desk.pause(number, code), code or "")


@route("POST", "/agents/{number}/resume", Act.RESUME, 404, 409, tags=["agents"])
async def resume(
    floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.RESUME))], number: AgentNumber
) -> shapes.Agent:
    """Ends a pause, one for a missed offer too, and wrap-up."""
    return await floor.of_agent(asking, Act.RESUME, number, lambda: floor.house.desk.resume(number))


@route("POST", "/agents/{number}/end-wrap-up", Act.END_WRAP_UP, 404, 409, tags=["agents"])
async def end_wrap_up(
    floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.END_WRAP_UP))], number: AgentNumber
) -> shapes.Agent:
    return await floor.of_agent(asking, Act.END_WRAP_UP, number, lambda: floor.house.desk.ready(number))


@route("POST", "/agents/{number}/sign-out", Act.SIGN_OUT, 404, 409, tags=["agents"])
async def sign_out(
    floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.SIGN_OUT))], number: AgentNumber
) -> shapes.Agent:
    return await floor.of_agent(asking, Act.SIGN_OUT, number, lambda: floor.house.desk.sign_out(number))


@route("POST", "/agents/{number}/call", Act.CALL_OUT, 404, 409, tags=["agents"], status_code=202)
async def call_out(
    floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.CALL_OUT))], number: AgentNumber, wanted: shapes.CallOut
) -> shapes.Placed:
    """The agent's phone rings, then the party or lawyer of a case is called."""
    return shapes.Placed(call=await floor.call_out(asking, number, wanted.whom, wanted.case))


# ---------------------------------------------------------------- acting: leading


async def lead(
    floor: Floor, asking: Holder, act: Act, what: law.Act, agent: str, led: shapes.Led | None
) -> shapes.Begun:
    return shapes.Begun(session=await floor.lead(asking, act, law.Order(what, agent), led.leader if led else None))


@route("POST", "/agents/{number}/listen", Act.LISTEN, 409, tags=["leading"], status_code=202)
async def listen(
    floor: TheFloor,
    asking: Annotated[Holder, Depends(may(Act.LISTEN))],
    number: AgentNumber,
    led: shapes.Led | None = None,
) -> shapes.Begun:
    """Rings the leader's phone; answered, the leader hears agent and caller, and nobody hears the leader."""
    return await lead(floor, asking, Act.LISTEN, law.Act.LISTEN, number, led)


@route("POST", "/agents/{number}/whisper", Act.WHISPER, 409, tags=["leading"], status_code=202)
async def whisper(
    floor: TheFloor,
    asking: Annotated[Holder, Depends(may(Act.WHISPER))],
    number: AgentNumber,
    led: shapes.Led | None = None,
) -> shapes.Begun:
    """Rings the leader's phone; answered, the agent hears the leader too, and the caller does not."""
    return await lead(floor, asking, Act.WHISPER, law.Act.WHISPER, number, led)


@route("POST", "/agents/{number}/join", Act.JOIN, 409, tags=["leading"], status_code=202)
async def join(
    floor: TheFloor,
    asking: Annotated[Holder, Depends(may(Act.JOIN))],
    number: AgentNumber,
    led: shapes.Led | None = None,
) -> shapes.Begun:
    """Rings the leader's phone; answered, all three hear each other."""
    return await lead(floor, asking, Act.JOIN, law.Act.JOIN, number, led)


@route("POST", "/agents/{number}/take-over", Act.TAKE_OVER, 409, tags=["leading"], status_code=202)
async def take_over(
    floor: TheFloor,
    asking: Annotated[Holder, Depends(may(Act.TAKE_OVER))],
    number: AgentNumber,
    led: shapes.Led | None = None,
) -> shapes.Begun:
    """Rings the leader's phone; answered, the leader has the caller, and the agent is out."""
    return await lead(floor, asking, Act.TAKE_OVER, law.Act.TAKE_OVER, number, led)


@route("POST", "/agents/{number}/move", Act.MOVE, 404, 409, tags=["leading"])
async def move(
    floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.MOVE))], number: AgentNumber, moved: shapes.Moved
) -> shapes.Agent:
    """The agent serves another line from now on."""
    await floor.lead(asking, Act.MOVE, law.Order(law.Act.MOVE, number, moved.line), moved.leader)
    return await floor.agent(asking, number)


@route("POST", "/queue/{call}/pull", Act.PULL, 409, tags=["leading"], status_code=204)
async def pull(
    floor: TheFloor,
    asking: Annotated[Holder, Depends(may(Act.PULL))],
    call: Annotated[str, Path(description="A call that waits, as in /v1/queue.", pattern=CALL)],
    led: shapes.Led | None = None,
) -> None:
    """The leader's phone rings for this waiting caller, out of turn."""
    await floor.lead(asking, Act.PULL, law.Order(law.Act.PULL), led.leader if led else None, call)


@route("GET", "/listening", Act.SEE_LISTENING, tags=["leading"])
async def see_listening(
    floor: TheFloor, _: Annotated[Holder, Depends(may(Act.SEE_LISTENING))]
) -> list[shapes.Listening]:
    """Who listens to whom at this moment."""
    return await floor.listening()


# ---------------------------------------------------------------- acting: callbacks


@route("POST", "/callbacks", Act.ADD_CALLBACK, 409, tags=["callbacks"], status_code=201)
async def add_callback(
    floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.ADD_CALLBACK))], wanted: shapes.AskedFor
) -> shapes.Callback:
    """Somebody is to be called back, from this moment's place in the queue."""
    return await floor.add_callback(asking, wanted.number, wanted.window)


@route("DELETE", "/callbacks/{id}", Act.CANCEL_CALLBACK, 404, 409, tags=["callbacks"], status_code=204)
async def cancel_callback(
    floor: TheFloor,
    asking: Annotated[Holder, Depends(may(Act.CANCEL_CALLBACK))],
    id: Annotated[str, Path(description="As in /v1/callbacks.", pattern=r"^[A-Za-z0-9._~-]{1,120}$")],
) -> None:
    """Nobody calls this person back any more."""
    await floor.cancel_callback(asking, id)


# ---------------------------------------------------------------- acting: orders


@route("POST", "/orders/{id}/close", Act.CLOSE_ORDER, 404, 409, tags=["orders"])
async def close_order(
    floor: TheFloor,
    asking: Annotated[Holder, Depends(may(Act.CLOSE_ORDER))],
    id: Annotated[str, Path(description="An order's id, as in /v1/orders.", pattern=r"^[A-Za-z0-9._~-]{1,120}$")],
    closing: shapes.Closing,
) -> shapes.Order:
    """The order is answered."""
    return await floor.close_order(asking, id, closing.note)


# ---------------------------------------------------------------- acting: the house


@route("POST", "/reload", Act.RELOAD, 409, tags=["house"], status_code=204)
async def reload(floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.RELOAD))]) -> None:
    """Puts the rules in desk.toml in force. One that is wrong is named with its line, and the old ones stay."""
    await floor.reload(asking)


@route("POST", "/drain", Act.DRAIN, 409, tags=["house"], status_code=202)
async def drain(floor: TheFloor, asking: Annotated[Holder, Depends(may(Act.DRAIN))]) -> None:
    """No new calls from now on; the hotline stops after the last one, and stays down until it is started again."""
    await floor.drain(asking)


# ---------------------------------------------------------------- problems


class NotAvailable(SanlingError):
    pass


class NotUnderstood(SanlingError):
    pass


STATUS: dict[type[SanlingError], int] = {
    NotAllowed: 403, NotThere: 404, NotNow: 409, StoreUnavailable: 503, NotAvailable: 503,
    NotUnderstood: 422,
}  # fmt: skip


def problem(status: int, detail: str, errors: list[str] | None = None, headers: Any = None) -> JSONResponse:
    body = shapes.Problem(title=TITLES.get(status, "Problem"), status=status, detail=detail, errors=errors or [])
    return JSONResponse(body.model_dump(), status, headers=headers, media_type="application/problem+json")


async def refused(_: Request, error: Exception) -> JSONResponse:
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 409)
    return problem(status, str(error))


async def not_understood(_: Request, error: Exception) -> JSONResponse:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    said = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in found]
    return problem(422, "The request is not as /openapi.json says; `errors` names what to change.", said)


async def http_problem(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, AnyHTTPException):
        raise error
    said = {
        404: "There is nothing at this address; /openapi.json lists what there is.",
        405: "This address knows other methods: see the header Allow.",
    }
    known = said.get(error.status_code, error.detail)
    return problem(error.status_code, str(known), headers=error.headers)


async def too_slow(_: Request, __: Exception) -> JSONResponse:
    return problem(503, "The controller did not answer in time: ask again.", headers={"Retry-After": "1"})


async def broken(_: Request, error: Exception) -> JSONResponse:
    return problem(500, f"Something broke in the hotline ({type(error).__name__}); its log tells more.")


class BodyLimit:
    """Refuses a body over 64 KB before it is read, whatever its headers say."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > BODY_BYTES:
                raise HTTPException(413, f"At most {BODY_BYTES} bytes may be sent.")
            return message

        await self._app(scope, counted, send)
        return None


def create(floor: Floor) -> FastAPI:
    app = FastAPI(
        title="三铃 Sanling: the desk",
        version="1",
        summary="Agents, queue and calls of a legal hotline: what is, what happens, what to do.",
        description="Times are Unix seconds, spans are seconds. Send `Authorization: Bearer TOKEN`. "
        "Errors are problems (RFC 9457) whose `detail` says what to do. docs/desk.md says which role may do what.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.floor, app.state.gate, app.state.streams = floor, Gate(floor), 0
    app.include_router(routes)
    app.add_middleware(BodyLimit)
    for kind, answer in (
        (SanlingError, refused), (RequestValidationError, not_understood), (AnyHTTPException, http_problem),
        (TimeoutError, too_slow), (Exception, broken),
    ):  # fmt: skip
        app.add_exception_handler(kind, answer)
    app.openapi = lambda: described(app)  # type: ignore[method-assign]
    return app


def described(app: FastAPI) -> dict[str, Any]:
    """OpenAPI as it is: problems are ``application/problem+json`` only."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
        )
        for path in schema["paths"].values():
            for operation in path.values():
                for status, answer in operation["responses"].items():
                    if int(status) >= 400:
                        answer["content"].pop("application/json", None)
        app.openapi_schema = schema
    return app.openapi_schema
