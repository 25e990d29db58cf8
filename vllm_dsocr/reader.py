"""Documents from a program: `convert` a file, `read` a page, or keep a `Reader` for many of them.

    from vllm_dsocr import convert
    document = convert("a.pdf", server="http://localhost:8000")
    print(document.markdown)

Each has an async variant whose name begins with `a`. The command line is a caller of `Reader`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.engine import Completion, Engine, Request
from vllm_dsocr.hosts import EngineChoice, make_engine
from vllm_dsocr.loop import LoopThread
from vllm_dsocr.options import check_values
from vllm_dsocr.page.fetch import fetch, is_url, url_name
from vllm_dsocr.page.files import ReadOptions, iter_pages
from vllm_dsocr.page.ranges import ALL_PAGES, PageRanges
from vllm_dsocr.page.source import PageError, Source, open_image
from vllm_dsocr.pipeline.document import Event
from vllm_dsocr.pipeline.finish import OutputSettings
from vllm_dsocr.pipeline.inputs import Download, Inputs, find_inputs
from vllm_dsocr.pipeline.result import Document
from vllm_dsocr.pipeline.retry import read_page
from vllm_dsocr.pipeline.run import Conversion
from vllm_dsocr.pipeline.settings import Effort, ReadSettings
from vllm_dsocr.pipeline.work import Work
from vllm_dsocr.render.finished import RenderOptions

T = TypeVar("T")
SERVER_TIMEOUT = 600.0  # s for all tries of a page, where a server reads and nothing else is said
_CHOICE = {field.name for field in fields(EngineChoice)}
_SETTINGS = {field.name for field in fields(ReadSettings)} - {"model"}
_EFFORT = {field.name for field in fields(Effort)}
_RENDERING = {field.name for field in fields(RenderOptions)}


class Reader:
    """One engine, loaded when the first page needs it and kept for all that follow.

    options: the fields of `hosts.EngineChoice` (server, model, engine, ...), of
    `pipeline.settings.ReadSettings` (task, mode, dpi, ...), of `Effort` (retries, timeout, ...) and
    of `render.finished.RenderOptions` (tables, math, ...); `password` of PDFs.  Raises TypeError
    for any other, ValueError for a value that one does not take.  Use it in `with`, in as many
    threads as you like, or in `async with`.
    """

    def __init__(self, *, password: str | None = None, **options: Any) -> None:
        unknown = sorted(options.keys() - _CHOICE - _SETTINGS - _EFFORT - _RENDERING)
        if unknown:
            raise TypeError(f"Reader has no option {unknown[0]!r}")
        check_values(options)
        self.choice = EngineChoice(**_only(options, _CHOICE))
        effort = _only(options, _EFFORT)
        if self.choice.server is not None and effort.get("timeout") is None:
            effort["timeout"] = SERVER_TIMEOUT
        self.effort = Effort(**effort)
        self._settings = _only(options, _SETTINGS)
        self._rendering = RenderOptions(**_only(options, _RENDERING))
        self._password = password
        self._engine: _KeptEngine | None = None
        self._loop: LoopThread | None = None
        self._making = asyncio.Lock()
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        ReadSettings("", **self._settings).prompt  # noqa: B018  raises for what is no task

    def __enter__(self) -> Reader:
        self._loop = LoopThread()
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._loop is not None
        loop, self._loop = self._loop, None
        loop.close(self.aclose())

    async def __aenter__(self) -> Reader:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Frees what the engine holds."""
        if self._engine is not None:
            await self._engine.close()
            self._engine = None

    async def arun(
        self,
        inputs: Inputs,
        out: Path,
        output: OutputSettings | None = None,
        report: Callable[[Event], None] = lambda event: None,
    ) -> list[Event]:
        """Converts files into `out`; summaries of all documents, in order.

        Raises EngineLost, CannotWrite, TooManyFailures: what is recorded by then stays.
        """
        engine = await self._ready()
        conversion = Conversion(
            engine,
            ReadSettings(engine.model, **self._settings),
            output or OutputSettings(),
            out,
            report,
            self.effort,
            self._password,
        )
        return await conversion.run(inputs.files, passed_over=dict(inputs.passed_over))

    async def work(self, output: OutputSettings) -> Work:
        """What a run is asked to do, for one that goes on elsewhere. Raises as `arun`."""
        engine = await self._ready()
        settings = ReadSettings(engine.model, **self._settings)
        return Work(settings, output, self.effort, self._password)

    async def aconvert(
        self,
        source: str | Path,
        out: str | Path | None = None,
        pages: str = str(ALL_PAGES),
        allow_hosts: Collection[str] = (),
    ) -> Document:
        """One file, or URL, as a document, in a folder below `out` or else in a temporary one.

        pages: such as "1-3,7".  Those that ask for the same file in the same `out` take turns.
        Raises PageError for a file that cannot be read or has no such page, ValueError for `pages`
        that are none, and what `arun` raises.
        """
        if not isinstance(source, str | os.PathLike):
            raise TypeError("convert takes a path or URL; read takes images and their bytes too")
        wanted = PageRanges.parse(str(pages))
        keep = tempfile.TemporaryDirectory(prefix="dsocr-")
        target = Path(out) if out is not None else Path(keep.name) / "out"
        (place,) = await asyncio.to_thread(fetched, [str(source)], Path(keep.name), allow_hosts)
        inputs = find_inputs([place], target)
        if len(inputs.files) != 1:
            raise PageError(f"{source} is a folder; convert takes one file")
        output = OutputSettings(wanted, options=self._rendering)
        key = os.path.abspath(target), inputs.files[0].identity
        async with self._turns.setdefault(key, asyncio.Lock()):
            (summary,) = await self.arun(inputs, target, output)
        if summary["failed"] or not summary["statuses"]:
            raise PageError(f"{source}: {summary['reason']}")
        return Document(target / inputs.files[0].name, keep)

    async def aread(self, source: Source, number: int = 1) -> Page:
        """One page: an image (path, bytes, PIL), or page `number` of a PDF. Nothing is written.

        Raises PageError, EngineLost; a page without an answer has status `failed`.
        """
        image = await asyncio.to_thread(self._image, source, number)
        engine = await self._ready()
        settings = ReadSettings(engine.model, **self._settings)
        await engine.__aenter__()
        request = settings.request(image, number)
        page = Page(number, "failed", image.width, image.height)
        return await read_page(engine, request, settings, page, self.effort)

    def convert(
        self,
        source: str | Path,
        out: str | Path | None = None,
        pages: str = str(ALL_PAGES),
        allow_hosts: Collection[str] = (),
    ) -> Document:
        """See `aconvert`."""
        return self._run(self.aconvert(source, out, pages, allow_hosts))

    def read(self, source: Source, number: int = 1) -> Page:
        """See `aread`."""
        return self._run(self.aread(source, number))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise RuntimeError("a Reader is used inside `with Reader(...) as reader:`")
        return self._loop.run(work)

    async def _ready(self) -> _KeptEngine:
        async with self._making:  # callers that come at once share the one that is made
            if self._engine is None:
                self._engine = _KeptEngine(await make_engine(self.choice))
        return self._engine

    def _image(self, source: Source, number: int) -> Any:
        settings = ReadSettings("", **self._settings)
        if not isinstance(source, (str, Path)):
            return open_image(source, alpha=settings.alpha)
        options = ReadOptions(settings.dpi, settings.alpha, self._password)
        pages = iter_pages(Path(source), PageRanges(((number, number),)), options)
        page = next(pages, None)
        if page is None:
            raise PageError(f"{source} has no page {number}")
        try:
            return page.load()
        finally:
            pages.close()


class _KeptEngine:
    """An engine that is entered once and left when it is closed, not when a run ends."""

    def __init__(self, engine: Engine) -> None:
        self.model = engine.model
        self._engine = engine
        self._is_entered = False
        self._entering = asyncio.Lock()

    @property
    def max_in_flight(self) -> int:
        return self._engine.max_in_flight

    @property
    def versions(self) -> Any:
        return self._engine.versions

    async def __aenter__(self) -> _KeptEngine:
        async with self._entering:
            if not self._is_entered:
                await self._engine.__aenter__()
                self._is_entered = True
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Stays."""

    async def close(self) -> None:
        if self._is_entered:
            self._is_entered = False
            await self._engine.__aexit__(None, None, None)

    async def complete(self, request: Request) -> Completion:
        return await self._engine.complete(request)


def fetched(
    sources: Sequence[str], folder: Path, allow_hosts: Collection[str] = ()
) -> list[Path | Download]:
    """The sources with URLs fetched into `folder`; what cannot be had carries its reason."""
    places: list[Path | Download] = []
    for index, text in enumerate(sources):
        if not is_url(text):
            places.append(Path(text))
            continue
        own = folder / f"download-{index}"
        own.mkdir(exist_ok=True)
        try:
            places.append(Download(fetch(text, own, allow_hosts, typed=True), text))
        except PageError as error:
            places.append(Download(own / url_name(text), text, error))
    return places


def convert(
    source: str | Path,
    out: str | Path | None = None,
    pages: str = str(ALL_PAGES),
    **options: Any,
) -> Document:
    """One file as a document; options as for `Reader`: `server=` or `model=` and more."""
    with Reader(**options) as reader:
        return reader.convert(source, out, pages)


async def aconvert(
    source: str | Path,
    out: str | Path | None = None,
    pages: str = str(ALL_PAGES),
    **options: Any,
) -> Document:
    """See `convert`."""
    async with Reader(**options) as reader:
        return await reader.aconvert(source, out, pages)


def read(source: Source, number: int = 1, **options: Any) -> Page:
    """One page, read; options as for `Reader`."""
    with Reader(**options) as reader:
        return reader.read(source, number)


async def aread(source: Source, number: int = 1, **options: Any) -> Page:
    """See `read`."""
    async with Reader(**options) as reader:
        return await reader.aread(source, number)


def _only(options: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}
