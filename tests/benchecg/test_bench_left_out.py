"""Tasks without data stand in the result folder and in the report: what is missing, where it is, who may have it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchecg.cli import main
from benchecg.left_out import LeftOut, left_out, read_left_out, write_left_out
from benchecg.report.absent import absent_lines, absent_tasks
from benchecg.tasks import load_task, task_ids
from xecg.errors import DataMissing, ReadError


def entry(**changes: str) -> LeftOut:
    facts = dict.fromkeys(LeftOut.__dataclass_fields__, "x") | {"task": "age-mimic", "suite": "T8"} | changes
    return LeftOut(**facts)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, small_mitdb: Path) -> Path:
    out = tmp_path_factory.mktemp("runs")
    arguments = [
        "run",
        "--suite",
        "open",
        "-m",
        "majority",
        "--data",
        str(small_mitdb),
        "-o",
        str(out),
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code in (0, 3), done.output
    return out


def test_an_open_suite_writes_every_other_real_task_with_its_source(runs: Path, small_mitdb: Path) -> None:
    found = {t.task: t for t in read_left_out(runs)}
    ran = {p.name for p in runs.iterdir() if p.is_dir() and not p.name.startswith(".")}
    real = {i for i in task_ids() if not load_task(i).synthetic}
    assert found.keys() == real - ran and "mitbih-beats" in ran and len(found) > 10
    for name, t in found.items():
        dataset = load_task(name).dataset
        assert (t.dataset, t.licence, t.access, t.url) == (dataset.name, dataset.licence, dataset.access, dataset.url)
        assert str(small_mitdb) not in json.dumps(t.__dict__) and t.missing
    assert "missing" in found["ptbxl-superclass"].missing and "DATA/ptb-xl" in found["ptbxl-superclass"].missing
    assert found["blood-tests"].missing == f"not asked: access is {load_task('blood-tests').dataset.access}"


def test_the_page_and_the_markdown_list_them(runs: Path, tmp_path: Path) -> None:
    for name in ("page.html", "table.md", "table.tex"):
        assert CliRunner().invoke(main, ["report", str(runs), "-o", str(tmp_path / name)]).exit_code == 0
    page, text = (tmp_path / "page.html").read_text(), (tmp_path / "table.md").read_text()
    for t in read_left_out(runs):
        assert t.dataset in text and t.url in text and t.access in text
        first = t.url.split()[0].rstrip(",")
        assert f'<a href="{first}">' in page
    assert '<section id="left-out">' in page and "DATA/ptb-xl" in page and "DATA/ptb-xl" in text


def test_a_task_that_has_results_by_now_is_not_left_out(tmp_path: Path) -> None:
    write_left_out(tmp_path, [entry(), entry(task="survival")])
    assert [t.task for t in read_left_out(tmp_path, scored={"age-mimic"})] == ["survival"]
    assert read_left_out(tmp_path / "nothing") == []


@pytest.mark.parametrize(
    "change",
    [lambda c: c.update(format="other/1"), lambda c: c["tasks"][0].pop("licence"), lambda c: c["tasks"][0].update(more="1"),
     lambda c: c["tasks"][0].update(size=3), lambda c: c.update(tasks={})],
)  # fmt: skip
def test_a_file_of_another_shape_is_refused(tmp_path: Path, change) -> None:
    path = write_left_out(tmp_path, [entry()])
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ReadError):
        read_left_out(tmp_path)
    path.write_text("{")
    with pytest.raises(ReadError, match="unreadable"):
        read_left_out(tmp_path)


def test_what_a_file_says_is_text_on_the_page() -> None:
    odd = entry(title="<b>|", missing="a\nb", url="javascript:1")
    page = absent_tasks([odd])
    assert "&lt;b&gt;" in page and "<b>" not in page and "<a href" not in page
    lines = absent_lines([odd])
    assert len(lines) == 6 and "<b>\\| (T8)" in lines[-2] and "a b" in lines[-2]
    assert absent_tasks([]) == "" and absent_lines([]) == []


def test_the_sentence_names_files_and_no_folder_of_this_machine() -> None:
    task = load_task("ptbxl-superclass")
    with pytest.raises(DataMissing) as caught:
        task.dataset.find(Path("/nowhere/data"), "a.csv")
    said = left_out(task, caught.value, Path("/nowhere/data"))
    assert "/nowhere" not in said.missing and said.missing.startswith("PTB-XL") and said.missing.endswith("is missing")
