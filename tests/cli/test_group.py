"""Promises of the command line as a whole: exit codes, one-line errors, no heavy import for help."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import xecg.cli as cli
from xecg.errors import ReadError

HEAVY = ("torch", "numpy", "scipy", "pyarrow", "matplotlib", "sklearn", "wfdb", "rich", "xecg.model", "xecg.signal")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Installs a function as the body of the command `embed`."""

    def install(body: Callable[[], None]) -> None:
        command = click.Command("embed", callback=body)
        monkeypatch.setattr(cli, "import_module", lambda name: type("Module", (), {"command": command}))

    return install


def run(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.main, list(args))
    return result.exit_code, result.stdout, result.stderr


def fail_with(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize("args", [["--help"], ["embed", "--help"], ["doctor", "--help"], []])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys\nfrom xecg.cli import main\n"
        f"try:\n    main({args!r}, prog_name='xecg')\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["LOADED"]
    assert "Usage: xecg" in done.stdout + done.stderr


def test_help_says_what_it_is_not() -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert "Research use only, not a medical device." in " ".join(out.split())
    for name in cli._COMMANDS:
        assert f"\n  {name} " in out


@pytest.mark.parametrize("name", cli._COMMANDS)
def test_every_command_has_help(name: str) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"Usage: main {name}" in out or f"Usage: xecg {name}" in out


@pytest.mark.parametrize(
    "args", [["no-such-command"], ["--no-such-option"], ["embed"], ["embed", "--batch-size", "0", "x"]]
)
def test_wrong_usage_is_exit_2(args: list[str]) -> None:
    assert run(*args)[0] == 2


def test_user_mistake_is_one_line_and_exit_1(fake: Callable) -> None:
    fake(fail_with(ReadError("a.hea", "rate", 0, "needed 25..20,000 Hz", "Pass --rate.")))
    code, out, err = run("embed")
    assert (code, out) == (1, "")
    assert err == "error: a.hea: rate is 0; needed 25..20,000 Hz. Pass --rate.\n"


def test_unexpected_error_is_one_line_and_exit_1(fake: Callable) -> None:
    fake(fail_with(KeyError("surprise")))
    code, _, err = run("embed")
    assert code == 1
    assert err == "internal error: KeyError: 'surprise'; rerun with --debug\n"


@pytest.mark.parametrize("args", [["--debug", "embed"], ["embed", "--debug"]])
def test_debug_lets_the_exception_through(fake: Callable, args: list[str]) -> None:
    fake(fail_with(KeyError("surprise")))
    result = CliRunner().invoke(cli.main, args)
    assert isinstance(result.exception, KeyError)


def test_interrupt_is_exit_130(fake: Callable) -> None:
    fake(fail_with(KeyboardInterrupt()))
    assert run("embed")[0] == 130


def test_exit_code_of_a_command_is_kept(fake: Callable) -> None:
    fake(fail_with(click.exceptions.Exit(3)))
    assert run("embed")[0] == 3


def test_success_is_exit_0(fake: Callable) -> None:
    fake(lambda: click.echo("done"))
    assert run("embed")[:2] == (0, "done\n")


def test_error_text_cannot_drive_the_terminal(fake: Callable) -> None:
    fake(fail_with(ReadError("a\x1b[2J\udcff.hea", "rate", 0, "needed more")))
    _, _, err = run("embed")
    assert "\x1b" not in err
    assert r"a\x1b[2J\udcff.hea" in err


def test_closed_pipe_is_quiet() -> None:
    code = (
        "import click, xecg.cli as cli\n"
        "def body():\n    for _ in range(100_000): click.echo('x' * 100)\n"
        "cli.import_module = lambda name: type('M', (), {'command': click.Command('embed', callback=body)})\n"
        "cli.main(['embed'])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() in (0, 141)


def test_version_is_shown() -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("xecg ")


def _run(*args: str, stdout: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with its output redirected as the shell says."""
    code = "import sys; from xecg.cli import main; main(sys.argv[1:])"
    line = f'exec "$0" -c "$1" "${{@:2}}" {stdout}'
    return subprocess.run(
        ["bash", "-c", line, sys.executable, code, *args], stderr=subprocess.PIPE, text=True, check=False
    )


@pytest.mark.parametrize("args", [["--help"], ["embed", "--help"], ["--version"], ["doctor"]])
def test_output_that_nothing_can_take_is_one_line(args: list[str]) -> None:
    full = _run(*args, stdout=">/dev/full")
    assert full.returncode == 1
    assert full.stderr.count("\n") == 1 and full.stderr.startswith("error: ") and "no space is left" in full.stderr
    closed = _run(*args, stdout=">&-")
    assert (closed.returncode, closed.stderr) == (0, "")


@pytest.mark.parametrize(
    "args",
    [["plot", "r"], ["preprocess", "r"], ["preprocess", "r", "-o", "x", "--plot"], ["finetune", "t.csv"], ["convert", "r"],
     ["stream", "r", "--parquet"], ["stream", "r", "--state"], ["pretrain", "."], ["store", "build", "."], ["embed", "r"]],
)  # fmt: skip
def test_an_output_that_cannot_be_is_refused_before_the_work(args: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "t.csv").write_text("record,x\n")
    place = tmp_path / "file" / "x"
    option = [] if args[-1].startswith("--") else ["-o"]
    made = [str(tmp_path / a) if a in ("t.csv", "r") else a for a in args]
    (tmp_path / "r").touch()
    code, out, err = run(*made, *option, str(place))
    assert (code, out) == (1, "")
    assert (
        err
        == f"error: output {err.split()[2]} leads through {tmp_path / 'file'}, which is no folder; name another place\n"
    )


@pytest.mark.parametrize("args", [["inspect"], ["predict", "tiny-beats"], ["embed", "-o", "e.parquet"]])
def test_a_folder_without_recordings_says_what_it_holds_and_what_is_needed(
    args: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    other.mkdir()
    (other / "notes.txt").write_text("no ECG")
    monkeypatch.chdir(tmp_path)
    for folder, found in ((empty, "no recording: the folder is empty"), (other, "no recording, and 1 other files")):
        code, out, err = run(*args, str(folder))
        assert (code, out) == (1, "")
        assert f"error: {folder}: content is {found}; needed WFDB headers (.hea)" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "other"]
