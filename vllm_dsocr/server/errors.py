"""What goes wrong on the way to an answer -> a status and one sentence, never a trace.

Protocols shape the body; here are the status and the words. Knows nothing of the engine.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping


class ApiError(Exception):
    """Refusal or failure of one request: an HTTP status, one sentence, headers for the client."""

    def __init__(
        self, status: int, sentence: str, headers: Mapping[str, str] | None = None, where: str = ""
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = dict(headers or {})
        self.where = where  # the field of the body that is wrong


def bad_request(sentence: str, where: str = "") -> ApiError:
    """The request asks for what does not exist here."""
    return ApiError(400, sentence, where=where)


def not_found(what: str) -> ApiError:
    """No such thing, or not this client's: the same words for both."""
    return ApiError(404, f"there is no such {what}")


def too_large(sentence: str) -> ApiError:
    return ApiError(413, sentence)


def unsupported(sentence: str) -> ApiError:
    """The bytes are of a kind that is not read."""
    return ApiError(415, sentence)


def unreadable(sentence: str, where: str = "") -> ApiError:
    """The request has the right form and its content cannot be processed."""
    return ApiError(422, sentence, where=where)


def busy(seconds: int = 5) -> ApiError:
    """Too much at once; the client is told when to come again."""
    return ApiError(429, "the server is busy; try again later", {"Retry-After": str(seconds)})


def engine_gone() -> ApiError:
    return ApiError(503, "the model is not available now", {"Retry-After": "30"})


def disk_full() -> ApiError:
    return ApiError(507, "the server's disk is full", {"Retry-After": "300"})


def is_disk_full(error: BaseException) -> bool:
    """Whether a store or a database says so."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "disk is full" in str(error) or "No space left on device" in str(error)


def out_of_time(sentence: str) -> ApiError:
    return ApiError(504, sentence)
