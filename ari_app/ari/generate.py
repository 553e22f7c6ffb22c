"""Writes `verbs.py` and `events.py` from Asterisk's own description of ARI.

    python -m ari_app.ari.generate ROOT            writes both files
    python -m ari_app.ari.generate --check ROOT    exit code 1, and the difference, if they are not what ROOT gives

ROOT is a root file system with an Asterisk in it, or the `rest-api` folder itself. The files there are Swagger 1.1
with liberties; what they leave unsaid, and what was measured to be otherwise than they say, stands in the tables
below and nowhere else.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import keyword
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WIDTH = 110

RESOURCES = (
    "applications",
    "asterisk",
    "bridges",
    "channels",
    "deviceStates",
    "endpoints",
    "events",
    "playbacks",
    "recordings",
    "sounds",
)
"""All but `mailboxes`, which is about voicemail: here a mailbox is a call's inbox."""

SKIPPED_VERBS = {
    "events.eventWebsocket": "is the link itself",
    "recordings.getStoredFile": "answers with the audio, which a WebSocket frame of JSON cannot carry",
}
SKIPPED_MODELS = {"Message", "Event", "RESTRequest", "RESTResponse", "RESTHeader", "RESTQueryStringParameter"}
"""The roots of the tree of events, which are `model.Event`; and the framing, which is `websocket.py`'s own."""

BLOCKING = {
    "bridges.addChannel",
    "bridges.removeChannel",
    "channels.answer",
    "channels.setChannelVar",
    "channels.setChannelVars",
}
"""Asterisk answers these only once the channel's current playback or recording is over (measured)."""

LONG = {"bridges.list", "channels.list", "recordings.listStored"}
"""What these list grows with the calls: of 500, on a machine under full load, Asterisk is at it for 0.3 s (measured),
in which it serves nothing else on that socket, no ping either.
"""

SENT_DEFAULTS = {("channels.mute", "direction"), ("channels.unmute", "direction")}
"""Described as optional with a default, but refused with 400 when absent."""

BODIES = {"variables": "Mapping[str, str]", "fields": "Sequence[Mapping[str, str]]"}
"""What is inside a body that is only said to be `containers`; it travels under its own name."""

FIELD_TYPES = {"channelvars": "dict[str, str]", "bridgevars": "dict[str, str]"}

ALIASES: dict[tuple[str, ...], str] = {
    (
        "normal",
        "busy",
        "congestion",
        "no_answer",
        "timeout",
        "rejected",
        "unallocated",
        "normal_unspecified",
        "number_incomplete",
        "codec_mismatch",
        "interworking",
        "failure",
        "answered_elsewhere",
    ): "HangupReason",
    (
        "NOT_INUSE",
        "INUSE",
        "BUSY",
        "INVALID",
        "UNAVAILABLE",
        "RINGING",
        "RINGINUSE",
        "ONHOLD",
    ): "DeviceStateValue",
}
"""Names for the choices that are too long to be written out each time."""

IDENTITY = {
    "Application": ("name",),
    "Bridge": ("id",),
    "Channel": ("id",),
    "DeviceState": ("name",),
    "Endpoint": ("technology", "resource"),
    "LiveRecording": ("name",),
    "Module": ("name",),
    "Playback": ("id",),
    "Sound": ("id",),
    "StoredRecording": ("name",),
}
"""The fields without which a model is worthless; every other scalar has a default."""

KEYS = {
    "Bridge": "(self.id,)",
    "Channel": "(self.id,)",
    "DeviceState": "(self.name,)",
    "Endpoint": '(f"{self.technology}/{self.resource}",)',
    "LiveRecording": "(self.name, target_id(self.target_uri))",
    "Playback": "(self.id, target_id(self.target_uri))",
    "StoredRecording": "(self.name,)",
}
"""What a model is called in an event's `keys()`. A playback also concerns what it is played to."""

BOUND = {
    "Channel": ("channels", "/channels/", "channelId"),
    "Bridge": ("bridges", "/bridges/", "bridgeId"),
    "Playback": ("playbacks", "/playbacks/", "playbackId"),
    "LiveRecording": ("recordings", "/recordings/live/", "recordingName"),
    "StoredRecording": ("recordings", "/recordings/stored/", "recordingName"),
}
"""ari-py's objects: a model with the verbs of its resource, the id filled in."""

CREATING = {"originateWithId", "createWithId"}
"""Verbs on an id that is not there yet: of no use on the object."""

SCALARS = {
    "string": ("str", '""'),
    "Date": ("str", '""'),
    "int": ("int", "0"),
    "long": ("int", "0"),
    "double": ("float", "0.0"),
    "boolean": ("bool", "False"),
    "object": ("dict[str, Any]", "{}"),
}


@dataclass(frozen=True)
class Parameter:
    name: str
    where: str
    type: str
    required: bool
    default: str

    @property
    def python_name(self) -> str:
        return self.name + "_" if keyword.iskeyword(self.name) else self.name

    @property
    def declared(self) -> str:
        if self.required:
            return f"{self.python_name}: {self.type}"
        if self.default != "None":
            return f"{self.python_name}: {self.type} = {self.default}"
        return f"{self.python_name}: {self.type} | None = None"


@dataclass(frozen=True)
class Verb:
    resource: str
    name: str
    method: str
    path: str
    returns: str
    errors: tuple[str, ...]
    parameters: tuple[Parameter, ...] = field(default=())

    @property
    def full_name(self) -> str:
        return f"{self.resource}.{self.name}"


class Description:
    """The folder of swagger files, read."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, dict[str, Any]] = {}
        digest = hashlib.sha256()
        for resource in RESOURCES:
            content = (folder / f"{resource}.json").read_bytes()
            digest.update(content)
            self.files[resource] = json.loads(content)
        self.version = str(self.files["channels"]["apiVersion"])
        self.digest = digest.hexdigest()[:16]

    def models(self) -> dict[str, dict[str, Any]]:
        return {
            name: model
            for resource in RESOURCES
            for name, model in self.files[resource].get("models", {}).items()
            if name not in SKIPPED_MODELS
        }

    def event_names(self) -> list[str]:
        models = self.files["events"]["models"]
        names = [*models["Message"]["subTypes"], *models["Event"]["subTypes"]]
        return [name for name in names if name not in SKIPPED_MODELS]

    def verbs(self) -> Iterator[Verb]:
        for resource in RESOURCES:
            for api in self.files[resource]["apis"]:
                for operation in api["operations"]:
                    verb = read_verb(resource, api["path"], operation)
                    if verb.full_name not in SKIPPED_VERBS:
                        yield verb


def read_verb(resource: str, path: str, operation: dict[str, Any]) -> Verb:
    name = operation["nickname"]
    # Error codes are numbers in most places and strings in some (`move`).
    errors = tuple(str(code) for code in sorted({int(e["code"]) for e in operation.get("errorResponses", [])}))
    parameters = [read_parameter(f"{resource}.{name}", p) for p in operation.get("parameters", [])]
    return Verb(
        resource=resource,
        name=name,
        method=operation["httpMethod"],
        path=path,
        returns=operation["responseClass"],
        errors=errors,
        parameters=tuple(sorted(parameters, key=lambda p: not p.required)),
    )


def read_parameter(verb: str, parameter: dict[str, Any]) -> Parameter:
    name, where = parameter["name"], parameter["paramType"]
    values = (parameter.get("allowableValues") or {}).get("values")
    if where == "body":
        declared = BODIES[name] if parameter["dataType"] == "containers" else "Mapping[str, Any]"
    elif values and not parameter.get("allowMultiple"):
        declared = ALIASES.get(tuple(values)) or literal(values)
    else:
        declared = SCALARS[parameter["dataType"]][0]
    if parameter.get("allowMultiple"):
        declared += " | Sequence[str]"
    sent = (verb, name) in SENT_DEFAULTS
    return Parameter(
        name=name,
        where=where,
        type=declared,
        required=where == "path" or bool(parameter.get("required")),
        default=json.dumps(parameter["defaultValue"]) if sent else "None",
    )


def literal(values: Iterable[str]) -> str:
    return f"Literal[{', '.join(json.dumps(value) for value in values)}]"


def docstring(indent: str, text: str) -> Iterator[str]:
    """A docstring whose lines fit."""
    lines = textwrap.wrap(f'"""{text}', WIDTH - len(indent) - 3)
    lines[-1] += '"""'
    yield from (indent + line for line in lines)


# --- events.py -------------------------------------------------------------------------------------------------------


def field_type(swagger: str) -> tuple[str, str | None]:
    """Python's type and default for a field; no default for another model."""
    if listed := re.fullmatch(r"List\[(\w+)\]", swagger):
        return f"tuple[{field_type(listed[1])[0]}, ...]", "()"
    return SCALARS.get(swagger, (swagger, None))


def field_line(model: str, name: str, description: dict[str, Any], plain: set[str]) -> tuple[bool, str]:
    """Whether the field must be there, and its declaration. `plain` models consist of defaults only."""
    declared, default = field_type(description["type"])
    declared = FIELD_TYPES.get(name, declared)
    if name in IDENTITY.get(model, ()):
        default = None
    elif declared in plain:
        default = f"{declared}()"
    elif not description.get("required") and default in (None, "0", "0.0", "False"):
        declared, default = f"{declared} | None", "None"
    if keyword.iskeyword(name):
        return False, f'{name}_: {declared} = msgspec.field(default={default}, name="{name}")'
    return default is None, f"{name}: {declared}" + ("" if default is None else f" = {default}")


def references(model: dict[str, Any], models: dict[str, dict[str, Any]]) -> set[str]:
    types = {re.sub(r"List\[(\w+)\]", r"\1", p["type"]) for p in model["properties"].values()}
    return types & models.keys()


def in_order(models: dict[str, dict[str, Any]]) -> list[str]:
    """Each model after those it is made of, otherwise by name."""
    done: list[str] = []
    while len(done) < len(models):
        done.append(next(n for n in sorted(models) if n not in done and references(models[n], models) <= {*done}))
    return done


def is_plain(name: str, models: dict[str, dict[str, Any]]) -> bool:
    """Whether every field has a default, so that the whole can be one."""
    return name not in IDENTITY and all(
        p["type"] in SCALARS or p["type"].startswith("List[") for p in models[name]["properties"].values()
    )


def class_lines(name: str, base: str, models: dict[str, dict[str, Any]], plain: set[str]) -> Iterator[str]:
    model = models[name]
    yield ""
    yield ""
    yield f"class {name}({base}, frozen=True, kw_only=True):"
    yield f'    """ARI\'s {"event" if base == "Event" else "model"} {name}."""'
    properties = {n: p for n, p in model["properties"].items() if not (base == "Event" and n in EVENT_FIELDS)}
    lines = [(*field_line(name, n, p, plain), p) for n, p in properties.items()]
    if lines:
        yield ""
    for _, line, description in sorted(lines, key=lambda line: not line[0]):
        yield f"    {line}"
        values = (description.get("allowableValues") or {}).get("values")
        if values:
            yield from docstring("    ", f"One of: {', '.join(values)}.")
    if base == "Event":
        concerned = [n for n, p in properties.items() if p["type"] in KEYED]
        if concerned:
            yield ""
            yield "    def keys(self) -> tuple[str, ...]:"
            yield from keys_lines(concerned, properties)
    elif name in KEYS:
        yield ""
        yield "    def keys(self) -> tuple[str, ...]:"
        yield f"        return {KEYS[name]}"


EVENT_FIELDS = {"type", "application", "timestamp", "asterisk_id"}
KEYED = {*KEYS, "ReferTo", "ReferredBy"}


def keys_lines(concerned: list[str], properties: dict[str, dict[str, Any]]) -> Iterator[str]:
    if len(concerned) == 1 and properties[concerned[0]].get("required"):
        yield f"        return self.{concerned[0]}.keys()"
        return
    whole = f"        return keys_of({', '.join(f'self.{name}' for name in concerned)})"
    if len(whole) <= WIDTH:
        yield whole
        return
    yield "        return keys_of("
    yield from (f"            self.{name}," for name in concerned)
    yield "        )"


def events_module(description: Description) -> str:
    models = description.models()
    events = description.event_names()
    plain = {name for name in models if name not in events and is_plain(name, models)}
    lines = [
        '"""What Asterisk tells: the resources, and everything that happens to them.',
        "",
        *generated_note(description),
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "from typing import Any, Final",
        "",
        "import msgspec",
        "",
        "from ari_app.ari.model import Event, Model, keys_of, target_id",
    ]
    order = in_order(models)
    for name in [n for n in order if n not in events]:
        lines += class_lines(name, "Model", models, plain)
        if name in ("ReferTo", "ReferredBy"):
            concerned = [n for n, p in models[name]["properties"].items() if p["type"] in KEYED]
            lines += ["", "    def keys(self) -> tuple[str, ...]:"]
            lines += keys_lines(concerned, models[name]["properties"])
    for name in sorted(events):
        lines += class_lines(name, "Event", models, plain)
    lines += ["", "", "EVENTS: Final[tuple[type[Event], ...]] = ("]
    lines += [f"    {name}," for name in sorted(events)]
    lines += [")", '"""Every event that this version of Asterisk is known to send."""', ""]
    return "\n".join(lines)


# --- verbs.py --------------------------------------------------------------------------------------------------------


def result(verb: Verb) -> tuple[str, str, str]:
    """The type that is read from the answer, the type that the caller gets, and how one becomes the other."""
    listed = re.fullmatch(r"List\[(\w+)\]", verb.returns)
    name = listed[1] if listed else verb.returns
    if name == "void":
        return "type(None)", "None", "{}"
    model = f"tuple[events.{name}, ...]" if listed else f"events.{name}"
    if name not in BOUND:
        return model, model, "return {}"
    if listed:
        return model, f"tuple[Bound{name}, ...]", f"return tuple(Bound{name}.bound(m, self._verbs) for m in {{}})"
    return model, f"Bound{name}", f"return Bound{name}.bound({{}}, self._verbs)"


def verb_lines(verb: Verb) -> Iterator[str]:
    read, returns, handed = result(verb)
    yield ""
    yield from signature("    ", verb.name, verb.parameters, returns)
    yield from docstring("        ", asks(verb))
    path = re.sub(r"\{(\w+)\}", lambda m: f"{{segment({m[1]})}}", verb.path.removeprefix("/"))
    arguments = [
        json.dumps(verb.full_name),
        json.dumps(verb.method),
        f'f"{path}"' if "{" in path else f'"{path}"',
        query_expression(verb),
        body_expression(verb),
        f"blocking={verb.full_name in BLOCKING | LONG}",
        f"returns={read}",
    ]
    asked = f"await self._ask({', '.join(arguments)})"
    whole = f"        {handed.format(asked)}"
    if len(whole) <= WIDTH:
        yield whole
        return
    assigned = "await self._ask(" if returns == "None" else "answer = await self._ask("
    yield f"        {assigned}"
    yield from (f"            {argument}," for argument in arguments)
    yield "        )"
    if returns != "None":
        yield f"        {handed.format('answer')}"


def asks(verb: Verb) -> str:
    """What goes over the wire, and the statuses of a refusal."""
    refused = f" Refused with {', '.join(verb.errors)}." if verb.errors else ""
    return f"{verb.method} {verb.path}.{refused}"


def signature(indent: str, name: str, parameters: tuple[Parameter, ...], returns: str) -> Iterator[str]:
    declared = [p.declared for p in parameters]
    whole = f"{indent}async def {name}({', '.join(['self', *(['*'] if declared else []), *declared])}) -> {returns}:"
    if len(whole) <= WIDTH:
        yield whole
        return
    yield f"{indent}async def {name}("
    yield from (f"{indent}    {part}," for part in ["self", "*", *declared])
    yield f"{indent}) -> {returns}:"


def query_expression(verb: Verb) -> str:
    asked = [p for p in verb.parameters if p.where == "query"]
    if not asked:
        return "{}"
    parts = [f"{p.name}={p.python_name}" for p in asked if not keyword.iskeyword(p.name)]
    parts += [f'**{{"{p.name}": {p.python_name}}}' for p in asked if keyword.iskeyword(p.name)]
    whole = f"query({', '.join(parts)})"
    if len(whole) + 13 <= WIDTH:
        return whole
    return "query(\n" + "".join(f"                {part},\n" for part in parts) + "            )"


def body_expression(verb: Verb) -> str:
    for parameter in verb.parameters:
        if parameter.where == "body":
            # A `containers` body has its name inside; a plain `object` body is the thing itself.
            wrapped = f'{{"{parameter.name}": {parameter.name}}}' if parameter.name in BODIES else parameter.name
            return wrapped if parameter.required else f"None if {parameter.name} is None else {wrapped}"
    return "None"


def bound_lines(model: str, verbs: list[Verb]) -> Iterator[str]:
    resource, prefix, own_id = BOUND[model]
    name_field = IDENTITY[model][0]
    yield ""
    yield ""
    yield f"class Bound{model}(events.{model}, frozen=True, kw_only=True):"
    yield from docstring("    ", f"A {model} as it was when asked for, with its verbs.")
    yield ""
    yield "    verbs: Verbs"
    yield ""
    yield "    @classmethod"
    yield f"    def bound(cls, model: events.{model}, verbs: Verbs) -> Self:"
    yield "        return cls(**msgspec.structs.asdict(model), verbs=verbs)"
    yield ""
    yield "    def on_event(self, event_type: str, heard: Callable[[Self, Any], Any]) -> Subscription:"
    yield f'        """Call `heard(self, event)` for every such event of this {model}, until closed or gone."""'
    yield f"        return self.verbs.listen(self.{name_field}, event_type, lambda event: heard(self, event))"
    for verb in verbs:
        if verb.resource != resource or not verb.path.startswith(prefix + f"{{{own_id}}}"):
            continue
        if verb.name in CREATING:
            continue
        others = tuple(p for p in verb.parameters if p.name != own_id)
        _, returns, _ = result(verb)
        yield ""
        yield from signature("    ", verb.name, others, returns)
        yield from docstring("        ", asks(verb))
        passed = [f"{own_id}=self.{name_field}", *(f"{p.python_name}={p.python_name}" for p in others)]
        start = "await " if returns == "None" else "return await "
        whole = f"        {start}self.verbs.{resource}.{verb.name}({', '.join(passed)})"
        if len(whole) <= WIDTH:
            yield whole
        else:
            yield f"        {start}self.verbs.{resource}.{verb.name}("
            yield from (f"            {part}," for part in passed)
            yield "        )"


def verbs_module(description: Description) -> str:
    verbs = list(description.verbs())
    lines = [
        '"""What Asterisk can be asked: every verb of ARI, by ari-py\'s names.',
        "",
        *generated_note(description),
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "from collections.abc import Callable, Mapping, Sequence",
        "from typing import Any, Literal, Self",
        "",
        "import msgspec",
        "",
        "from ari_app.ari import events",
        "from ari_app.ari.resource import Ask, Listen, Resource, Subscription, query, segment",
    ]
    for values, name in ALIASES.items():
        lines += ["", f"{name} = Literal[", *(f"    {json.dumps(value)}," for value in values), "]"]
    for model in BOUND:
        lines += bound_lines(model, verbs)
    for resource in RESOURCES:
        title = resource[0].upper() + resource[1:]
        lines += ["", "", f"class {title}(Resource):", f'    """The verbs of `client.{resource}`."""']
        for verb in verbs:
            if verb.resource == resource:
                lines += verb_lines(verb)
    lines += ["", "", "class Verbs:", '    """Every resource of one Asterisk."""', ""]
    lines += ["    def __init__(self, ask: Ask, listen: Listen) -> None:", "        self.listen = listen"]
    lines += [f"        self.{r} = {r[0].upper() + r[1:]}(self, ask)" for r in RESOURCES]
    return "\n".join([*lines, ""])


def generated_note(description: Description) -> list[str]:
    return [
        "Generated by `python -m ari_app.ari.generate` from Asterisk's own description of ARI; do not edit.",
        f"Version of the description: {description.version}, sha256 {description.digest}.",
    ]


def rest_api_folder(root: Path) -> Path:
    for folder in (root / "usr/share/asterisk/rest-api", root / "var/lib/asterisk/rest-api", root):
        if (folder / "channels.json").is_file():
            return folder
    raise SystemExit(f"{root} holds no ARI description: give a root with an Asterisk in it, or its rest-api folder.")


def modules(root: Path) -> dict[Path, str]:
    """What each generated file should contain, given the Asterisk in `root`."""
    description = Description(rest_api_folder(root))
    return {HERE / "events.py": events_module(description), HERE / "verbs.py": verbs_module(description)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ari_app.ari.generate", description=__doc__.partition("\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    options = parser.parse_args(arguments)
    stale = False
    for path, content in modules(options.root).items():
        if not options.check:
            path.write_text(content, encoding="utf-8")
            continue
        now = path.read_text(encoding="utf-8")
        stale |= now != content
        sys.stdout.writelines(
            difflib.unified_diff(now.splitlines(True), content.splitlines(True), path.name, "generated", n=1)
        )
    return int(stale)


if __name__ == "__main__":
    raise SystemExit(main())
