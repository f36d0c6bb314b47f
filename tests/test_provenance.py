"""What a run notes about where it comes from."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness import runs

LATE = """
import time
time.sleep(1.5)
from harness.session import STARTED
print(STARTED)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the age of a process is asked of /proc")
def test_an_evaluation_began_with_its_process_however_late_it_imports_the_rest() -> None:
    before = runs.ago(0.05)  # the system counts hundredths of a second
    said = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=True)
    assert before <= said.stdout.strip() < runs.ago(1.5)
