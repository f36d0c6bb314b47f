"""An OpenAI-compatible server: one question at a time, asked again until it is answered."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from harness.engines.base import OpenAISettings
from harness.engines.pacing import Gate, backoff_s, retry_after_s
from harness.errors import WorkerError
from harness.types import JSON

T = TypeVar("T")

LONGEST_PAUSE_S = 300.0
"""A server that wants a longer pause is left alone: the run goes on when it is started again."""

MOST_TIMEOUTS = 3
"""Of one request: a server that hangs is not waited for as often as one that answers."""

_BUSY = {429, 503, 529}  # 529: how Anthropic says 503
_PASSING = {408, 409, 425, *_BUSY, *range(500, 600)} - {501, 505}
_SAID_CHARACTERS = 300


class AttemptError(Exception):
    """Why an attempt gave no answer.

    cause: label fit for SQL. again: whether another attempt may do better. fatal: whether no other
    request can do better either. pause_s: how long the server wants to be left alone. busy: whether
    fewer requests at once may help. status: of the answer, 0 where there was none.
    """

    def __init__(
        self,
        message: str,
        cause: str,
        *,
        again: bool = True,
        fatal: bool = False,
        busy: bool = False,
        pause_s: float | None = None,
        status: int = 0,
    ) -> None:
        super().__init__(message)
        self.message, self.cause, self.status = message, cause, status
        self.again, self.fatal, self.busy, self.pause_s = again, fatal, busy, pause_s


class BadAnswerError(ValueError):
    """An answer of status 200 that does not hold what it should."""


class Server:
    """Talks to one server. The key is read from the environment and never leaves this object."""

    def __init__(self, base_url: str, key_variable: str | None, settings: OpenAISettings) -> None:
        self.base_url = base_url.rstrip("/")
        self.gate = Gate(settings.concurrency)
        self.attempts = 0
        self._retries = settings.retries
        self._timeout_s = settings.timeout_s
        self._key = os.environ.get(key_variable, "") if key_variable else ""
        self._client: aiohttp.ClientSession | None = None

    def _connected(self) -> aiohttp.ClientSession:
        """aiohttp and not httpx, which takes three times the processor time for a request."""
        if self._client is None:
            headers = {"Content-Type": "application/json"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._client = aiohttp.ClientSession(
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                connector=aiohttp.TCPConnector(limit=0),  # the gate limits
                cookie_jar=aiohttp.DummyCookieJar(),
                proxy=_proxy(self.base_url),
            )
        return self._client

    async def close(self) -> None:
        """Closes its connections; the next question opens others."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def ask(
        self, path: str, body: JSON, read: Callable[[JSON], T], retries: int | None = None
    ) -> T:
        """What `read` makes of the answer. Raises AttemptError when all attempts have failed.

        retries: fewer than the settings say, where the answer is not worth the wait.
        """
        content = json.dumps(body).encode()
        most = self._retries if retries is None else min(retries, self._retries)
        failed = 0
        while True:
            try:
                async with self.gate:
                    return await self._attempt("POST", path, content, read)
            except AttemptError as trouble:
                failed += 1
                await self._wait(trouble, failed, most)

    async def look_up(self, path: str, retries: int) -> JSON:
        """The JSON object at a path; a path that begins with `/` counts from the server's root."""
        failed = 0
        while True:
            try:
                return await self._attempt("GET", path, None, _as_object)
            except AttemptError as trouble:
                failed += 1
                await self._wait(trouble, failed, retries)

    async def _wait(self, trouble: AttemptError, failed: int, retries: int) -> None:
        """Until the next attempt may begin. Raises the trouble where there is to be none."""
        if (trouble.pause_s or 0.0) > LONGEST_PAUSE_S:
            raise AttemptError(
                f"{trouble.message}; it asks for {trouble.pause_s:.0f} s of rest",
                trouble.cause,
                again=False,
                fatal=True,
            )
        if trouble.cause == "server_slow":
            retries = min(retries, MOST_TIMEOUTS - 1)
        if failed > retries or not trouble.again:
            raise trouble
        if trouble.pause_s is not None:
            self.gate.close_for(trouble.pause_s)
        await asyncio.sleep((trouble.pause_s or 0.0) + backoff_s(failed))

    async def _attempt(
        self, method: str, path: str, content: bytes | None, read: Callable[[JSON], T]
    ) -> T:
        sent_at = time.monotonic()
        self.attempts += 1
        try:
            answer = read(await self._exchange(method, path, content))
        except AttemptError as trouble:
            if trouble.busy:
                self.gate.overloaded(sent_at)
            raise
        except (BadAnswerError, KeyError, IndexError, TypeError, ValueError) as error:
            what = str(error) if isinstance(error, BadAnswerError) else repr(error)
            message = f"the answer is not what the interface promises: {what}"
            raise AttemptError(self._safe(message), "server_error") from None
        if time.monotonic() - sent_at > self._timeout_s / 2:
            self.gate.overloaded(sent_at)  # before answers come too late to count
        else:
            self.gate.answered()
        return answer

    async def _exchange(self, method: str, path: str, content: bytes | None) -> JSON:
        client = self._connected()
        try:
            async with client.request(
                method, self._url(path), data=content, allow_redirects=False
            ) as response:
                status, headers, data = response.status, response.headers, await response.read()
        except TimeoutError:
            message = f"no answer within {self._timeout_s:g} s"
            raise AttemptError(message, "server_slow", busy=True) from None
        except aiohttp.ClientConnectorError as error:
            message = f"it cannot be reached ({self._safe(str(error))})"
            raise AttemptError(message, "server_unreachable") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            message = f"the connection was cut ({type(error).__name__})"
            raise AttemptError(message, "server_error") from None
        if status != 200:
            raise self._refusal(status, headers, data.decode("utf-8", errors="replace"))
        try:
            return _as_object(json.loads(data))
        except (ValueError, BadAnswerError):
            raise AttemptError("the answer is not JSON", "server_error") from None

    def _url(self, path: str) -> str:
        if not path.startswith("/"):
            return f"{self.base_url}/{path}"
        return urlsplit(self.base_url)._replace(path=path).geturl()

    def _refusal(self, status: int, headers: Mapping[str, str], text: str) -> AttemptError:
        said = self._said(text)
        message = f"HTTP {status}" + (f": {said}" if said else "")
        if status in (401, 403):
            return AttemptError(message, "bad_api_key", again=False, fatal=True, status=status)
        if status == 429 and "insufficient_quota" in text:
            return AttemptError(message, "server_busy", again=False, fatal=True, status=status)
        if status in _PASSING:
            pause = retry_after_s(headers.get("Retry-After"))
            cause = "server_busy" if status in _BUSY else "server_error"
            return AttemptError(message, cause, busy=status in _BUSY, pause_s=pause, status=status)
        if status == 400 and "context length" in said:
            return AttemptError(message, "context_length", again=False, status=status)
        fatal = status not in (400, 413, 422)
        return AttemptError(message, "bad_request", again=False, fatal=fatal, status=status)

    def _said(self, text: str) -> str:
        """The server's own words in one line, without the key."""
        try:
            value: Any = json.loads(text)
        except ValueError:
            value = re.sub(r"<[^>]*>", " ", text)
        for key in ("error", "message", "detail"):
            value = value.get(key, value) if isinstance(value, dict) else value
        said = value if isinstance(value, str) else json.dumps(value)
        return self._safe(" ".join(said.split()))[:_SAID_CHARACTERS]

    def _safe(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text

    def explained(self, trouble: AttemptError) -> WorkerError:
        """The trouble as a sentence about this server, with what can be done."""
        message = f"the server at `{self.base_url}`: {trouble.message}"
        return WorkerError(message, _HINTS.get(trouble.cause, _LATER), cause=trouble.cause)


def _proxy(base_url: str) -> str | None:
    """From HTTPS_PROXY, HTTP_PROXY and NO_PROXY. aiohttp's own `trust_env` would look into ~/.netrc
    too, for every request, and send what it finds there."""
    parts = urlsplit(base_url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def _as_object(value: Any) -> JSON:
    if not isinstance(value, dict):
        raise BadAnswerError(f"{type(value).__name__} in place of an object")
    return value


_LATER = "the same command goes on where it stopped"
_HINTS = {
    "server_unreachable": "start it, or correct `base_url`; then the same command goes on",
    "server_busy": "use a lower `--set concurrency=`, or wait; the same command goes on",
    "server_slow": "use a higher `--set timeout_s=` or a lower `--set concurrency=`;"
    " the same command goes on",
    "bad_api_key": "`export` the key and name its variable: `--set api_key_env=NAME`",
    "bad_request": "check `base_url` (it mostly ends in /v1), the model and the sampling options",
    "context_length": "use fewer `--shots`, fewer `--max-tokens`, or a model with a longer context",
}
