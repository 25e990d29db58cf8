"""Two processes do what one does: losses, weights and error rates of the same global batches.

Some ranks have only text, others pages of several grids; few tokens leave experts without any.
"""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from tests.hf.training import sharded_run
from vllm_dsocr.cli import main
from vllm_dsocr.hf import DeepseekOCRForCausalLM, DeepseekOCRProcessor
from vllm_dsocr.hf.training import SettingsError, read_samples
from vllm_dsocr.hf.training.trainer import refuse_data_parallel

SIZES = [(50, 50), None, (60, 200), (50, 40), None, (130, 60), (60, 60), None]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pages with and without tiles and samples of text alone, in turn."""
    folder = tmp_path_factory.mktemp("mixed")
    lines = []
    for number, size in enumerate(SIZES):
        line = {"answer": "abc " * (number % 3 + 1), "prompt": "Say abc."}
        if size:
            image = Image.new("L", size, "white")
            ImageDraw.Draw(image).text((5, 5), str(number), fill="black")
            image.save(folder / f"{number}.png")
            line |= {"image": f"{number}.png", "prompt": "<image>\nFree OCR."}
        lines.append(json.dumps(line))
    (folder / "data.jsonl").write_text("\n".join(lines))
    return folder / "data.jsonl"


def torchrun(*command):
    """Two processes with gloo."""
    root = Path(__file__).parents[3]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", *map(str, command)],
        env=environment, cwd=root, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def config(folder, tiny_path, data, per_device, values=None, **more):
    """Of `dsocr train`; values: its own keys, more: those of the Trainer."""
    folder.mkdir()
    trainer = {"max_steps": 3, "save_steps": 3, "logging_steps": 1, "learning_rate": 2e-4,
               "per_device_train_batch_size": per_device, "use_cpu": True, "disable_tqdm": True,
               "gradient_checkpointing": True, "lr_scheduler_type": "constant", "seed": 3,
               "per_device_eval_batch_size": 1, **more}  # fmt: skip
    values = {"model": str(tiny_path), "data": str(data), "output": str(folder / "out"),
              "page": sharded_run.OPTIONS, "trainer": trainer, **(values or {})}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "config.yaml")


def history(folder, key, steps=3):
    state = json.loads((folder / f"out/checkpoint-{steps}/trainer_state.json").read_text())
    return [line[key] for line in state["log_history"] if key in line]


def test_two_processes_train_as_one(tmp_path, tiny_path, data):
    held_out = {"eval_data": str(data), "eval_pages": 3}
    steps = {"eval_strategy": "steps", "eval_steps": 3}
    one = config(tmp_path / "one", tiny_path, data, 2, held_out, **steps)
    assert main(["train", one]) == 0
    two = config(tmp_path / "two", tiny_path, data, 1, held_out, **steps)
    printed = torchrun("-m", "vllm_dsocr.cli", "train", two)
    losses = history(tmp_path / "one", "loss")
    assert len(losses) == 3
    assert history(tmp_path / "two", "loss") == pytest.approx(losses, rel=1e-5)
    assert history(tmp_path / "two", "eval_cer") == history(tmp_path / "one", "eval_cer")
    assert sum(line.startswith('{"') for line in printed.splitlines()) == 1  # the first rank's
    names = {path.name for path in (tmp_path / "one" / "out").iterdir()}
    assert {path.name for path in (tmp_path / "two" / "out").iterdir()} == names


@pytest.mark.slow
def test_ranks_share_a_stream_and_learn_each_page_once_a_pass(tmp_path, tiny_path, data):
    """Two passes over three samples: in the last step of each one rank has nothing left."""
    lines = data.read_text().splitlines()[:3]
    bad = json.dumps({"image": "missing.png", "answer": "abc"})
    stream = data.with_name("stream.jsonl")
    stream.write_text("\n".join([lines[0], bad, *lines[1:]]))
    steps = {"max_steps": 4, "save_steps": 4}
    one = config(tmp_path / "one", tiny_path, stream, 2, {"stream": True}, **steps)
    two = config(tmp_path / "two", tiny_path, stream, 1, {"stream": True}, **steps)
    assert main(["train", one]) == 0
    torchrun("-m", "vllm_dsocr.cli", "train", two)
    losses = history(tmp_path / "one", "loss", steps=4)
    assert len(losses) == 4
    assert history(tmp_path / "two", "loss", steps=4) == pytest.approx(losses, rel=1e-5)


def test_a_model_in_shards_trains_as_a_whole_one(tmp_path, tiny_path, data):
    out = tmp_path / "sharded"
    torchrun(sharded_run.__file__, tiny_path, data, out)
    processor = DeepseekOCRProcessor.from_pretrained(tiny_path, **sharded_run.OPTIONS)
    model, losses = sharded_run.loaded(tiny_path), []
    for batch, labels in sharded_run.batches(processor, data, 0, 1):
        losses.append(sharded_run.step(model, batch, labels, 1).item())
    assert json.loads((out / "losses.json").read_text()) == pytest.approx(losses, rel=1e-5)
    for rank, sample in enumerate(read_samples(data)[:2]):
        own = sharded_run.read(model, processor, sample)
        assert json.loads((out / f"read-{rank}.json").read_text()) == own

    before = load_file(tiny_path / "model.safetensors")
    after = load_file(out / "model.safetensors")
    assert {n: (t.dtype, t.shape) for n, t in after.items()} == {
        n: (t.dtype, t.shape) for n, t in before.items()
    }
    again = DeepseekOCRForCausalLM.from_pretrained(out, dtype="auto")
    assert again.dtype == torch.bfloat16
    own = dict(model.named_parameters())
    for name, parameter in again.named_parameters():
        torch.testing.assert_close(parameter.float(), own[name].bfloat16().float(), atol=1e-2,
                                   rtol=1e-2)  # fmt: skip
    DeepseekOCRProcessor.from_pretrained(out)


ZERO = {
    "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
    "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto", "zero_allow_untested_optimizer": True,
}  # fmt: skip
SHARDS = {
    "FSDP": {"fsdp": True, "fsdp_config": {"version": 2}, "gradient_checkpointing": False},
    "DEEPSPEED": {"deepspeed": ZERO, "gradient_checkpointing": False},
}


STEPS = {"max_steps": 2, "save_steps": 2}


@pytest.fixture(scope="module")
def held_out(data):
    """A page and a text, read once, at the end."""
    path = data.with_name("held-out.jsonl")
    path.write_text("\n".join(data.read_text().splitlines()[:2]))
    return {"eval_data": str(path)}


@pytest.fixture(scope="module")
def in_one(tmp_path_factory, tiny_path, data, held_out):
    """What one process makes of two steps: its folder and its last metrics."""
    folder = tmp_path_factory.mktemp("in-one") / "one"
    with redirect_stdout(io.StringIO()) as printed:
        assert main(["train", config(folder, tiny_path, data, 2, held_out, **STEPS)]) == 0
    return folder, json.loads(printed.getvalue().splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHARDS)
def test_the_trainer_trains_reads_and_saves_a_model_in_shards(
    kind, tmp_path, tiny_path, data, held_out, in_one
):
    """By FSDP2 and by ZeRO-3; one rank has pages where the other has text."""
    if kind == "DEEPSPEED":
        pytest.importorskip("deepspeed")
    one, metrics = in_one
    two = config(tmp_path / "two", tiny_path, data, 1, held_out, **STEPS, **SHARDS[kind])
    printed = torchrun(Path(__file__).with_name("shards_on_cpu.py"), kind, two)
    (line,) = [line for line in printed.splitlines() if line.startswith('{"eval')]
    assert json.loads(line)["eval_cer"] == metrics["eval_cer"]
    losses = history(one, "loss", steps=2)
    assert history(tmp_path / "two", "loss", steps=2) == pytest.approx(losses, rel=1e-4)
    for name in ("out", "out/checkpoint-2"):
        saved = load_file(tmp_path / "two" / name / "model.safetensors")
        whole = load_file(one / name / "model.safetensors")
        assert saved.keys() == whole.keys()
        for key, tensor in saved.items():
            torch.testing.assert_close(tensor, whole[key], rtol=2e-2, atol=2e-2)
    if kind == "FSDP":
        serves(tmp_path / "two" / "out", Image.open(data.with_name("2.png")))


def serves(checkpoint, page):
    """vLLM answers as transformers does."""
    pytest.importorskip("vllm")
    from tests.hf.training.test_run import greedy
    from tests.plugin.engines import continuations, prompt, start

    processor = DeepseekOCRProcessor.from_pretrained(checkpoint, resampler="pillow")
    model = DeepseekOCRForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    served = continuations(start(checkpoint), [prompt("<image>\nFree OCR.", page)])
    assert served == [greedy(model, processor("<image>\nFree OCR.", page))]


def test_several_gpus_and_one_process_get_the_line_to_type():
    class TwoCards:
        n_gpu = 2

    with pytest.raises(SettingsError, match="torchrun --nproc-per-node 2 -m vllm_dsocr.cli train"):
        refuse_data_parallel(TwoCards)
