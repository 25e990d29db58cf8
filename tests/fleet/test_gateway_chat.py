"""OpenAI's API through the gateway: any client, spread over servers, and what dies is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from tests.fake_server import Answer, Responder, Stream, Trouble, fake_server
from tests.service.conftest import serve
from vllm_dsocr.cli import main
from vllm_dsocr.config import MODES
from vllm_dsocr.fleet import forwarding
from vllm_dsocr.fleet import replicas as fleet
from vllm_dsocr.fleet.chat_cost import USUAL_PAGE, chat_facts
from vllm_dsocr.fleet.routing import BalancedEngine
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.server.gateway import create_gateway
from vllm_dsocr.server.protocols.chat import _Stream
from vllm_dsocr.server.run import replica
from vllm_dsocr.server.settings import Settings

TEXT = [{"role": "user", "content": "Hello"}]


def says(text: str) -> Responder:
    return lambda body, image: Answer(text)


@contextlib.contextmanager
def gateway(tmp_path: Path, *servers: str, **settings: object) -> Iterator[str]:
    """A gateway in front of the servers; gives its URL without a slash at the end."""
    engine = BalancedEngine([replica(url, None, None) for url in servers])
    given = Settings(data=tmp_path / "data", draw_processes=1, **settings)
    with serve(create_gateway(engine, given, CollectorRegistry())) as url:
        yield url


def client(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30)


def ask(url: str, **options: object) -> str:
    answer = client(url).chat.completions.create(model="fake-reader", messages=TEXT, **options)
    return answer.choices[0].message.content


def page_message(image: Image.Image) -> list[dict]:
    from benchmarks.serving import data_url

    part = {"type": "image_url", "image_url": {"url": data_url(image)}}
    return [{"role": "user", "content": [part, {"type": "text", "text": "Free OCR."}]}]


def test_an_openai_client_gets_what_the_server_says(tmp_path):
    with fake_server(says("one")) as server, gateway(tmp_path, server.url) as url:
        assert ask(url) == "one"
        assert [model.id for model in client(url).models.list()] == ["fake-reader"]
        assert httpx.post(f"{url}/tokenize", json={"prompt": "a"}).json() == {"count": 10}
        done = client(url).chat.completions.with_raw_response.create(
            model="fake-reader", messages=page_message(Image.new("RGB", (64, 64)))
        )
        assert done.parse().usage.prompt_tokens == 120
        assert server.bodies[-1]["messages"][0]["content"][1]["text"] == "Free OCR."


def test_a_stream_comes_piece_by_piece(tmp_path):
    more = threading.Event()

    def pieces() -> Iterator[str]:
        yield "one "
        assert more.wait(10)
        yield "two"

    with (
        fake_server(lambda body, image: Stream(pieces())) as server,
        gateway(tmp_path, server.url) as url,
    ):
        stream = client(url).chat.completions.create(
            model="fake-reader", messages=TEXT, stream=True
        )
        texts = []
        for chunk in stream:
            texts.append(chunk.choices[0].delta.content)
            more.set()  # the second is written only when the first was seen
        assert texts == ["one ", "two"]


def test_servers_take_turns_by_their_load(tmp_path):
    """While one reads a costly page the other gets all the cheap ones."""
    costly = threading.Event()

    def answer(name: str) -> Responder:
        def respond(body, image):
            if image is not None and image.width > 1000:
                costly.wait(20)
            return Answer(name)

        return respond

    with (
        fake_server(answer("a")) as a,
        fake_server(answer("b")) as b,
        gateway(tmp_path, a.url, b.url) as url,
    ):
        slow = threading.Thread(
            target=lambda: client(url).chat.completions.create(
                model="fake-reader", messages=page_message(Image.new("RGB", (1654, 2339)))
            )
        )
        slow.start()
        while not a.bodies + b.bodies:
            time.sleep(0.01)
        busy, idle = (a, b) if a.bodies else (b, a)
        small = page_message(Image.new("RGB", (64, 64)))
        for _ in range(4):
            client(url).chat.completions.create(model="fake-reader", messages=small)
        text = httpx.get(f"{url}/metrics/").text
        costly.set()
        slow.join(20)
        assert (len(busy.bodies), len(idle.bodies)) == (1, 4)
    assert f'dsocr_replica_requests{{replica="{busy.url}"}} 1.0' in text
    assert f'dsocr_replica_vision_tokens{{replica="{idle.url}"}} 0.0' in text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("trouble", [Trouble(500), Trouble(0), Stream([None])], ids=str)
def test_what_one_server_fails_at_another_does(tmp_path, trouble, stream):
    reply = Stream(["well"]) if stream else Answer("well")
    with (
        fake_server(lambda body, image: trouble) as bad,
        fake_server(lambda body, image: reply) as good,
        gateway(tmp_path, bad.url, good.url) as url,
    ):
        for _ in range(6):
            if stream:
                done = client(url).chat.completions.create(
                    model="fake-reader", messages=TEXT, stream=True
                )
                assert "".join(c.choices[0].delta.content for c in done) == "well"
            else:
                assert ask(url) == "well"
        assert len(good.bodies) == 6
        assert 1 <= len(bad.bodies) <= fleet.MAX_FAULTS  # after that it is passed over


def test_when_every_server_fails_the_client_sees_the_servers_own_words(tmp_path):
    with (
        fake_server(lambda body, image: Trouble(500, "no memory")) as a,
        fake_server(lambda body, image: Trouble(500, "no memory")) as b,
        gateway(tmp_path, a.url, b.url) as url,
    ):
        for _ in range(5):  # a request that fails everywhere is no server's fault
            with pytest.raises(openai.InternalServerError, match="no memory"):
                ask(url)
        assert len(a.bodies) == len(b.bodies) == 5


def test_what_a_server_refuses_is_not_asked_of_another(tmp_path):
    refuse = Trouble(400, "the prompt is too long")
    with (
        fake_server(lambda body, image: refuse) as a,
        fake_server(lambda body, image: refuse) as b,
        gateway(tmp_path, a.url, b.url) as url,
    ):
        with pytest.raises(openai.BadRequestError, match="too long"):
            ask(url)
        assert len(a.bodies) + len(b.bodies) == 1


def test_a_stream_that_breaks_in_the_middle_says_so(tmp_path):
    """What was passed on cannot be taken back: half an answer must not look like a whole one."""
    with (
        fake_server(lambda body, image: Stream(["half", 0.2, None])) as server,
        gateway(tmp_path, server.url) as url,
    ):
        stream = client(url).chat.completions.create(
            model="fake-reader", messages=TEXT, stream=True
        )
        seen = []
        with pytest.raises(openai.APIError, match="in the middle of its answer"):
            seen += [chunk.choices[0].delta.content for chunk in iter(stream.__next__, None)]
        assert (
            "half"
            in httpx.post(
                f"{url}/v1/chat/completions", json={"messages": TEXT, "stream": True}
            ).text
        )


def test_a_client_that_hangs_up_ends_the_request_at_the_server(tmp_path):
    endless = Stream(piece for _ in range(2000) for piece in ("x", 0.01))
    with (
        fake_server(lambda body, image: endless) as server,
        gateway(tmp_path, server.url) as url,
    ):
        body = {"model": "fake-reader", "messages": TEXT, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
            next(answer.iter_bytes())
        assert endless.hung_up.wait(10)


def test_a_client_that_hangs_up_before_the_first_word_too(tmp_path):
    begun = threading.Event()

    def pieces() -> Iterator[str | float]:
        begun.set()
        yield 1.0
        yield from ("x" for _ in range(100_000))

    stream = Stream(pieces())
    with (
        fake_server(lambda body, image: stream) as server,
        gateway(tmp_path, server.url) as url,
    ):
        body = {"model": "fake-reader", "messages": TEXT, "stream": True}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/chat/completions", json=body, timeout=0.5)
        assert begun.is_set() and stream.hung_up.wait(10)


def test_the_gateways_key_opens_it_and_its_own_opens_the_servers(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "upstream")
    seen = []

    def spy(handler_class, original):
        def handle(self):
            seen.append(self.headers["Authorization"])
            original(self)

        return handle

    from tests import fake_server as module

    monkeypatch.setattr(module._Handler, "do_POST", spy(None, module._Handler.do_POST))
    with (
        fake_server(says("one")) as server,
        gateway(tmp_path, server.url, api_keys=("secret",)) as url,
    ):
        with pytest.raises(openai.AuthenticationError, match="key is missing or wrong"):
            ask(url)
        assert not server.bodies
        answer = client(url, "secret").chat.completions.create(model="m", messages=TEXT)
        assert answer.choices[0].message.content == "one"
    assert seen == ["Bearer upstream"]


def test_a_server_that_hangs_is_found_out_and_its_requests_go_to_another(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(fleet, "ANSWER_SECONDS", 2.0)
    monkeypatch.setattr(fleet, "MAX_MISSED", 1)
    never = threading.Event()
    hanging = {"now": False}

    def respond(body, image):
        if hanging["now"]:
            never.wait(20)
        return Answer("a")

    from tests import fake_server as module

    original = module._Handler.do_GET

    def get(self):
        if hanging["now"] and self.server.server_port == port:
            never.wait(20)
        original(self)

    monkeypatch.setattr(module._Handler, "do_GET", get)
    with fake_server(respond) as a, fake_server(says("b")) as b:
        port = httpx.URL(a.url).port
        with gateway(tmp_path, a.url, b.url) as url:
            assert ask(url) == "a"
            hanging["now"] = True
            assert [ask(url) for _ in range(3)] == ["b", "b", "b"]
            assert len(a.bodies) >= 2  # it had one of them
            never.set()


def test_a_server_that_hangs_does_not_keep_the_gateway_from_starting(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "ANSWER_SECONDS", 2.0)
    import socket

    with socket.socket() as silent, fake_server(says("b")) as b:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        hanging = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with gateway(tmp_path, hanging, b.url) as url:
            assert time.monotonic() - began < 15
            assert ask(url) == "b"


def test_without_a_server_the_answer_is_503_in_openais_form(tmp_path):
    with gateway(tmp_path, "http://127.0.0.1:9") as url:
        answer = httpx.post(f"{url}/v1/chat/completions", json={"messages": TEXT})
        assert answer.status_code == 503 and answer.headers["Retry-After"]
        assert answer.json()["error"]["message"] == "the model is not available now"
        assert httpx.get(f"{url}/readyz").status_code == 503


def test_a_server_that_is_silent_for_too_long_is_504(tmp_path):
    never = threading.Event()

    def respond(body, image):
        never.wait(10)
        return Answer("late")

    with (
        fake_server(respond) as server,
        gateway(tmp_path, server.url, page_seconds=0.3) as url,
    ):
        with pytest.raises(openai.InternalServerError, match="silent for 0.3 s") as caught:
            ask(url)
        assert caught.value.status_code == 504
        never.set()


def test_many_at_a_time(tmp_path):
    """More than an HTTP client's usual hundred connections."""
    together = threading.Barrier(150)

    def respond(body, image):
        together.wait(30)
        return Answer("x")

    async def run(url: str) -> list[int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=40) as many:
            body = {"messages": TEXT}
            posts = (many.post(f"{url}/v1/chat/completions", json=body) for _ in range(150))
            return [answer.status_code for answer in await asyncio.gather(*posts)]

    with fake_server(respond) as server, gateway(tmp_path, server.url) as url:
        assert set(asyncio.run(run(url))) == {200}


def test_sigterm_lets_streams_end(tmp_path):
    """`dsocr gateway` as a process: it takes no new connection and finishes what it has begun."""
    go_on = threading.Event()

    def pieces() -> Iterator[str]:
        yield "begun "
        assert go_on.wait(20)
        yield "ended"

    with fake_server(lambda body, image: Stream(pieces())) as server:
        import socket

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "vllm_dsocr.cli", "gateway", "--server", server.url]
        options = ["--port", str(port), "--data", str(tmp_path), "--draw-processes", "1"]
        process = subprocess.Popen([*command, *options], env=os.environ)
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.HTTPError):
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        break
                time.sleep(0.1)
            stream = client(url).chat.completions.create(
                model="fake-reader", messages=TEXT, stream=True
            )
            texts = [next(stream).choices[0].delta.content]
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(httpx.HTTPError):
                while True:
                    httpx.get(f"{url}/livez", headers={"connection": "close"})
                    time.sleep(0.05)
            go_on.set()
            texts += [chunk.choices[0].delta.content for chunk in stream]
            assert texts == ["begun ", "ended"]
            assert process.wait(30) in (0, -signal.SIGTERM)
        finally:
            process.kill()
            process.wait()


def body_of(image: Image.Image | None, **options: object) -> bytes:
    messages = TEXT if image is None else page_message(image)
    return httpx.Request("POST", "http://x", json={"messages": messages, **options}).content


def num_vision_tokens(body: bytes) -> int:
    return chat_facts(body).num_vision_tokens


def test_a_chat_request_costs_what_its_images_cost():
    page = Image.new("RGB", (1654, 2339))
    gundam = plan_tiles(1654, 2339, MODES["gundam"]).num_image_tokens
    assert num_vision_tokens(body_of(None)) == 0
    assert num_vision_tokens(body_of(page)) == gundam
    assert num_vision_tokens(body_of(page, mm_processor_kwargs={"mode": "base"})) == 273
    assert num_vision_tokens(body_of(page, mm_processor_kwargs={"mode": 7})) == gundam
    remote = b'{"messages":[{"content":[{"image_url":{"url":"https://x/y.png"}}]}]}'
    assert page.size == USUAL_PAGE and num_vision_tokens(remote) == gundam
    for odd in (b"", b"[]", b'{"messages": 1}', b'{"messages": [1, {"content": [2]}]}', b"\xff"):
        assert num_vision_tokens(odd) == 0


@pytest.mark.parametrize(
    "url", ["", "ftp://host:1", "http://", "dns+", "http://host:99999", "http://[::1"]
)
def test_what_can_be_no_server_is_refused_at_once(url, capsys):
    assert main(["gateway", "--server", url]) == 2
    assert "no address of a server" in capsys.readouterr().err


def test_a_server_that_stays_away_is_told_of_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fleet, "PROBE_SECONDS", 0.05)
    with gateway(tmp_path, "http://127.0.0.1:9") as url:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            text = httpx.get(f"{url}/metrics/").text
            (line,) = [x for x in text.splitlines() if x.startswith("dsocr_replica_failures_total")]
            if float(line.split()[-1]) >= 3:
                break
    assert float(line.split()[-1]) >= 3
    assert sum("does not answer" in record.message for record in caplog.records) == 1


def test_a_server_that_wants_a_key_says_which(tmp_path, caplog):
    def refuse(self):
        self._send(401, {"error": {"message": "Unauthorized"}})

    from tests import fake_server as module

    with pytest.MonkeyPatch.context() as patch, fake_server() as server:
        patch.setattr(module._Handler, "do_GET", refuse)
        with gateway(tmp_path, server.url):
            assert "OPENAI_API_KEY" in caplog.text


def test_a_stream_that_is_left_before_it_began_is_ended_at_the_server():
    closed = []

    async def chunks():
        yield b"never asked for"

    async def close():
        closed.append(True)

    async def gone(message):
        raise OSError("the client has gone")

    async def run():
        stream = _Stream(forwarding.Answer(200, {}, b"first", chunks(), close))
        with pytest.raises(OSError):
            await stream.stream_response(gone)

    asyncio.run(run())
    assert closed == [True]
