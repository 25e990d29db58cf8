"""URLs are fetched from hosts the operator named, never from inside the network."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator

import pytest

from vllm_dsocr.server.errors import ApiError
from vllm_dsocr.server.work import fetching
from vllm_dsocr.server.work.fetching import Fetcher


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        if self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
            return
        self.send_response(404 if self.path == "/none" else 200)
        self.end_headers()
        self.wfile.write(self.headers["Host"].encode() if self.path == "/host" else b"x" * 5000)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def fetch(url: str, hosts=("localhost",), private=("localhost",), max_bytes: int = 10_000):
    return asyncio.run(Fetcher(hosts, private, max_bytes).fetch(url))


def refusal(*arguments, **more) -> ApiError:
    with pytest.raises(ApiError) as caught:
        fetch(*arguments, **more)
    return caught.value


def test_an_allowed_host_gives_name_and_bytes(port):
    assert fetch(f"http://localhost:{port}/a/b%20c.pdf?x=1") == ("b c.pdf", b"x" * 5000)
    assert fetch(f"http://localhost:{port}/host")[1] == f"localhost:{port}".encode()


def test_hosts_that_nobody_named_are_not_asked(port):
    assert refusal(f"http://localhost:{port}/a", hosts=()).status == 400
    assert refusal(f"http://127.0.0.1:{port}/a").status == 400
    for url in ("ftp://localhost/a", "file:///etc/passwd", "http://", "gopher://x", "http://[::1/"):
        assert refusal(url).status == 400, url


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
    ],
)
def test_named_hosts_with_private_addresses_are_not_asked(monkeypatch, address):
    async def addresses(host: str, port: int) -> list[str]:
        return ["93.184.216.34", address]

    monkeypatch.setattr(fetching, "_addresses", addresses)
    assert "private" in refusal("http://named.example/a", hosts=("named.example",)).sentence


def test_a_name_that_changes_its_answer_gains_nothing(monkeypatch, port):
    """The connection goes to the address that was checked, not to what the name says later."""
    answers = iter([["127.0.0.1"]])

    async def addresses(host: str, port: int) -> list[str]:
        return next(answers)  # a second question would be an error

    monkeypatch.setattr(fetching, "_addresses", addresses)
    url = f"http://rebinding.example:{port}/host"
    hosts = ("rebinding.example",)
    assert fetch(url, hosts, hosts)[1] == f"rebinding.example:{port}".encode()


def test_redirects_are_checked_like_first_addresses(port):
    assert fetch(f"http://localhost:{port}/to//a.pdf")[1]
    assert refusal(f"http://localhost:{port}/to/http://127.0.0.1:{port}/a").status == 400
    assert refusal(f"http://localhost:{port}/to/file:///etc/passwd").status == 400
    assert "too often" in refusal(f"http://localhost:{port}/loop").sentence


def test_what_is_too_large_or_not_there(port):
    assert refusal(f"http://localhost:{port}/a", max_bytes=100).status == 413
    assert "404" in refusal(f"http://localhost:{port}/none").sentence
    assert refusal("http://localhost:1/a").sentence == "the URL does not answer"


def test_a_host_that_does_not_exist():
    url = "http://no-such-host.invalid/a"
    assert refusal(url, hosts=("no-such-host.invalid",)).sentence == "the URL's host is not known"
