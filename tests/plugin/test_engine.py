"""vLLM in this process behind the seam the pipeline uses, against `LLM.generate`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("vllm", reason="pip install 'vllm-dsocr[cpu]' or [cuda]")

from tests.plugin.engines import ENVIRONMENT, OPTIONS, prompt, register  # noqa: E402
from vllm_dsocr.engine import Completion, EngineError, EngineLost, Request  # noqa: E402
from vllm_dsocr.page.prompt import TASKS  # noqa: E402
from vllm_dsocr.page.source import open_image  # noqa: E402
from vllm_dsocr.plugin.engine import VllmEngine, _finish  # noqa: E402

if not entry_points(group="vllm.general_plugins", name="dsocr"):
    pytest.skip("its engine process finds no plugin: pip install -e .", allow_module_level=True)

TOKENS = 12
PROMPT = TASKS["free"]


def _complete(checkpoint: Path, requests: Sequence[Request]) -> list[Completion | Exception]:
    """Answers to requests that are made at once, on one engine."""

    async def ask() -> list[Completion | Exception]:
        async with VllmEngine(str(checkpoint), **OPTIONS) as engine:
            assert OPTIONS["max_num_seqs"] <= engine.max_in_flight <= 2 * OPTIONS["max_num_seqs"]
            tasks = (engine.complete(request) for request in requests)
            return await asyncio.gather(*tasks, return_exceptions=True)

    register()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        return asyncio.run(ask())


def test_pages_modes_and_refusals_in_one_batch(
    checkpoint: Path, pages: dict[str, Image.Image], llm
) -> None:
    from vllm import SamplingParams

    page = open_image(pages["v3_small"])
    modes = ["tiny", "base"]
    requests = [Request(page, PROMPT, mode, TOKENS) for mode in modes]
    refused = Request(page, "no image tag", "tiny", TOKENS)
    too_long = Request(page, PROMPT + " Free OCR." * 2000, "tiny", TOKENS)
    *answers, refusal, refusal_of_length = _complete(checkpoint, [*requests, refused, too_long])
    params = SamplingParams(temperature=0, max_tokens=TOKENS, skip_special_tokens=False)
    prompts = [prompt(PROMPT, page, mode=mode) for mode in modes]
    expected = llm.generate(prompts, params, use_tqdm=False)
    assert [a.text for a in answers] == [output.outputs[0].text for output in expected]
    assert [a.num_vision_tokens for a in answers] == [73, 273]
    assert {(a.finish, a.num_text_tokens) for a in answers} == {("length", TOKENS)}
    assert isinstance(refusal, EngineError)
    assert "<image>" in str(refusal)
    assert isinstance(refusal_of_length, EngineError)
    assert "maximum context length" in str(refusal_of_length)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("stop", "stop"), ("length", "length"), ("repetition", "repetition"), ("abort", "abort")],
)
def test_only_what_the_model_ended_has_stopped(reason: str, finish: str) -> None:
    """An answer that was cut off from outside is half a page."""
    assert _finish(reason) == finish
    assert _finish(None) == "abort"


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    async def enter() -> None:
        async with VllmEngine(str(tmp_path)):
            pass

    with pytest.raises(EngineLost, match="vLLM does not start with"):
        asyncio.run(enter())
