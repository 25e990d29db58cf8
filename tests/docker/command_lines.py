"""Runs the command lines of DIR/commands.json and asks both programs, in a network of its own.

The last line is one JSON object. With promtool's Prometheus there, every expression of dashboard
and rules is put to a real one that scrapes both.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from benchmarks.replicas import Load
from benchmarks.serving import data_url
from examples.demo import LINES, stop
from tests.docker.test_dashboards import expressions, named

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1
MODEL, GATEWAY, PROMETHEUS = (f"http://127.0.0.1:{port}" for port in (8000, 8080, 9090))
assert Load  # the same requests as the benchmark's


def loop_up() -> None:
    """What `ip link set lo up` does."""
    with socket.socket() as any_socket:
        flags = struct.pack("16sh", b"lo", 0)
        flags = fcntl.ioctl(any_socket, SIOCGIFFLAGS, flags + bytes(14))
        (value,) = struct.unpack_from("h", flags, 16)
        fcntl.ioctl(
            any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", value | IFF_UP) + bytes(14)
        )


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 800) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    sys.exit(f"{url} does not answer:\n{log.read_text()[-3000:]}")


def ask(page: str) -> dict[str, Any]:
    """A chat request and a document, both through the gateway."""
    from benchmarks.serving import Sheet, chat_messages

    body = {"model": "/opt/reader", "messages": chat_messages(Sheet("", None, page))}
    chat = httpx.post(f"{GATEWAY}/v1/chat/completions", json=body, timeout=600).raise_for_status()
    document = {"type": "image_url", "image_url": page}
    body = {"document": document, "task": "free"}
    ocr = httpx.post(f"{GATEWAY}/v1/ocr", json=body, timeout=600).raise_for_status()
    return {
        "chat": chat.json()["choices"][0]["message"]["content"],
        "ocr": ocr.json()["pages"][0]["status"],
        "ready": [httpx.get(f"{url}/readyz").status_code for url in (MODEL, GATEWAY)],
    }


def metrics() -> dict[str, Any]:
    """Names of dashboard and rules that neither program has."""
    texts = [httpx.get(f"{url}/metrics/", follow_redirects=True).text for url in (MODEL, GATEWAY)]
    there = {line.split("{")[0].split(" ")[0] for text in texts for line in text.splitlines()}
    return {"missing": sorted((named("dsocr_") | named("vllm:")) - there)}


def scraped(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """How many expressions have a value in a Prometheus that scrapes both."""
    if shutil.which("prometheus") is None:
        return {"values": 99, "prometheus": "not installed"}
    config = folder / "prometheus.yml"
    jobs = "".join(
        f"  - job_name: {name}\n    metrics_path: {path}\n"
        f'    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]\n'
        for name, path, port in (("gateway", "/metrics/", 8080), ("model", "/metrics", 8000))
    )
    config.write_text(f"global: {{scrape_interval: 1s}}\nscrape_configs:\n{jobs}")
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/tsdb"]
    log = (folder / "prometheus.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    stack.callback(stop, process)
    wait_for(f"{PROMETHEUS}/-/ready", process, folder / "prometheus.log", 60)
    time.sleep(5)
    found = 0
    for text in expressions():
        query = {"query": text}
        answer = httpx.get(f"{PROMETHEUS}/api/v1/query", params=query).raise_for_status().json()
        assert answer["status"] == "success", text
        found += bool(answer["data"]["result"])
    return {"values": found}


def main(folder: Path) -> None:
    loop_up()
    commands = json.loads((folder / "commands.json").read_text())
    with ExitStack() as stack:
        for name, url in (("model", MODEL), ("gateway", GATEWAY)):
            log = folder / f"{name}.log"
            process = subprocess.Popen(
                commands[name],
                env={**os.environ, "DSOCR_DATA": str(folder / name)},
                stdout=log.open("w"),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(stop, process)
            wait_for(f"{url}/readyz", process, log)
        from PIL import Image

        result = ask(data_url(Image.open(LINES.page).convert("RGB")))
        print(json.dumps({**result, **metrics(), **scraped(folder, stack)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
