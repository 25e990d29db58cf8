"""A small OpenAI-compatible server: what it answers depends on the request's image and options.

Real HTTP on a real port, so that clients are tested as they are. `answer` is given the parsed body
of a chat request and the decoded page, and returns a chat completion's fields or a Trouble.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Trouble:
    """An HTTP error, or with status 0 a connection that just ends."""

    status: int
    message: str = "trouble"


@dataclass(frozen=True)
class Answer:
    """What a chat completion says."""

    text: str
    finish: str = "stop"
    num_text_tokens: int = 7
    num_prompt_tokens: int = 120
    logprobs: Any = None


@dataclass(frozen=True)
class Raw:
    """A body of any kind, with status 200."""

    body: bytes
    media_type: str = "application/json"


@dataclass(frozen=True)
class Stream:
    """Server-sent events, one a piece of text; a number is a pause in seconds, None a broken end.

    `hung_up` is set when the client left before the end.
    """

    pieces: Iterable[str | float | None]
    hung_up: threading.Event = field(default_factory=threading.Event)


Responder = Callable[[dict[str, Any], Image.Image], Answer | Trouble | Raw | Stream]
NUM_PROMPT_TEXT_TOKENS = 10


def page_text(body: dict[str, Any], image: Image.Image) -> Answer:
    """Names the page's pixels; has a title and a figure."""
    digest = hashlib.sha256(image.tobytes()).hexdigest()[:12]
    return Answer(
        f"<|ref|>title<|/ref|><|det|>[[10, 10, 900, 90]]<|/det|>\n# Page {digest}\n\n"
        "<|ref|>image<|/ref|><|det|>[[0, 0, 499, 499]]<|/det|>\n<｜end▁of▁sentence｜>"
    )


@dataclass
class FakeServer:
    """A running server; `bodies` are the chat requests it got, `headers` theirs, `cards` models."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    cards: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "fake-reader"}])


@contextmanager
def fake_server(respond: Responder = page_text) -> Iterator[FakeServer]:
    """Serves until left."""
    state = FakeServer()
    handler = type("Handler", (_Handler,), {"respond": staticmethod(respond), "state": state})
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        state.url = f"http://127.0.0.1:{server.server_port}/v1"
        yield state
    finally:
        server.shutdown()
        server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512  # clients that come at once


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    respond: Responder
    state: FakeServer

    def do_GET(self) -> None:
        answers = {
            "/v1/models": {
                "object": "list",
                "data": [{"object": "model", **card} for card in self.state.cards],
            },
            "/version": {"version": "9.9"},
            "/health": {},
        }
        self._send(200 if self.path in answers else 404, answers.get(self.path, {}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            refused = "<image>" in body["prompt"]  # as a server of this model does
            self._send(400 if refused else 200, {"count": NUM_PROMPT_TEXT_TOKENS})
            return
        self.state.bodies.append(body)
        self.state.headers.append({k.lower(): v for k, v in self.headers.items()})
        answer = self.respond(body, _image(body))
        if isinstance(answer, Answer):
            self._send(200, _completion(answer))
        elif isinstance(answer, Stream):
            self._stream(answer)
        elif isinstance(answer, Raw):
            self._send_bytes(200, answer.body, answer.media_type)
        elif answer.status:
            self._send(answer.status, {"error": {"message": answer.message}})
        else:
            self.close_connection = True

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self._send_bytes(status, json.dumps(body).encode(), "application/json")

    def _stream(self, stream: Stream) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for piece in stream.pieces:
                if isinstance(piece, float):
                    time.sleep(piece)
                elif piece is None:
                    self.close_connection = True
                    return
                else:
                    self._event(json.dumps(_chunk(piece)))
            self._event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            stream.hung_up.set()
            self.close_connection = True

    def _event(self, text: str) -> None:
        event = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))

    def _send_bytes(self, status: int, data: bytes, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _image(body: dict[str, Any]) -> Image.Image | None:
    content = body["messages"][0]["content"] if "messages" in body else ""
    if isinstance(content, str):
        return None
    url = content[0]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def _chunk(text: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    return {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "fake-reader",
        "choices": [choice],
    }


def _completion(answer: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "fake-reader",
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": answer.finish,
                "logprobs": answer.logprobs,
            }
        ],
        "usage": {
            "prompt_tokens": answer.num_prompt_tokens,
            "completion_tokens": answer.num_text_tokens,
            "total_tokens": answer.num_prompt_tokens + answer.num_text_tokens,
        },
    }
