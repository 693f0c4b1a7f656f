"""Downloads: resumed, checked, refused, against a server on this machine that cuts connections."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from benchecg import fetch as fetching
from benchecg.cli import main
from benchecg.fetch import SUMS, fetch
from benchecg.sources import SOURCES, STEPS, Source
from benchecg.tasks import load_task, task_ids
from xecg.errors import ReadError, SpecError

FILES = {
    "100.dat": bytes(range(256)) * 4_000,
    "100.hea": b"100 2 360 650000\n",
    "sub/200 a.dat": b"second" * 1_000,
    "empty": b"",
}


class _Server:
    """Serves FILES under /release/. cut: bytes after which each answer's connection is closed, None to send all."""

    def __init__(self) -> None:
        self.files = dict(FILES)
        self.sums = self.of(FILES)
        self.cut: int | None = None
        self.cut_sums = False
        self.ranges = True
        self.status: int | None = None
        self.location: str | None = None
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/release/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @staticmethod
    def of(files: dict[str, bytes]) -> bytes:
        return "".join(f"{hashlib.sha256(v).hexdigest()} {k}\n" for k, v in files.items()).encode()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        from urllib.parse import unquote

        name = unquote(request.path.removeprefix("/release/"))
        wanted = request.headers.get("Range")
        self.asked.append((name, wanted))
        content = self.sums if name == SUMS else self.files.get(name)
        if self.status or content is None:
            request.send_error(self.status or 404)
            return
        if self.location is not None:
            request.send_response(302)
            request.send_header("Location", self.location)
            request.end_headers()
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if start and start >= len(content):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(content) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        body = content[start:]
        request.wfile.write(body if self.cut is None or (name == SUMS and not self.cut_sums) else body[: self.cut])


@pytest.fixture
def server():
    server = _Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def _source(server, **changes) -> Source:
    facts = {
        "name": "Test release",
        "folder": "set",
        "url": server.url,
        "licence": "CC0",
        "licence_url": "http://x/",
        "size_mb": 5,
    }
    return Source(**{**facts, **changes})


def _fetch(server, root, **changes):
    return fetch(_source(server, **changes), root, accept_licence=True, pause_s=0.0)


def _there(root) -> dict[str, bytes]:
    return {p.relative_to(root / "set").as_posix(): p.read_bytes() for p in (root / "set").rglob("*") if p.is_file()}


def test_a_release_arrives_whole_with_its_checksums(server, tmp_path):
    done = _fetch(server, tmp_path)
    assert _there(tmp_path) == {**FILES, SUMS: server.sums}
    assert (done.files, done.kept) == (4, 0) and done.received == sum(map(len, FILES.values())) + len(server.sums)


def test_a_connection_that_is_cut_is_taken_up_where_it_was_cut(server, tmp_path):
    server.cut = 300_000
    done = _fetch(server, tmp_path)
    assert _there(tmp_path)["100.dat"] == FILES["100.dat"]
    assert [r for n, r in server.asked if n == "100.dat"] == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert done.received == sum(map(len, FILES.values())) + len(server.sums)  # not a byte twice


def test_the_next_run_goes_on_and_fetches_nothing_that_is_whole(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "_ATTEMPTS", 1)
    server.cut = 400_000

    answer, calls = server.answer, []

    def once(request):
        calls.append(request.path)
        if len(calls) > 2:
            server.status = 503
        answer(request)

    server.answer = once
    with pytest.raises(OSError, match=r"brought nothing .*goes on from here later"):
        _fetch(server, tmp_path)
    assert (tmp_path / "set" / "100.dat.part").stat().st_size == 400_000 and not (tmp_path / "set" / "100.dat").exists()
    server.answer, server.status, server.cut = answer, None, None
    server.asked.clear()
    _fetch(server, tmp_path)
    assert ("100.dat", "bytes=400000-") in server.asked and _there(tmp_path)["100.dat"] == FILES["100.dat"]
    server.asked.clear()
    again = _fetch(server, tmp_path)
    assert again.kept == 4 and server.asked == [(SUMS, None)]


def test_a_server_without_ranges_gives_the_file_anew(server, tmp_path):
    server.ranges = False
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "100.dat.part").write_bytes(FILES["100.dat"][:1000])
    _fetch(server, tmp_path)
    assert _there(tmp_path) == {**FILES, SUMS: server.sums}
    assert [r for n, r in server.asked if n == "100.dat"] == ["bytes=1000-"]  # the whole answer took the part's place


def test_a_damaged_part_is_found_by_its_checksum_and_fetched_anew(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "100.dat.part").write_bytes(b"x" * len(FILES["100.dat"]))
    (tmp_path / "set" / "100.hea").write_bytes(b"changed since")
    _fetch(server, tmp_path)
    assert _there(tmp_path) == {**FILES, SUMS: server.sums}


def test_a_file_that_does_not_fit_its_checksum_is_not_kept(server, tmp_path):
    server.files["100.dat"] = b"another file"
    with pytest.raises(ReadError, match=r"SHA-256 is .*nothing of it was kept"):
        _fetch(server, tmp_path)
    assert not [p for p in (tmp_path / "set").rglob("100.dat*")]


def test_only_what_the_tasks_read_is_fetched(server, tmp_path):
    done = _fetch(server, tmp_path, wanted=("sub/",))
    assert done.files == 1 and set(_there(tmp_path)) == {"sub/200 a.dat", SUMS}


@pytest.mark.parametrize(
    "path", ["../outside", "/etc/passwd", "a/../../outside", "C:\\x", "a\\..\\b", "", "bad\x07name"]
)
def test_a_path_that_leads_elsewhere_is_refused(server, tmp_path, path):
    server.sums = f"{'0' * 64} {path}\n".encode()
    with pytest.raises(ReadError, match="path inside the release"):
        _fetch(server, tmp_path)
    assert set(_there(tmp_path)) == set() and [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_link_out_of_the_folder_is_not_followed(server, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "sub").symlink_to(outside)
    with pytest.raises(SpecError, match="leads out of"):
        _fetch(server, tmp_path)
    assert not list(outside.iterdir())


def test_a_list_of_something_else_is_refused(server, tmp_path):
    server.sums = b"<html>welcome</html>"
    with pytest.raises(ReadError, match=r"line 1 is .*welcome"):
        _fetch(server, tmp_path)
    server.sums = server.of(FILES)
    with pytest.raises(ReadError, match="without records500/"):
        _fetch(server, tmp_path, wanted=("records500/",))


def test_what_the_server_refuses_is_said_at_once(server, tmp_path):
    server.status = 403
    with pytest.raises(OSError, match="the server says 403"):
        _fetch(server, tmp_path)
    assert len(server.asked) == 1


def test_a_release_that_never_ends_is_stopped(server, tmp_path):
    with pytest.raises(ReadError, match="needed about what is stated"):
        _fetch(server, tmp_path, size_mb=0)


def test_nothing_is_fetched_without_consent_or_room(server, tmp_path):
    with pytest.raises(SpecError, match="is under CC0, http://x/; read it and pass --accept-licence"):
        fetch(_source(server), tmp_path, accept_licence=False)
    with pytest.raises(SpecError, match=r"needs .* MB more under"):
        _fetch(server, tmp_path, size_mb=10**12)
    with pytest.raises(SpecError, match="needed http:// or https://"):
        _fetch(server, tmp_path, url="file:///etc/")
    assert not server.asked and not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------
# The command.


@pytest.fixture
def cli(tmp_path):
    return lambda *arguments: CliRunner().invoke(main, ["prepare", *map(str, arguments), "--data", str(tmp_path)])


def test_prepare_downloads_after_the_licence_was_accepted(cli, server, tmp_path):
    server.files = {"100.dat": b"signal"}
    server.sums = server.of(server.files)
    refused = cli("mitbih-beats", "--download", "--mirror", server.url)
    assert refused.exit_code == 1 and not (tmp_path / "mitdb").exists()
    assert "ODC-By" in refused.output and "view-license" in refused.output and "--accept-licence" in refused.output
    done = cli("mitbih-beats", "mitbih-rpeaks", "--download", "--accept-licence", "--mirror", server.url)
    assert done.exit_code == 0, done.output
    assert "110 MB" in done.output and "1 files whole" in done.output and done.output.count("ODC-By") == 1
    assert (tmp_path / "mitdb" / "100.dat").read_bytes() == b"signal"


def test_prepare_says_exact_steps_where_an_account_is_needed(cli, tmp_path):
    result = cli("blood-tests", "--download", "--accept-licence")
    assert result.exit_code == 3
    assert "1. read the licences" in result.output and f"-P {tmp_path / 'mimic-iv-ecg'}" in result.output
    assert "labevents.csv.gz" in result.output and not list(tmp_path.iterdir())


def test_prepare_fetches_the_noise_by_its_own_name(cli, server, tmp_path):
    server.files = {"em.dat": b"noise"}
    server.sums = server.of(server.files)
    assert cli("nstdb", "--download", "--accept-licence", "--mirror", server.url).exit_code == 0
    assert (tmp_path / "nstdb" / "em.dat").exists()


def test_a_mirror_is_of_one_release(cli, server):
    result = cli("mitbih-beats", "apnea-ecg", "--download", "--accept-licence", "--mirror", server.url)
    assert result.exit_code == 1 and "one data set; these tasks need 2" in result.output


def test_every_data_set_is_downloaded_or_explained():
    folders = {load_task(i).dataset.folder for i in task_ids() if not load_task(i).synthetic}
    assert folders <= SOURCES.keys() | STEPS.keys() and not SOURCES.keys() & STEPS.keys()
    for source in SOURCES.values():
        assert source.url.startswith("https://") and source.url.endswith("/")


@pytest.mark.parametrize("part", ["list", "file"])
def test_a_server_that_always_cuts_what_cannot_be_resumed_is_given_up(server, tmp_path, part: str) -> None:
    server.cut, server.ranges, server.cut_sums = 10, False, part == "list"
    with pytest.raises(OSError, match="attempts brought nothing"):
        fetch(_source(server), tmp_path, accept_licence=True, pause_s=1e-4)
    assert len(server.asked) < 12


@pytest.mark.parametrize("location", ["http://[::1", "ftp://127.0.0.1:9/x", "file:///etc/hostname"])
def test_a_redirect_to_no_web_server_is_refused_in_words(server, tmp_path, location: str) -> None:
    server.location = location
    with pytest.raises(OSError, match=r"not understood|away from the web|not allowed"):
        fetch(_source(server), tmp_path, accept_licence=True, pause_s=1e-4)
    assert len(server.asked) == 1
