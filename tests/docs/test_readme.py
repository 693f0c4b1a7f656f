"""README and docs are true: their figures are those of the result files, the Python of README runs, names exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bench.readme import PAGES, README, rendered
from benchecg.models import load_adapter
from benchecg.running import load_data, run
from benchecg.validation import validate_adapter

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_figures_are_those_of_the_result_files(page: Path) -> None:
    text = page.read_text()
    assert rendered(text) == text, "run `python -m bench readme`"


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))])
def test_files_that_a_page_names_exist(page: str) -> None:
    for name in re.findall(
        r"`((?:docs|csrc|xecg|benchecg|bench|tests|examples|requirements)/[\w./-]+)`", (ROOT / page).read_text()
    ):
        assert (ROOT / name).exists() or name in ("bench/results/cpu.json",), f"{page} names {name}"


def test_the_ten_lines_run() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert tuple(names["tokens"].shape) == (1, 40, 128)
    assert tuple(names["vector"].shape) == (1, 128)


def test_make_targets_that_readme_names_exist() -> None:
    made = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", README.read_text()):
        assert re.search(rf"^[\w -]*\b{target}\b[\w -]*:", made, re.MULTILINE), target


def test_nothing_speaks_of_a_machine_or_an_index() -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile", ROOT / "pyproject.toml"]:
        text = path.read_text()
        assert not re.search(r"/(home|root|work|Users)/\w", text), path
        assert "index-url" not in text and "pypi-more" not in text, path


def _of_page(page: str, heading: str) -> dict:
    section = (ROOT / "docs" / page).read_text().split(f"## {heading}")[1]
    names: dict = {"__name__": page}
    exec(compile(re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0], page, "exec"), names)
    return names


def test_the_model_of_the_models_page_keeps_the_contract() -> None:
    model = _of_page("MODELS.md", "Your own model")["MeanStd"]()
    assert [c for c in validate_adapter(model, long_s=30) if not c.passed] == []


def test_the_task_of_the_task_page_gives_a_score(tmp_path: Path) -> None:
    task = _of_page("ADDING_A_TASK.md", "A whole task")["TASK"]
    folder = tmp_path / "data" / "fast-rate"
    folder.mkdir(parents=True)
    t, lines = np.arange(200) / 100, ["id,patient,fast"]
    for i in range(140):
        lines.append(f"r{i},p{i // 2},{i % 2}")
        rows = "".join(f"{a:.2f},{b:.3f}\n" for a, b in zip(t, np.sin((8 + 12 * (i % 2)) * t)))
        (folder / f"r{i}.csv").write_text("time_s,II (mV)\n" + rows)
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    loaded = load_data(task, tmp_path / "data")
    assert run(loaded, load_adapter("majority"), out=tmp_path / "runs").headline["value"] == 0.5
