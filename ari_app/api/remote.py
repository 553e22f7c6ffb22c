"""The API as the command line asks it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy.orm import Session

from ari_app import store
from ari_app.api.access import Role, new_token
from ari_app.errors import SanlingError
from ari_app.settings import PROJECT, Settings

WITHIN_S = 6.0
"""A little longer than the API itself waits for the controller."""
UNKNOWN_TOKEN = 401
UNKNOWN_GIVEN = (
    "The token in SANLING_API_TOKEN is not known here, or it is revoked: `sanling token new ROLE` makes another; "
    "without SANLING_API_TOKEN the command line uses its own."
)
SILENT_S = 25.0
"""A stream says something every 10 s."""


class NoAnswer(SanlingError):
    """The hotline does not run, or its API's port is taken."""


class Refused(SanlingError):
    """The API's own words."""


class Remote:
    """Asks the API of the instance that `settings` name. Every method raises NoAnswer and Refused."""

    def __init__(
        self, settings: Settings, token: str, transport: httpx.BaseTransport | None = None, *, unknown: str = ""
    ) -> None:
        """`unknown`: what to do if nobody knows the token."""
        self._unknown = unknown
        self._url = f"http://{settings.control_address}:{settings.api_port}"
        self._client = httpx.Client(
            base_url=f"{self._url}/v1", timeout=WITHIN_S, transport=transport, trust_env=False,
            headers={"Authorization": f"Bearer {token}"},
        )  # fmt: skip

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, params=query)

    def post(self, path: str, **body: Any) -> Any:
        return self._ask("POST", path, json=body)

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", path)

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What happens from now on: kind and data, until the stream ends."""
        try:
            with self._client.stream("GET", "/events", timeout=httpx.Timeout(WITHIN_S, read=SILENT_S)) as answer:
                if answer.is_error:
                    answer.read()
                    raise self._refused(answer)
                kind = ""
                for line in answer.iter_lines():
                    name, _, value = line.partition(": ")
                    if name == "event":
                        kind = value
                    elif name == "data":
                        yield kind, json.loads(value)
        except httpx.HTTPError as error:
            raise self._no_answer() from error

    def close(self) -> None:
        self._client.close()

    def _ask(self, method: str, path: str, **how: Any) -> Any:
        try:
            answer = self._client.request(method, path, **how)
        except httpx.HTTPError as error:
            raise self._no_answer() from error
        if answer.is_error:
            raise self._refused(answer)
        return answer.json() if answer.content else None

    def _no_answer(self) -> NoAnswer:
        return NoAnswer(f"The hotline does not answer at {self._url}: start it with `make run`.")

    def _refused(self, answer: httpx.Response) -> Refused:
        try:
            problem = answer.json()
            said = " ".join([problem["detail"], *problem["errors"]])
            if answer.status_code == UNKNOWN_TOKEN and self._unknown:
                said = self._unknown
        except (ValueError, KeyError, TypeError):
            said = f"Who answers at {self._url} is not the hotline's API ({answer.status_code})."
        return Refused(said)


def connect(settings: Settings, transport: httpx.BaseTransport | None = None) -> Remote:
    """With the token of `settings`, else the command line's own. Raises SanlingError."""
    if settings.api_token:
        return Remote(settings, settings.api_token, transport, unknown=UNKNOWN_GIVEN)
    file = token_file(settings)
    shown = file.relative_to(PROJECT) if file.is_relative_to(PROJECT) else file
    unknown = f"The token in {shown} is not known here: remove that file, a new one is made."
    return Remote(settings, own_token(settings), transport, unknown=unknown)


def token_file(settings: Settings) -> Path:
    return settings.run_dir / "cli.token"


def own_token(settings: Settings) -> str:
    """The command line's token, a leader's: whoever can read the instance's folder may do everything anyway. Made when
    it is first needed; ``sanling token revoke`` and removing the file make a new one.
    """
    file = token_file(settings)
    try:
        return file.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SanlingError(f"{file} cannot be read: {error.strerror}. Put a token into SANLING_API_TOKEN.") from error
    if not settings.run_dir.is_dir():
        raise NoAnswer(f"There is no instance {settings.instance} yet: run `make run` or `sanling setup` first.")
    engine = store.open_engine(settings.database)
    try:
        store.check_version(engine)
        with store.session(engine) as session:
            token = _make(session)
    finally:
        engine.dispose()
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as out:
        out.write(token + "\n")
    return token


def _make(session: Session) -> str:
    return new_token(session, Role.LEADER, None, "the command line's own", time.time())[0]
