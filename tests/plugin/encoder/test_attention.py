"""Which attention the encoder takes: flags, measuring, one decision for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from vllm.engine.arg_utils import EngineArgs
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from tests.plugin.engines import register
from vllm_dsocr.config import SamSizes
from vllm_dsocr.encoder.attention import AUTO, FORMS, PLAIN, Form, Forms, Grid
from vllm_dsocr.encoder.attention.choice import Trial, fastest, try_forms
from vllm_dsocr.plugin.encoder import attention

SIZES = SamSizes(
    width=32, layers=2, heads=2, global_attn_indexes=(1,), downsample_channels=(24, 16),
    neck_channels=8, window_size=4, pos_size=128,
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture
def forms() -> Iterator[dict[str, Form]]:
    before = dict(FORMS)
    yield FORMS
    FORMS.clear()
    FORMS.update(before)


def config(backend: str | None = None, **switches: object) -> Any:
    named = AttentionBackendEnum[backend] if backend else None
    multimodal = SimpleNamespace(mm_encoder_attn_backend=named)
    model = SimpleNamespace(multimodal_config=multimodal)
    return SimpleNamespace(model_config=model, additional_config={"dsocr": switches})


@pytest.mark.parametrize(
    "backend, switches, form",
    [
        (None, {}, AUTO),
        ("TORCH_SDPA", {}, "channels"),
        ("TRITON_ATTN", {}, "fused-128"),
        (None, {"attention": "mask"}, "mask"),
        ("TORCH_SDPA", {"attention": "vllm"}, "vllm"),
    ],
)
def test_flags_name_the_form(backend: str | None, switches: dict[str, str], form: str) -> None:
    assert attention.wanted(config(backend, **switches)).form == form


@pytest.mark.parametrize(
    "asked, words",
    [
        (config("FLASHINFER"), "FLASHINFER is none .* TORCH_SDPA, TRITON_ATTN"),
        (config("FLASH_ATTN"), "FLASH_ATTN needs a GPU"),
        (
            config(None, attention="fastest"),
            "dsocr.attention must be one of auto, .*fused-64.*, got 'fastest'",
        ),
    ],
)
def test_names_that_mean_nothing_here_are_refused(asked: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attention.wanted(asked)


@pytest.mark.parametrize("backend", sorted(AttentionBackendEnum.__members__))
def test_every_name_that_vllm_has_is_honoured_or_refused(
    forms: dict[str, Form], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention.current_platform.__class__, "is_cuda_alike", lambda self: True)
    if backend in attention.BACKENDS:
        form, plain = attention.wanted(config(backend))
        assert form in FORMS and plain in PLAIN
    else:
        with pytest.raises(ValueError, match=f"{backend} is none that DeepSeek-OCR's encoder has"):
            attention.wanted(config(backend))


def test_a_name_that_means_nothing_stops_the_start_before_an_engine(checkpoint: Path) -> None:
    register()
    args = EngineArgs(str(checkpoint), max_model_len=1024, mm_encoder_attn_backend="FLASHINFER")
    with pytest.raises(ValueError, match="FLASHINFER is none"):
        args.create_engine_config()


def test_a_wrong_or_broken_form_never_serves(forms: dict[str, Form]) -> None:
    def broken(grid: Grid) -> torch.Tensor:
        raise RuntimeError("no kernel image")

    forms["wrong"] = Form(lambda grid: FORMS["pieces"].call(grid) * 1.01)
    forms["broken"] = Form(broken)
    trials = try_forms(SIZES, [64, 128], CPU, torch.float32)
    notes = {trial.form: trial.note for trial in trials if trial.seconds is None}
    assert notes == {
        "wrong": "differs from the definition",
        "broken": "RuntimeError: no kernel image",
    }
    chosen = fastest(trials)
    assert set(chosen) == {(8, 0), (4, 0), (8, 4)}
    assert not {"wrong", "broken"} & set(chosen.values())


def test_the_fastest_serves() -> None:
    trials = [Trial((8, 0), "a", 3.0), Trial((8, 0), "b", 1.0), Trial((8, 0), "c", None)]
    assert fastest([*trials, Trial((4, 0), "a", 2.0)]) == {(8, 0): "b", (4, 0): "a"}


def test_when_time_is_up_the_usual_form_serves() -> None:
    trials = try_forms(SIZES, [128], CPU, torch.float32, seconds=0)
    assert set(fastest(trials).values()) == {"pieces"}
    assert "not tried: no time left" in {trial.note for trial in trials}


def test_what_was_measured_is_told() -> None:
    forms = Forms()
    trials = attention.choose(forms, SIZES, [128], torch.zeros(1))
    said = attention.described(forms, trials)
    assert f"8 x 8 {forms.chosen[8, 0]}" in said
    assert " ms" in said
    assert attention.described(Forms("mask")) == "mask, as named"
