"""`xecg doctor`: what this installation can do, and what to do about what it cannot."""

from __future__ import annotations

import platform
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from xecg.cli._common import print_json, printable

__all__ = ["command"]

_PACKAGES = ("xecg", "torch", "numpy", "scipy", "pyarrow", "safetensors", "wfdb", "scikit-learn", "triton")
_EXTRAS = {
    "formats": ("h5py", "pydicom", "edfio"),
    "xml": ("ecgdatakit", "defusedxml"),
    "plot": ("matplotlib",),
}
_OPS = ("mlstm", "slstm", "causal_conv1d", "linear", "gated", "norm")


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, as_json: bool) -> None:
    """Show versions, compiled modules, processor level, GPUs and the backends of every op, and what to do next."""
    facts = examine()
    if as_json:
        print_json(facts)
    else:
        click.echo(_text(facts))


def examine() -> dict[str, Any]:
    """The facts of this installation as JSON types. Never raises: what is broken is a fact with its reason."""
    facts: dict[str, Any] = {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "extras": {extra: [n for n in names if _version(n) is None] for extra, names in _EXTRAS.items()},
        "torch_threads": None,
        "cuda": {"torch_cuda": None, "devices": []},
    }
    try:
        import torch

        facts["torch_threads"] = torch.get_num_threads()
        devices = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        facts["cuda"] = {"torch_cuda": torch.version.cuda, "devices": devices}
    except Exception as error:
        facts["cuda"]["error"] = _reason(error)
    facts["modules"] = {"xecg._cpu": _cpu_module(), "xecg._cuda": _module("xecg._cuda")[1]}
    facts["backends"] = _backends(["cpu", *(["cuda"] if facts["cuda"]["devices"] else [])])
    facts["next"] = _advice(facts)
    return facts


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _reason(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {error}")


def _module(name: str) -> tuple[Any, dict[str, Any]]:
    try:
        return import_module(name), {"present": True, "reason": None}
    except Exception as error:  # a compiled module can fail in the loader's words as well as Python's
        return None, {"present": False, "reason": _reason(error)}


def _cpu_module() -> dict[str, Any]:
    module, facts = _module("xecg._cpu")
    if module is not None:
        for key, name in (("isa", "isa"), ("isa_available", "isa_levels"), ("threads", "num_threads")):
            try:
                facts[key] = getattr(module, name)()
            except Exception as error:
                facts[key], facts["reason"] = None, _reason(error)
    return facts


def _backends(devices: list[str]) -> dict[str, Any]:
    """Per op and device: backend name to None (it serves the op) or the reason why not; text where even asking failed."""
    listed: dict[str, Any] = {}
    for op in _OPS:
        for device in devices:
            try:
                from xecg import ops

                told = ops.backends(op, device)
                listed[f"{op} on {device}"] = {name: printable(reason) or None for name, reason in told.items()}
            except Exception as error:
                listed[f"{op} on {device}"] = _reason(error)
    return listed


def _advice(facts: dict[str, Any]) -> list[str]:
    advice = []
    if facts["packages"]["torch"] is None:
        advice.append("torch is missing: pip install xecg again")
    if not facts["modules"]["xecg._cpu"]["present"]:
        advice.append(
            "the compiled CPU kernels are missing, everything runs on the slow reference code: "
            "install a C++17 compiler, then run pip install -v . in the source folder and read its messages"
        )
    if facts["cuda"]["devices"] and not facts["modules"]["xecg._cuda"]["present"]:
        advice.append("a GPU is here but the CUDA kernels are not: build with nvcc on PATH (pip install -v .)")
    if any(isinstance(told, str) for told in facts["backends"].values()):
        advice.append(
            "some ops fail to load: the compiled modules may be of another version, run pip install -v . again"
        )
    advice += [
        f"pip install 'xecg[{extra}]' brings {', '.join(missing)}"
        for extra, missing in facts["extras"].items()
        if missing
    ]
    return advice or ["nothing: everything is here"]


def _text(facts: dict[str, Any]) -> str:
    cpu = facts["modules"]["xecg._cpu"]
    lines = [f"python      {facts['python']} on {facts['platform']}"]
    lines += [f"{name:11} {found or 'not installed'}" for name, found in facts["packages"].items()]
    lines.append(f"threads     torch {facts['torch_threads']}, kernels {cpu.get('threads', '-')}")
    for name, module in facts["modules"].items():
        lines.append(f"{name:11} {'present' if module['present'] else 'absent: ' + str(module['reason'])}")
    if cpu["present"]:
        lines.append(f"ISA level   {cpu.get('isa')} in use, available: {' '.join(cpu.get('isa_available') or [])}")
    devices = facts["cuda"]["devices"]
    lines.append(f"CUDA        torch built for {facts['cuda']['torch_cuda'] or 'no CUDA'}, {len(devices)} devices")
    lines += [f"            {device}" for device in devices]
    lines.append("backends")
    for op, entry in facts["backends"].items():
        told = entry if isinstance(entry, str) else "; ".join(f"{b}: {r or 'yes'}" for b, r in entry.items())
        lines.append(f"  {op:22} {told}")
    lines.append("what to do next")
    lines += [f"  {text}" for text in facts["next"]]
    return "\n".join(lines)
