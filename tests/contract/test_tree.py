"""Rules of the house that a reader of one file cannot see: import directions, one name on every floor, no dangerous calls."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(p for package in ("xecg", "benchecg") for p in (ROOT / package).rglob("*.py"))

# package → what it may import of xecg. `errors` is everyone's.
MAY_IMPORT = {
    "errors": set(),
    "ops": {"ops"},
    "signal": {"ops", "signal", "io", "_cpu"},
    "io": {"io", "signal"},
    "model": {"ops", "signal", "io", "model"},
    "stream": {"ops", "signal", "io", "model", "stream"},
    "pretrain": {"ops", "signal", "io", "model", "stream", "pretrain"},
    "__main__": {"cli"},
    "cli": {"ops", "signal", "io", "model", "stream", "pretrain", "cli", "_cpu", "_cuda"},
}
# io knows the types of signals and nothing that computes; signal's simulator writes archives through io.
IO_MAY_USE = {"xecg.signal", "xecg.signal.recording", "xecg.signal.leads", "xecg.signal.spec"}
LONG_FILES: dict[str, str] = {}


def imports(path: Path) -> list[str]:
    """Dotted names of everything a file imports, at any depth; `from a import b` counts as a.b for packages."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{a.name}" if node.module == "xecg" else node.module for a in node.names]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    for name in imports(path):
        to = name.split(".")
        if parts[0] == "xecg" and to[0] == "benchecg":
            assert parts[1] == "cli", f"{path} imports {name}: only xecg.cli may"
        if to[0] != "xecg" or len(to) == 1 or len(parts) < 2 or parts[1] == "__init__":
            continue
        if parts[0] == "benchecg":
            assert not any(p.startswith("_") for p in to), f"{path} imports the private {name}"
        else:
            allowed = MAY_IMPORT[parts[1]] | {"errors", "__version__"}
            assert to[1] in allowed, f"{path} imports {name}: {parts[1]} may import {sorted(allowed)}"
            if parts[1] == "io" and to[1] == "signal":
                assert name in IO_MAY_USE, f"{path} imports {name}: io uses signal's types only"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_pickle_eval_or_network(path: Path) -> None:
    forbidden = {"pickle", "shelve", "marshal", "requests"}
    if path.parts[-3:] != (
        "xecg",
        "stream",
        "server.py",
    ):  # live streams come over a local socket; it listens, nothing is called
        forbidden |= {"socket", "selectors", "asyncio", "socketserver"}
    if path.parts[-2:] != ("benchecg", "fetch.py"):  # `benchecg prepare` is the one place that downloads
        forbidden |= {"urllib", "http"}
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & forbidden
    called = {
        n.func.id
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert not called & {"eval", "exec", "__import__"}


def test_no_file_grows_beyond_600_lines_without_a_reason() -> None:
    for path in [*SOURCES, *(ROOT / "csrc").rglob("*.[hc]*"), *(ROOT / "tests").rglob("*.py")]:
        if path.suffix in (".py", ".h", ".cpp", ".cu", ".cuh") and str(path.relative_to(ROOT)) not in LONG_FILES:
            assert len(path.read_text().splitlines()) <= 600, f"{path}: split it, or give the reason in LONG_FILES"


def test_an_op_has_one_name_on_every_floor() -> None:
    from xecg.ops._dispatch import OPS

    for file in set(OPS.values()):
        assert (ROOT / "xecg/ops" / f"{file}.py").exists()
        assert (ROOT / "xecg/ops/reference" / f"{file}.py").exists()
        assert list((ROOT / "tests/ops").glob(f"test_{file}*.py")), f"tests/ops/test_{file}.py is missing"
        for floor, suffix in (("cpu", "h"), ("cuda", "cu")):
            if (ROOT / "xecg/ops" / floor / f"{file}.py").exists():
                assert (ROOT / "csrc" / floor / f"{file}.{suffix}").exists()


def test_every_public_module_lists_its_names() -> None:
    for path in SOURCES:
        if any(part.startswith("_") and part != "__init__.py" for part in path.relative_to(ROOT).parts):
            continue
        tree = ast.parse(path.read_text())
        defines = any(isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_") for n in tree.body)
        names = {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
        assert "__all__" in names or not defines, f"{path} has public names but no __all__"


def test_importing_xecg_and_its_help_load_no_heavy_library() -> None:
    heavy = "{'torch', 'numpy', 'scipy', 'pandas', 'sklearn', 'pyarrow', 'wfdb', 'matplotlib'}"
    for statement in ("import xecg", "import xecg.cli", "import benchecg.cli"):
        code = f"import sys; {statement}; print(sorted(sys.modules.keys() & {heavy}))"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]", f"{statement} loads {done.stdout}"
