"""Every generated verb, asked once with everything it takes and once with the least."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import unquote

import pytest

from ari_app.ari import Client, verbs
from ari_app.ari.errors import AriError
from ari_app.ari.events import Bridge, Channel, LiveRecording, Playback, StoredRecording
from ari_app.ari.generate import BLOCKING, LONG, RESOURCES
from tests.unit.ari_servers import ScriptedWire

AWKWARD = "a/b c?d&e=#%~;1"


def value_for(hint: Any) -> Any:
    """Something a verb takes for this type of parameter."""
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    plain: dict[Any, Any] = {str: AWKWARD, int: 7, bool: True}
    if hint in plain:
        return plain[hint]
    if "Sequence[collections.abc.Mapping" in str(hint):
        return [{"attribute": "a", "value": "b"}]
    if "Mapping" in str(hint):
        return {"A": "1"}
    return value_for(get_args(hint)[0])


def arguments(verb: Any, *, least: bool) -> dict[str, Any]:
    hints = get_type_hints(verb, vars(verbs))
    return {
        name: value_for(hints[name])
        for name, parameter in inspect.signature(verb).parameters.items()
        if name != "self" and (not least or parameter.default is inspect.Parameter.empty)
    }


def verbs_of(resource: str) -> Iterator[str]:
    table = getattr(verbs, resource[0].upper() + resource[1:])
    return (name for name, member in vars(table).items() if inspect.iscoroutinefunction(member))


@pytest.mark.parametrize("least", [True, False], ids=["least", "everything"])
@pytest.mark.parametrize("full_name", [f"{r}.{name}" for r in RESOURCES for name in verbs_of(r)])
async def test_a_verb_asks_in_asterisk_s_terms(full_name: str, least: bool) -> None:
    wire = ScriptedWire()
    client = Client(wire)
    resource, name = full_name.split(".")
    verb = getattr(getattr(client, resource), name)
    with suppress(AriError):  # the answer is empty, which only some of them expect
        await verb(**arguments(verb, least=least))
    asked, query, _, blocking = wire.requests[-1]
    method, uri = asked.split(" ", 1)
    assert method in {"GET", "POST", "PUT", "DELETE"}
    assert blocking == (full_name in BLOCKING | LONG)
    segments = uri.split("/")
    assert segments[0] == resource
    assert all(segments)
    assert {unquote(segment) for segment in segments if "%" in segment} <= {AWKWARD}
    assert not set(uri) & set("{}? #&")
    assert all(isinstance(value, str) for value in query.values())


OBJECTS: dict[type, Any] = {
    verbs.BoundBridge: Bridge(id=AWKWARD),
    verbs.BoundChannel: Channel(id=AWKWARD),
    verbs.BoundLiveRecording: LiveRecording(name=AWKWARD),
    verbs.BoundPlayback: Playback(id=AWKWARD),
    verbs.BoundStoredRecording: StoredRecording(name=AWKWARD),
}


@pytest.mark.parametrize("kind", OBJECTS, ids=lambda kind: kind.__name__)
async def test_an_object_s_verbs_are_about_itself(kind: Any) -> None:
    wire = ScriptedWire()
    thing = kind.bound(OBJECTS[kind], Client(wire))
    names = [name for name, member in vars(kind).items() if inspect.iscoroutinefunction(member)]
    assert len(names) > 1
    for name in names:
        verb = getattr(thing, name)
        with suppress(AriError):
            await verb(**arguments(verb, least=False))
        asked = wire.requests[-1][0].split(" ", 1)[1]
        assert AWKWARD in map(unquote, asked.split("/")), name
