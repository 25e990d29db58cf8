"""Files, as people have them for other trainers -> Samples, one after the other.

    folder of pages | JSONL | JSON list | parquet | saved or hub data set -> records -> Sample

Records are {image, prompt, answer}, {messages, images} (OpenAI, TRL) or {conversations, images}
(ShareGPT, LLaMA-Factory). Images are paths, base64 texts or bytes. Knows nothing of tokens.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from vllm_dsocr.config import IMAGE_TOKEN
from vllm_dsocr.page.files import IMAGE_SUFFIXES
from vllm_dsocr.page.prompt import TASKS

TEXT_SUFFIXES = (".md", ".txt")  # the first that lies beside an image is its text
KEYS = ("image", "images", "prompt", "answer")
TEXT = "utf-8-sig"  # editors on Windows begin files with a mark, which is no part of a text
HUB = "hub:"  # hub:OWNER/NAME or hub:OWNER/NAME:SPLIT
SHORTEST_BASE64 = 256  # characters; what is shorter is a path
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
SYSTEM = "system"


Source = Callable[[], Iterable["Sample"]]
Note = Callable[[str], object]


class DataError(ValueError):
    """Data that cannot be trained on; the message names the file and the record."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation: images in the order of its tags, and what the model is to write.

    prompt, answer: the last exchange.  earlier: those before it.
    """

    images: tuple[Path | bytes, ...]
    prompt: str
    answer: str
    earlier: tuple[tuple[str, str], ...] = ()

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """Every exchange, first to last."""
        return (*self.earlier, (self.prompt, self.answer))

    @property
    def context(self) -> str:
        """All that stands before the last answer, joined as serving joins messages."""
        return "".join(p + a for p, a in self.earlier) + self.prompt


def read_samples(
    path: str | Path, prompt: str = TASKS["free"], bad: Note | None = None
) -> list[Sample]:
    """All samples of a source; see `iter_samples`. Raises DataError, without `bad` for none too."""
    samples = list(iter_samples(path, prompt, bad))
    if not samples and bad is None:
        raise DataError(f"{path} holds no pages with their text")
    return samples


def iter_samples(
    path: str | Path, prompt: str = TASKS["free"], bad: Note | None = None
) -> Iterator[Sample]:
    """Samples one by one; `prompt` is that of pages without one.

    path: a folder of images with a `.md` or `.txt` of the same name beside them, a `.jsonl`,
    `.json` or `.parquet` file, the folder of a saved data set, or `hub:OWNER/NAME[:SPLIT]`. Paths
    of images are relative to the file's folder.
    bad: told what is wrong with each record that cannot be used; without it, the first of them
    raises DataError. So does a source that cannot be read at all.
    """
    if str(path).startswith(HUB):
        return _from_records(str(path), _hub_records(str(path)), Path(), prompt, bad)
    path = Path(path)
    if path.is_dir() and not (path / "dataset_info.json").exists():
        return _from_folder(path, prompt)
    folder = path if path.is_dir() else path.parent
    return _from_records(str(path), _records(path), folder, prompt, bad)


def _from_folder(folder: Path, prompt: str) -> Iterator[Sample]:
    images = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES)
    for image in images:
        texts = [image.with_suffix(suffix) for suffix in TEXT_SUFFIXES]
        text = next((text for text in texts if text.exists()), None)
        if text is not None:
            yield Sample((image,), prompt, text.read_text(encoding=TEXT).rstrip("\n"))


def _from_records(
    name: str,
    records: Iterable[tuple[str, Any]],
    folder: Path,
    prompt: str,
    bad: Note | None = None,
) -> Iterator[Sample]:
    try:
        for place, values in records:
            try:
                sample = sample_from(_parsed(values), folder, prompt)
            except ValueError as error:
                words = f"{name}, {place}: {error}"
                if bad is None:
                    raise DataError(words) from error
                bad(words)
                continue
            yield sample
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {name}: {error}") from error


def _parsed(values: Any) -> Any:
    try:
        return json.loads(values) if isinstance(values, str) else values
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from error


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """What a file holds, with the place of each; lines come as texts."""
    if path.suffix == ".parquet" or path.is_dir():
        yield from _dataset_records(path)
    elif path.suffix == ".json" and _begins(path) == "[":
        for number, values in enumerate(_json_list(path), 1):
            yield f"record {number}", values
    else:
        with path.open(encoding=TEXT) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"line {number}", line.strip()


def _begins(path: Path) -> str:
    """The first character; files of lines are called .json too."""
    with path.open(encoding=TEXT) as file:
        return next((line.lstrip()[0] for line in file if line.strip()), "")


def _json_list(path: Path) -> list[Any]:
    try:
        values: list[Any] = json.loads(path.read_text(encoding=TEXT))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: {error}") from error
    return values


def _dataset_records(path: Path) -> Iterator[tuple[str, Any]]:
    datasets = _datasets()
    if path.is_dir():
        rows = datasets.load_from_disk(str(path))
    else:
        rows = datasets.Dataset.from_parquet(str(path))
    yield from _rows(rows)


def _hub_records(name: str) -> Iterator[tuple[str, Any]]:
    owner, _, split = name.removeprefix(HUB).partition(":")
    yield from _rows(_datasets().load_dataset(owner, split=split or "train", streaming=True))


def _rows(rows: Any) -> Iterator[tuple[str, Any]]:
    """Images stay as they are stored: they are opened when a batch needs them."""
    datasets = _datasets()
    for column, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            rows = rows.cast_column(column, datasets.List(datasets.Image(decode=False)))
    for number, values in enumerate(rows, 1):
        yield f"record {number}", values


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("this data needs datasets: pip install 'vllm-dsocr[data]'") from error
    return datasets


def sample_from(values: Any, folder: Path, prompt: str = TASKS["free"]) -> Sample:
    """A record of any of the layouts -> Sample. Raises ValueError saying what is missing."""
    if not isinstance(values, Mapping):
        raise ValueError("a record is an object")
    values = {key: value for key, value in values.items() if value is not None}
    if "messages" in values or "conversations" in values:
        turns, own = _turns(values.get("messages") or values.get("conversations"))
        given = values.get("images", values.get("image")) or own
        images = _images(given, folder)
        turns = _with_tags(turns, len(images))
        return Sample(images, *turns[-1], tuple(turns[:-1]))
    return _plain(values, folder, prompt)


def _plain(values: Mapping[str, Any], folder: Path, prompt: str) -> Sample:
    if not isinstance(values.get("answer"), str):
        own = ", ".join(map(str, values)) or "none"
        raise ValueError(
            "a record has at least an 'answer', which is text, or 'messages' or 'conversations'; "
            f"the keys of this one: {own}"
        )
    unknown = sorted(set(values) - set(KEYS))
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; known are {', '.join(KEYS)}")
    if not isinstance(values.get("prompt", ""), str):
        raise ValueError("'prompt' is text")
    images = _images(values.get("images", values.get("image")), folder)
    return Sample(images, values.get("prompt", prompt), values["answer"])


def _turns(messages: Any) -> tuple[list[tuple[str, str]], list[Any]]:
    """Messages -> exchanges, and the images that stand in the messages themselves."""
    if not isinstance(messages, list) or not messages:
        raise ValueError("the messages are a list that is not empty")
    images: list[Any] = []
    said = [_said(message, images) for message in messages]
    system = said.pop(0)[1] if said and said[0][0] == SYSTEM else ""
    roles = [role for role, _ in said]
    if not said or roles != ["user", "assistant"] * (len(said) // 2):
        raise ValueError("messages alternate between user and assistant, who has the last word")
    texts = [text for _, text in said]
    texts[0] = system + texts[0]
    return list(zip(texts[::2], texts[1::2], strict=True)), images


def _said(message: Any, images: list[Any]) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise ValueError("a message is an object")
    role = message.get("role", message.get("from"))
    if role not in ROLES and role != SYSTEM:
        raise ValueError(f"a message is from user or assistant, not {role!r}")
    content = message.get("content", message.get("value"))
    text = content if isinstance(content, str) else _from_parts(content, images)
    return ROLES.get(role, SYSTEM), text


def _from_parts(parts: Any, images: list[Any]) -> str:
    """Content as a list of texts and images; tags that are not in the text stand before it."""
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise ValueError("the content of a message is a text or a list of parts")
    texts, count = [], 0
    for part in parts:
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif part.get("type") in ("image", "image_url"):
            count += 1
            url = part.get("image_url")
            source = url.get("url") if isinstance(url, Mapping) else part.get("image", url)
            if source is not None:
                images.append(source)
        else:
            raise ValueError("a part of a message is a text or an image")
    text = "\n".join(texts)
    missing = [IMAGE_TOKEN] * max(0, count - text.count(IMAGE_TOKEN))
    return "\n".join([*missing, text]) if text else "\n".join(missing)


def _with_tags(turns: list[tuple[str, str]], num_images: int) -> list[tuple[str, str]]:
    """Images without any tag stand before the first prompt, as serving places them."""
    if num_images and not any(IMAGE_TOKEN in prompt for prompt, _ in turns):
        prompt, answer = turns[0]
        return [("\n".join([*[IMAGE_TOKEN] * num_images, prompt]), answer), *turns[1:]]
    return turns


def _images(given: Any, folder: Path) -> tuple[Path | bytes, ...]:
    if given is None:
        return ()
    given = [given] if isinstance(given, (str, bytes, Mapping)) else given
    if not isinstance(given, list):
        raise ValueError("'image' is a path or a list of paths")
    return tuple(_image(source, folder) for source in given)


def _image(source: Any, folder: Path) -> Path | bytes:
    """A path, or the bytes of a base64 text or of a data set's {bytes, path}."""
    if isinstance(source, Mapping):
        source = source.get("bytes") or source.get("path")
    if isinstance(source, bytes):
        return source
    if not isinstance(source, str):
        raise ValueError("'image' is a path or a list of paths")
    if source.startswith(("http://", "https://")):
        raise ValueError("images are not fetched from the network: give a path or base64")
    if source.startswith("file://"):
        return Path(unquote(urlsplit(source).path))
    if source.startswith("data:"):
        return _decoded(source.partition(",")[2])
    if len(source) >= SHORTEST_BASE64 and "." not in source:
        return _decoded(source)
    return folder / source


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the base64 text of an image is damaged: {error}") from error
