"""Tells a host of the operator's choice that a job has ended, signed so that it can be believed."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Collection
from urllib.parse import urlsplit

import httpx

from vllm_dsocr.server.errors import bad_request
from vllm_dsocr.server.storage.tables import Job

_WAITS = (0.0, 2.0, 10.0)  # s before each try


class Webhooks:
    """Sends to allowed hosts only.

    The header `X-Dsocr-Signature` is `t=UNIX_SECONDS,v1=HEX`, the HMAC-SHA256 with the operator's
    secret over `UNIX_SECONDS.BODY`.
    """

    def __init__(self, hosts: Collection[str], secret: str) -> None:
        self._hosts = {host.lower() for host in hosts}
        self._secret = secret.encode()

    def check(self, url: str) -> None:
        """Raises ApiError for a URL that would not be told."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or (parts.hostname or "") not in self._hosts:
            raise bad_request("webhooks are not sent to this host; have the operator allow it")

    async def send(self, job: Job) -> None:
        """Tells of a job, three times at most; one that names nobody is passed over."""
        if not job.webhook:
            return
        self.check(job.webhook)
        body = json.dumps({"id": job.id, "kind": job.kind, "status": job.state}).encode()
        async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
            for wait in _WAITS:
                await asyncio.sleep(wait)
                headers = {"Content-Type": "application/json", **self._signature(body)}
                try:
                    answer = await client.post(job.webhook, content=body, headers=headers)
                except httpx.HTTPError:
                    continue
                if answer.is_success:
                    return

    def _signature(self, body: bytes) -> dict[str, str]:
        if not self._secret:
            return {}
        moment = str(int(time.time()))
        digest = hmac.new(self._secret, f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
        return {"X-Dsocr-Signature": f"t={moment},v1={digest}"}
