"""`dsocr tune`: the encoder's attention and the experts' block sizes, measured on this device.

    sides of views, device, dtype -> a table of attention forms; --json FILE as data
    the experts on a GPU -> vLLM's file of tuned block sizes, in a folder where serving finds it

A server chooses its attention at start by itself; the first table shows what it will find, and what
to name in `--additional-config '{"dsocr": {"attention": "..."}}'` to spare it the seconds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vllm_dsocr.cli.lazy import APP, examples

if TYPE_CHECKING:
    import torch

    from vllm_dsocr.encoder.attention.choice import Trial

EXIT_NO_DEVICE = 2
DTYPES = ("bfloat16", "float16", "float32")

app = typer.Typer(**APP)


def _dtype(name: str) -> str:
    if name not in DTYPES:
        raise typer.BadParameter(f"must be one of {', '.join(DTYPES)}, got {name!r}")
    return name


@app.command(epilog=examples("dsocr tune", "dsocr tune --side 1280 --side 1024 --json forms.json"))
def tune(
    side: Annotated[
        list[int], typer.Option(help="side of a view in px, may be repeated", min=64, max=1280)
    ] = [1024, 640],  # noqa: B006 -- typer copies it
    device: Annotated[str, typer.Option(help="cuda, cuda:1, cpu; default: a GPU if any")] = "",
    dtype: Annotated[str, typer.Option(help=f"one of {', '.join(DTYPES)}", callback=_dtype)] = (
        DTYPES[0]
    ),
    seconds: Annotated[float, typer.Option(help="for the attention", min=0)] = 60.0,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="write the attention's times there"),
    ] = None,
    experts: Annotated[
        bool, typer.Option(help="tune the experts too; needs a GPU and vLLM")
    ] = True,
    experts_seconds: Annotated[float, typer.Option(help="for the experts", min=0)] = 600.0,
    tensor_parallel_size: Annotated[
        int, typer.Option(help="ranks that the experts are cut for", min=1)
    ] = 1,
    folder: Annotated[
        Path | None,
        typer.Option(help="for the experts' file; default: where serving looks, in the cache"),
    ] = None,
) -> int:
    """Time the vision encoder's attention, and tune vLLM's kernel for the experts."""
    import torch

    from vllm_dsocr.config import SamSizes
    from vllm_dsocr.encoder.attention.choice import fastest, try_forms

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        print(f"dsocr tune: {str(error).splitlines()[0]}", file=sys.stderr)
        return EXIT_NO_DEVICE
    _vllms_forms()
    trials = try_forms(SamSizes(), side, place, getattr(torch, dtype), seconds)
    chosen = fastest(trials)
    print("\n".join(_lines(trials, chosen)))
    if json_file:
        json_file.write_text(json.dumps([asdict(trial) for trial in trials]), encoding="utf-8")
    if experts:
        _tune_experts(place, getattr(torch, dtype), experts_seconds, tensor_parallel_size, folder)
    return 0


def _tune_experts(
    place: torch.device, dtype: torch.dtype, seconds: float, ranks: int, folder: Path | None
) -> None:
    if place.type != "cuda":
        print("\nexperts: not tuned, their kernel needs a GPU")
        return
    try:
        from vllm_dsocr.plugin.setup.tuned import tuned_folder
        from vllm_dsocr.plugin.tuning.experts import Experts, OnDevice, tune, write
    except ImportError as error:
        print(f"\nexperts: not tuned, {error}")
        return
    import torch

    torch.cuda.set_device(place)
    sizes, done = Experts.published(ranks), []
    print(f"\n{'tokens per step':<22}{'before':>12}{'after':>12}")
    for each in tune(sizes, OnDevice(sizes, dtype), seconds):
        done.append(each)
        before, after = (f"{s * 1e6:.1f} us" for s in (each.before, each.after))
        print(f"{each.tokens:<22}{before:>12}{after:>12}", flush=True)
    print(f"written: {write(done, sizes, folder or tuned_folder())}")


def _vllms_forms() -> None:
    """vLLM's own kernels take part where vLLM is installed."""
    try:
        from vllm_dsocr.plugin.encoder.attention import register_forms
    except ImportError:
        return
    register_forms()


def _lines(trials: Iterable[Trial], chosen: dict[Any, str]) -> list[str]:
    lines = [f"{'attention over':<22}{'form':<18}{'time':>12}{'error':>10}"]
    for trial in trials:
        patches, window = trial.shape
        where = f"{patches} x {patches}" + (f" in {window} x {window}" if window else "")
        time = "" if trial.seconds is None else f"{trial.seconds * 1e3:.3f} ms"
        error = "" if trial.error is None else f"{trial.error:.1e}"
        mark = "fastest" if chosen.get(trial.shape) == trial.form else trial.note
        lines.append(f"{where:<22}{trial.form:<18}{time:>12}{error:>10}  {mark}".rstrip())
    return lines
