"""Answers for the mock engine that end the process that asks for one of them."""

from __future__ import annotations

import os

from harness.types import Request


def deadly(request: Request, index: int) -> str:
    if request.id.endswith("q007"):
        os._exit(1)
    return "fine"
