"""The files that some tests compare with, fetched from a server of our own on loopback."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from hdmlib.cli import app
from hdmlib.data.dataset import DataError
from hdmlib.data.samples import SAMPLES, fetch_samples

CONTENT = {"repository/commit/a.json": b"[1, 2]" * 999, "repository/commit/b.mat": bytes(range(256)) * 99}
FILES = {
    name: (address, hashlib.sha256(CONTENT[address]).hexdigest())
    for name, address in {"first/a.json": "repository/commit/a.json", "second/b.mat": "repository/commit/b.mat"}.items()
}


class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        content, fault = CONTENT[self.path[1:]], self.server.fault
        if fault == "web page":
            content = b"<html>Sign in to the proxy</html>"
        self.send_response(404 if fault == "gone" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    made.requests, made.fault = [], None
    made.host = f"http://127.0.0.1:{made.server_port}"
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_files_are_fetched_once_and_the_damaged_again(server, tmp_path):
    assert fetch_samples(tmp_path, samples=FILES, host=server.host) == 2
    for name, (address, _) in FILES.items():
        assert (tmp_path / name).read_bytes() == CONTENT[address]
    (tmp_path / "first" / "a.json").write_text("[1,")
    server.requests.clear()
    fetch_samples(tmp_path, samples=FILES, host=server.host)
    assert server.requests == ["/repository/commit/a.json"]
    assert (tmp_path / "first" / "a.json").read_bytes() == CONTENT["repository/commit/a.json"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("web page", "it is not the published file"),
        ("cut", "(Connection broken|it is not the published file)"),
        ("gone", "404"),
        ("no server", "no connection"),
        ("folder in use", "File exists|Not a directory"),
    ],
)
def test_a_fault_is_one_line_and_leaves_nothing_half_written(fault, reason, server, tmp_path):
    server.fault, host, to = fault, server.host, tmp_path / "to"
    if fault == "no server":
        host = "http://127.0.0.1:9"
    elif fault == "folder in use":
        to.touch()
    with pytest.raises(
        DataError, match=rf"samples: cannot fetch {host}/repository/commit/a\.json .*{reason}"
    ) as caught:
        fetch_samples(to, samples=FILES, host=host)
    assert "\n" not in str(caught.value)
    assert str(to / "first" / "a.json") in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path != to] == []


def test_the_command_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    result = CliRunner().invoke(app, ["data", "samples", "--to", str(tmp_path)])
    assert result.exit_code == 2
    assert "error: samples: cannot fetch https://raw.githubusercontent.com/jin-s13/xtcocoapi/" in result.stderr


def test_addresses_are_pinned():
    for address, digest in SAMPLES.values():
        commit = address.split("/")[2]
        assert (len(commit), len(digest)) == (40, 64)
        assert set(commit + digest) <= set("0123456789abcdef")
