"""Trains in several folders one after the other: `python -m tests.several_trainings FOLDER…`.

A process takes ten seconds to load torch and TRL, and the trainings of a test one each.
"""

from __future__ import annotations

import gc
import importlib
import sys
from pathlib import Path

from accelerate.state import AcceleratorState

from harness.trainer import read_recipe
from trainers.running import leave


def main(folders: list[str]) -> None:
    for folder in map(Path, folders):
        importlib.import_module(f"trainers.{read_recipe(folder).method}").main(folder)
        # The next training may bring another configuration of DeepSpeed.
        AcceleratorState._reset_state(reset_partial_state=False)
        gc.collect()


if __name__ == "__main__":
    main(sys.argv[1:])
    leave()
