"""How fast a server is asked, and what a server that fails costs.

    python -m benchmarks.openai_engine

A server in another process answers every request after 50 ms. Engine `openai` asks it 1,000
questions, 64 at a time, several times: an honest server, and one where a tenth of all attempts
fails at random (rate limit, error, cut connection, torn JSON). The least time that could be is that
of the latency alone. A conversation of 2,000 characters is asked, for 64 tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import subprocess
import sys
import time

from benchmarks.record import record
from harness.engines.base import OpenAISettings
from harness.engines.openai import OpenAIEngine
from harness.types import Message, ModelSpec, Request, SamplingParams

QUESTIONS, CONCURRENCY, LATENCY_S, FAILING, REPEATS = 1000, 64, 0.05, 0.1, 5
ANSWER = "The answer follows from the text above. " * 8 + "#### 4"


def reply(draw: float) -> tuple[str, bytes]:
    """Status and body; draw: below FAILING one of four ways to fail."""
    choice = {"message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 500, "completion_tokens": 64}
    whole = json.dumps({"choices": [choice], "usage": usage}).encode()
    if draw >= FAILING:
        return "200 OK", whole
    way = int(draw / FAILING * 4)
    torn, error = whole[: len(whole) // 2], b'{"error": {"message": "no"}}'
    ways = [("429 Busy", error), ("500 Broken", error), ("", whole), ("200 OK", torn)]
    return ways[way]


async def serve(failing: bool) -> None:
    draws = random.Random(0)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode().lower():
                length = head.partition("content-length: ")[2].split("\r\n")[0]
                await reader.readexactly(int(length or 0))
                listing = head.startswith("get")
                status, body = reply(1.0 if listing or not failing else draws.random())
                if listing:
                    body = b'{"data": [{"id": "m"}]}'
                else:
                    await asyncio.sleep(LATENCY_S)
                if not status:
                    break
                answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                writer.write(answer + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def ask(base_url: str) -> dict[str, float]:
    turns = (Message(role="user", content="What follows from this? " * 83),)
    sampling = SamplingParams(max_tokens=64)
    requests = [
        Request(id=f"q{n}", kind="generate", prompt=turns, sampling=sampling)
        for n in range(QUESTIONS)
    ]
    model = ModelSpec(name="m", path="m", base_url=base_url)
    engine = OpenAIEngine(model, OpenAISettings(concurrency=CONCURRENCY))
    engine.tokenize(requests)
    engine.load()
    began, began_cpu = time.perf_counter(), time.process_time()
    answered = [one.request_id for one in engine.run(requests) if one.text == ANSWER]
    assert len(set(answered)) == len(answered), "an answer came twice"
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - began_cpu,
        "answered": len(answered),
        "attempts": engine.stats()["attempts"],
    }


def measured(*, failing: bool) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.openai_engine", "--serve"]
    command += ["--failing"] if failing else []
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        url = f"http://127.0.0.1:{int(child.stdout.readline())}/v1"
        runs = [ask(url) for _ in range(REPEATS)]
    finally:
        child.kill()
        child.wait()
    return {
        "median_s": round(statistics.median(run["seconds"] for run in runs), 3),
        "least_s": round(min(run["seconds"] for run in runs), 3),
        "cpu_s": round(statistics.median(run["cpu_seconds"] for run in runs), 3),
        "answered": [run["answered"] for run in runs],
        "attempts": [run["attempts"] for run in runs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and patience of engine openai.")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--failing", action="store_true")
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve(arguments.failing))
        return
    floor = math.ceil(QUESTIONS / CONCURRENCY) * LATENCY_S
    figures = {
        "questions": QUESTIONS,
        "concurrency": CONCURRENCY,
        "latency_alone_s": floor,
        "honest": measured(failing=False),
        "a_tenth_fails": measured(failing=True),
    }
    record("openai_engine", figures)


if __name__ == "__main__":
    main()
