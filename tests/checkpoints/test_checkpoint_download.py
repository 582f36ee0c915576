"""Downloads, against a server on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from napari_surgsam2 import checkpoints
from napari_surgsam2.checkpoints import (
    DEFAULT_MODEL,
    RegistryEntry,
    cache_folder,
    ensure_downloaded,
    load_model,
    registry,
    registry_entry,
    verify,
)
from napari_surgsam2.errors import CheckpointError

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers every request with `body`, announcing `announced` bytes."""

    daemon_threads = True
    body = CONTENT
    announced: int | None = len(CONTENT)
    status = 200
    requests = 0


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.requests += 1
        self.send_response(server.status)
        if server.announced is not None:
            self.send_header("Content-Length", str(server.announced))
        self.end_headers()
        self.wfile.write(server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    monkeypatch.setenv("NAPARI_SURGSAM2_CACHE", str(folder))
    return folder


@pytest.fixture
def make_entry(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RegistryEntry]:
    """Put a model of the server into the registry."""

    def make(**changes: object) -> RegistryEntry:
        entry = RegistryEntry(
            name="test",
            about="a model",
            architecture="sam2.1_hiera_tiny",
            file="test.pt",
            url=f"http://127.0.0.1:{server.server_address[1]}/test.pt",
            bytes=len(CONTENT),
            sha256=DIGEST,
            image_size=512,
        )
        entry = dataclasses.replace(entry, **changes)  # type: ignore[arg-type]
        monkeypatch.setitem(registry(), "test", entry)
        return entry

    return make


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_a_good_file_arrives_once(make_entry, server: Server, cache: Path) -> None:
    entry = make_entry()
    seen: list[tuple[int, int | None]] = []

    path = ensure_downloaded(entry, lambda done, total: seen.append((done, total)))

    assert path == cache / "test.pt"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert left_in(cache) == ["test.pt"]
    assert verify(entry) == DIGEST
    ensure_downloaded(entry)
    assert server.requests == 1


def test_a_wrong_digest_leaves_nothing(make_entry, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="SHA-256 is not the published one"):
        ensure_downloaded(make_entry(sha256="0" * 64))
    assert left_in(cache) == []


@pytest.mark.parametrize("known", [True, False])
def test_a_connection_that_breaks_off_leaves_nothing(known: bool, make_entry, server, cache: Path) -> None:
    server.body = CONTENT[: len(CONTENT) // 2]
    with pytest.raises(CheckpointError, match="the connection broke off"):
        ensure_downloaded(make_entry() if known else make_entry(sha256=None, bytes=None))
    assert left_in(cache) == []


def test_a_short_body_without_a_length_is_told_by_the_digest(make_entry, server: Server, cache: Path) -> None:
    server.body, server.announced = CONTENT[:5000], None
    with pytest.raises(CheckpointError, match="SHA-256"):
        ensure_downloaded(make_entry())
    assert left_in(cache) == []


@pytest.mark.parametrize("status", [403, 404, 503])
def test_an_error_of_the_server_is_told(status: int, make_entry, server: Server, cache: Path) -> None:
    server.status = status
    with pytest.raises(CheckpointError, match=f"the server answered {status}"):
        ensure_downloaded(make_entry())
    assert left_in(cache) == []


def test_offline_the_message_says_what_to_put_where(make_entry, server: Server, cache: Path) -> None:
    with Server(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_address[1]
    entry = make_entry(url=f"http://127.0.0.1:{port}/test.pt")

    with pytest.raises(CheckpointError) as caught:
        load_model("test", device="cpu")

    message = str(caught.value)
    assert "there is no connection to the server" in message
    assert f"download {entry.url} on any machine" in message
    assert f"put the file at '{cache / 'test.pt'}' ({len(CONTENT)} bytes)" in message
    assert left_in(cache) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_cancelling_leaves_nothing(error: type[BaseException], make_entry, cache: Path) -> None:
    def cancel(done: int, _: int | None) -> None:
        if done:
            raise error("cancelled")

    with pytest.raises(error, match="cancelled"):
        ensure_downloaded(make_entry(), cancel)
    assert left_in(cache) == []
    assert ensure_downloaded(make_entry()).read_bytes() == CONTENT


def test_an_unknown_digest_is_kept_and_compared_from_then_on(make_entry, server: Server, cache: Path) -> None:
    entry = make_entry(sha256=None, bytes=None)
    path = ensure_downloaded(entry)
    assert left_in(cache) == ["test.pt", "test.pt.sha256"]
    assert verify(entry) == DIGEST

    path.write_bytes(b"changed")
    with pytest.raises(CheckpointError, match=f"is damaged: its SHA-256 is .*, not {DIGEST}"):
        verify(entry)

    path.unlink()
    server.body = CONTENT[:-1] + b"!"
    with pytest.raises(CheckpointError, match="SHA-256 is not that of the first download"):
        ensure_downloaded(entry)
    assert left_in(cache) == ["test.pt.sha256"]


@pytest.mark.parametrize("known", [True, False])
def test_a_page_instead_of_the_file_is_refused(known: bool, make_entry, server: Server, cache: Path) -> None:
    server.body = b"<html>Too many users have downloaded this file.</html>"
    server.announced = len(server.body)
    entry = make_entry() if known else make_entry(sha256=None, bytes=None)

    with pytest.raises(CheckpointError, match="SHA-256" if known else "a page instead of the file"):
        ensure_downloaded(entry)
    assert left_in(cache) == []


def test_a_file_cut_short_is_not_taken_for_the_model(make_entry, cache: Path) -> None:
    entry = make_entry()
    cache.mkdir()
    entry.path.write_bytes(CONTENT[:1000])
    for check in (ensure_downloaded, verify):
        with pytest.raises(CheckpointError, match=r"is damaged: it has 1000 bytes, not \d+. Delete it"):
            check(entry)


def test_verify_says_what_is_wrong(make_entry, cache: Path) -> None:
    entry = make_entry()
    with pytest.raises(CheckpointError, match=r"has not been downloaded.*models download test"):
        verify(entry)
    cache.mkdir()
    entry.path.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(CheckpointError, match="is damaged: its SHA-256"):
        verify(entry)
    assert verify(make_entry(sha256=None)) is None  # put there by hand, its digest not known


def test_a_cache_that_cannot_be_written_is_told(make_entry, cache: Path) -> None:
    cache.write_text("a file, not a folder")
    with pytest.raises(CheckpointError, match=r"could not be written.*NAPARI_SURGSAM2_CACHE"):
        ensure_downloaded(make_entry())


def test_a_built_in_model_is_there_without_a_download(cache: Path) -> None:
    entry = registry_entry(DEFAULT_MODEL)

    assert entry.built_in
    assert ensure_downloaded(entry) == entry.path == Path(checkpoints.__file__).with_name("nano.safetensors")
    assert verify(entry) == entry.sha256
    assert left_in(cache) == []


def test_a_built_in_model_that_is_gone_or_damaged_is_told(make_entry) -> None:
    entry = make_entry(url=None, file="gone.safetensors")
    for check in (ensure_downloaded, verify):
        with pytest.raises(CheckpointError, match=r"is built in, but there is no .*\. Install .* again"):
            check(entry)
    with pytest.raises(CheckpointError, match=r"is damaged: it has \d+ bytes, not 1\. Install .* again"):
        verify(make_entry(url=None, file="nano.safetensors", bytes=1))


def test_the_cache_folder_is_the_users_or_the_chosen_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_SURGSAM2_CACHE", str(tmp_path / "here"))
    assert registry_entry("sam2.1_hiera_tiny").path == tmp_path / "here" / "sam2.1_hiera_tiny.pt"
    monkeypatch.setenv("NAPARI_SURGSAM2_CACHE", "~/models")
    assert cache_folder() == Path.home() / "models"
    monkeypatch.delenv("NAPARI_SURGSAM2_CACHE")
    assert cache_folder().name == "napari-surgsam2"
