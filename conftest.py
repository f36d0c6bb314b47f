"""What pytest must not import where a package that it needs is missing."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("vllm") else ["harness/engines/vllm*.py"]
