"""Two processes do what one does: losses, weights and error rates of the same global batches.

Some ranks have only text, others pages of several grids; few tokens leave experts without any.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from tests.hf.training import sharded_run
from vllm_dsocr.cli import main
from vllm_dsocr.hf import DeepseekOCRForCausalLM, DeepseekOCRProcessor
from vllm_dsocr.hf.training import SettingsError
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


def config(folder, tiny_path, data, per_device, **more):
    folder.mkdir()
    trainer = {"max_steps": 3, "save_steps": 3, "logging_steps": 1, "learning_rate": 2e-4,
               "per_device_train_batch_size": per_device, "use_cpu": True, "disable_tqdm": True,
               "gradient_checkpointing": True, "lr_scheduler_type": "constant", "seed": 3,
               "eval_strategy": "steps", "eval_steps": 3,
               "per_device_eval_batch_size": 1, **more}  # fmt: skip
    values = {"model": str(tiny_path), "data": str(data), "output": str(folder / "out"),
              "page": sharded_run.OPTIONS, "eval_data": str(data), "eval_pages": 3,
              "trainer": trainer}  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return str(folder / "config.yaml")


def history(folder, key):
    state = json.loads((folder / "out" / "checkpoint-3" / "trainer_state.json").read_text())
    return [line[key] for line in state["log_history"] if key in line]


def test_two_processes_train_as_one(tmp_path, tiny_path, data):
    one = config(tmp_path / "one", tiny_path, data, per_device=2)
    assert main(["train", one]) == 0
    two = config(tmp_path / "two", tiny_path, data, per_device=1)
    printed = torchrun("-m", "vllm_dsocr.cli", "train", two)
    losses = history(tmp_path / "one", "loss")
    assert len(losses) == 3
    assert history(tmp_path / "two", "loss") == pytest.approx(losses, rel=1e-5)
    assert history(tmp_path / "two", "eval_cer") == history(tmp_path / "one", "eval_cer")
    assert sum(line.startswith('{"') for line in printed.splitlines()) == 1  # the first rank's
    names = {path.name for path in (tmp_path / "one" / "out").iterdir()}
    assert {path.name for path in (tmp_path / "two" / "out").iterdir()} == names


def test_a_model_in_shards_trains_as_a_whole_one(tmp_path, tiny_path, data):
    out = tmp_path / "sharded"
    torchrun(sharded_run.__file__, tiny_path, data, out)
    processor = DeepseekOCRProcessor.from_pretrained(tiny_path, **sharded_run.OPTIONS)
    model, losses = sharded_run.loaded(tiny_path), []
    for batch, labels in sharded_run.batches(processor, data, 0, 1):
        losses.append(sharded_run.step(model, batch, labels, 1).item())
    assert json.loads((out / "losses.json").read_text()) == pytest.approx(losses, rel=1e-5)

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


@pytest.mark.slow
def test_vllm_serves_what_the_trainer_saves_of_a_model_in_shards(tmp_path, tiny_path, data):
    pytest.importorskip("vllm")
    from tests.hf.training.test_run import greedy
    from tests.plugin.engines import continuations, prompt, start

    one = config(tmp_path / "one", tiny_path, data, per_device=2)
    assert main(["train", one]) == 0
    fsdp = {"fsdp": True, "fsdp_config": {"version": 2}, "gradient_checkpointing": False}
    two = config(tmp_path / "two", tiny_path, data, per_device=1, **fsdp)
    torchrun(Path(__file__).with_name("fsdp_on_cpu.py"), two)
    losses = history(tmp_path / "one", "loss")
    assert history(tmp_path / "two", "loss") == pytest.approx(losses, rel=1e-4)
    for name in ("out", "out/checkpoint-3"):
        saved = load_file(tmp_path / "two" / name / "model.safetensors")
        whole = load_file(tmp_path / "one" / name / "model.safetensors")
        assert saved.keys() == whole.keys()
        for key, tensor in saved.items():
            torch.testing.assert_close(tensor, whole[key], rtol=2e-2, atol=2e-2)
    out, page = tmp_path / "two" / "out", Image.open(data.with_name("2.png"))
    processor = DeepseekOCRProcessor.from_pretrained(out, resampler="pillow")
    model = DeepseekOCRForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    served = continuations(start(out), [prompt("<image>\nFree OCR.", page)])
    assert served == [greedy(model, processor("<image>\nFree OCR.", page))]


def test_several_gpus_and_one_process_get_the_line_to_type():
    class TwoCards:
        n_gpu = 2

    with pytest.raises(SettingsError, match="torchrun --nproc-per-node 2 -m vllm_dsocr.cli train"):
        refuse_data_parallel(TwoCards)
