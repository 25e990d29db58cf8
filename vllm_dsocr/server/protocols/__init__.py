"""Protocols that products speak, one router each; every answer is a rendering of one document."""

from __future__ import annotations

from fastapi import APIRouter

from vllm_dsocr.server.protocols import (
    batches,
    docling,
    docling_socket,
    files,
    health,
    loader,
    mistral,
    ocr_jobs,
    views,
    web,
)
from vllm_dsocr.server.work.jobs import Jobs

ROUTERS: tuple[APIRouter, ...] = (
    health.probes,
    files.router,
    mistral.router,
    ocr_jobs.router,
    views.router,
    batches.router,
    docling.router,
    docling_socket.router,
    loader.router,
    web.router,
)


def register_jobs(jobs: Jobs) -> None:
    """Teaches the kinds of jobs that the protocols start."""
    jobs.register(mistral.JOB_KIND, mistral.run_job)
    jobs.register(batches.JOB_KIND, batches.run_job)
    jobs.register(docling.JOB_KIND, docling.run_job)
