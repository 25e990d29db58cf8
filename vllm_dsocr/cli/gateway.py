"""`dsocr gateway --server URL ...`: the OCR service in front of servers, without a model here."""

from __future__ import annotations

from typing import Annotated

import typer

from vllm_dsocr.cli.lazy import APP, examples
from vllm_dsocr.server.flags import with_settings
from vllm_dsocr.server.settings import Settings

app = typer.Typer(**APP)


def _server(text: str) -> str:
    """A URL as it was typed. Raises BadParameter for what can be no server's."""
    from vllm_dsocr.options import is_address

    if not is_address(text.strip().removeprefix("dns+")):
        raise typer.BadParameter(f"{text!r} is no address of a server, such as http://HOST:8000")
    return text.strip()


@app.command(
    epilog=examples(
        "dsocr gateway --server http://localhost:8000",
        "dsocr gateway --server http://gpu1:8000 --server http://gpu2:8000 --port 80",
        "dsocr gateway --server http://gpu1:8000 --database postgresql+psycopg://user@host/dsocr",
        "DSOCR_API_KEYS=secret dsocr gateway --server http://localhost:8000",
    ),
)
@with_settings
def gateway(
    *,
    server: Annotated[
        list[str],
        typer.Option(
            parser=_server,
            metavar="URL",
            help="an OpenAI-compatible server, such as http://HOST:8000; may be repeated",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="the servers' name for it; else the first they list")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen at")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen at", min=0, max=65535)] = 8080,
    concurrency: Annotated[
        int | None, typer.Option(help="pages in flight at each server", min=1)
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "info",
    settings: Settings,
) -> int:
    """Serves OCR protocols (Mistral, docling-serve, Open WebUI), a web page and the servers' own
    chat API; pages and chat go to the servers named, the least loaded first, with the key in
    OPENAI_API_KEY. One that dies, hangs or fails is replaced by another. Every setting is also an
    environment variable: --max-pages is DSOCR_MAX_PAGES.
    """
    from vllm_dsocr.server.run import run_gateway

    return run_gateway(server, model, settings, host, port, concurrency, log_level)
