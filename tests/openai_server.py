"""An OpenAI-compatible server in a thread, which answers or misbehaves as a test wants."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from harness.types import JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """body: JSON, or text that goes out as it is. cut: the connection ends in the middle of it."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request as it came."""

    path: str
    body: JSON
    headers: dict[str, str]
    at: float


Handler = Callable[[Seen], Reply]


def models(*names: str, **card: Any) -> Reply:
    return Reply(body={"data": [{"id": name, "object": "model", **card} for name in names]})


def completion(text: Any, finish: str = "stop", **choice: Any) -> Reply:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    one = {"index": 0, "text": text, "finish_reason": finish, **choice}
    return Reply(body={"choices": [one], "usage": usage})


def message(text: Any, finish: str = "stop", **parts: Any) -> Reply:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    said = {"role": "assistant", "content": text, **parts}
    one = {"index": 0, "message": said, "finish_reason": finish}
    return Reply(body={"choices": [one], "usage": usage})


def error(status: int, text: str = "no", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, body={"error": {"message": text}}, headers=named)


class OpenAIServer:
    """Serves while the `with` block runs; `handler` may be exchanged meanwhile.

    The list of models comes from `models`, unless the handler answers for it itself.
    """

    def __init__(self, handler: Handler, *, models: Reply | None = None) -> None:
        self.handler = handler
        self.models = models
        self.seen: list[Seen] = []
        self.most_at_once = 0
        self._at_once = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def asked(self) -> list[Seen]:
        """What was to be answered: neither look-ups nor trials of what the server can do."""
        return [one for one in self.seen if one.body and not is_trial(one)]

    def __enter__(self) -> OpenAIServer:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (seen := await _read(reader)) is not None:
                if not await self._answer(seen, writer):
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        self.seen.append(seen)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            listed = self.models if seen.path.endswith("/models") else None
            reply = listed or self.handler(seen)
            await asyncio.sleep(reply.delay_s)
        finally:
            self._at_once -= 1
        text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        data = text.encode()
        head = [f"HTTP/1.1 {reply.status} X", f"Content-Length: {len(data)}"]
        head += [f"{name}: {value}" for name, value in reply.headers.items()]
        sent = "\r\n".join(head).encode() + b"\r\n\r\n" + data
        writer.write(sent[: -len(data) // 2] if reply.cut else sent)
        await writer.drain()
        return not reply.cut


async def _read(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    pairs = (line.partition(": ") for line in head[1:] if line)
    headers = {name.lower(): value for name, _, value in pairs}
    data = await reader.readexactly(int(headers.get("content-length", 0)))
    body = json.loads(data) if data else {}
    return Seen(path=head[0].split()[1], body=body, headers=headers, at=time.monotonic())


def is_trial(seen: Seen) -> bool:
    return seen.body.get("prompt") == "a" or seen.body.get("messages") == [
        {"role": "user", "content": "a"}
    ]
