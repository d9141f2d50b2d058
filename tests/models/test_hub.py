"""Weights by name from a small hub of our own on loopback, and everything that can go wrong on the way."""

import hashlib
import threading
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import safetensors.torch
import torch

from hdmlib.config import make_config
from hdmlib.experiments import run
from hdmlib.models import CheckpointError, build_model, load_weights
from hdmlib.models.hub import weights_path

COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """The two requests that huggingface_hub makes for a file; ``server.fault`` makes them go wrong."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        fault, files = self.server.fault, self.server.files
        name = self.path.split("?")[0].rpartition("/")[2]
        if fault == "web page":
            page = b"<html>Sign in to the proxy</html>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page if body else b"")
            return
        if "/timm/small/resolve/" not in self.path or name not in files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if "/timm/small/" in self.path else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = files[name]
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            if fault == "damaged":
                content = content[:-1] + bytes([content[-1] ^ 1])
            self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    source = build_model("hrnet_nano", num_joints=3)
    server.state = source.state_dict()
    server.files = {"model.safetensors": safetensors.torch.save(dict(server.state))}
    server.fault = None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its retries
    yield server
    server.shutdown()


def test_weights_are_fetched_once_and_loaded(hub):
    path = weights_path("hub:timm/small")
    model = build_model("hrnet_nano", num_joints=5)
    load_weights(model, path, backbone_only=True)
    assert torch.equal(model.conv1.weight, hub.state["conv1.weight"])
    hub.shutdown()
    hub.server_close()
    assert weights_path("hub:timm/small") == path  # without a network


def test_a_file_and_a_revision_can_be_named(hub):
    hub.files = {"other.safetensors": hub.files["model.safetensors"]}
    assert weights_path(f"hub:timm/small@{COMMIT}/other.safetensors").is_file()
    with pytest.raises(CheckpointError, match=r"has none of model\.safetensors, pytorch_model\.bin; name one"):
        weights_path("hub:timm/small")


@contextmanager
def full_disk(size):
    """No file can grow beyond ``size`` bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FAULTS = {
    "cut": "peer closed connection",
    "damaged": "damaged on the way: its SHA-256 is",
    "web page": "the answer is not the hub's: is there a proxy",
    "no server": "Connection refused",
    "no such repository": "404",
    "cache is read-only": "Not a directory",
    "cache is full": "too large",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_with_the_ways_out_and_leaves_nothing(hub, fault, tmp_path, monkeypatch):
    hub.fault, name = fault, "hub:timm/small"
    if fault == "no server":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    elif fault == "no such repository":
        name = "hub:timm/unknown"
    elif fault == "cache is read-only":
        (tmp_path / "file").touch()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    with full_disk(10_000) if fault == "cache is full" else nullcontext(), pytest.raises(CheckpointError) as caught:
        weights_path(name)
    message = str(caught.value)
    assert FAULTS[fault] in message
    assert "\n" not in message
    assert f"of {name.removeprefix('hub:')}" in message
    assert "give its path as pretrained" in message
    assert "pretrained=none" in message
    assert not list(tmp_path.rglob("snapshots/*/model.safetensors"))


@pytest.mark.parametrize("name", ["hub:", "hub:owner", "hub:a/b@", "hub:a b/c"])
def test_what_is_no_hub_name_is_refused(name):
    with pytest.raises(CheckpointError, match="is not hub:OWNER/NAME"):
        weights_path(name)


def test_a_published_recipe_starts_from_imagenet_weights_unless_told_otherwise(tmp_path):
    assert make_config("coco_w32_256x192").pretrained == "hub:timm/hrnet_w32.ms_in1k"
    assert make_config("coco_w48_384x288").pretrained == "hub:timm/hrnet_w48.ms_in1k"
    assert make_config("coco_w32_256x192", pretrained="none").identity("x")["pretrained"] == "none"
    assert make_config("laptop").pretrained is None


def test_without_a_network_a_recipe_is_refused_before_the_data_is_read(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    config = make_config("coco_w32_256x192", data_root=tmp_path / "nowhere", run_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot fetch model\.safetensors of timm/hrnet_w32\.ms_in1k"):
        run(config)
