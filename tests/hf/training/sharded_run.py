"""Steps of a model in shards (FSDP2), as torchrun starts it; see test_ranks.py.

    sharded_run.py CHECKPOINT DATA.jsonl OUT

Each rank has one sample of every pair in the file. Writes OUT, a checkpoint, OUT/losses.json, and
what each rank read of the first pair, one a page and the other text, in OUT/read-RANK.json.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from PIL import Image
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from vllm_dsocr.hf import DeepseekOCRForCausalLM, DeepseekOCRProcessor
from vllm_dsocr.hf.training import PageCollator, PageDataset, checkpoint_towers, read_samples
from vllm_dsocr.hf.training.saving import save_checkpoint

OPTIONS = {"base_size": 128, "image_size": 64, "crop_mode": True}
RATE = 1e-4


def loaded(path):
    model = DeepseekOCRForCausalLM.from_pretrained(path, dtype=torch.float32).train()
    model.lean_loss = True
    model.gradient_checkpointing_enable()
    checkpoint_towers(model)
    return model


def batches(processor, data, rank, world):
    """Per step this rank's samples and the labels of all."""
    dataset = PageDataset(read_samples(Path(data)), processor)
    for start in range(0, len(dataset), 2):
        items = [dataset[start], dataset[start + 1]]
        labels = sum(int((item["labels"][1:] != -100).sum()) for item in items)
        yield PageCollator(processor)(items[rank::world]), labels


def step(model, batch, labels, world):
    """The loss of this rank's share of the batch, after a step of plain gradient descent."""
    loss = model(**batch, num_items_in_batch=labels, use_cache=False).loss
    (loss * world).backward()  # shards get the mean over ranks
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= RATE * parameter.grad
    model.zero_grad()
    return loss.detach()


def read(model, processor, sample, **more):
    """A few ids, greedily."""
    inputs = processor(sample.prompt, [Image.open(image) for image in sample.images])
    ids = model.eval().generate(**inputs, max_new_tokens=4, eos_token_id=-1, pad_token_id=2, **more)
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


def main(checkpoint, data, out):
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    processor = DeepseekOCRProcessor.from_pretrained(checkpoint, **OPTIONS)
    model, mesh = loaded(checkpoint), init_device_mesh("cpu", (world,))
    for module in list(model.modules()):
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    losses = []
    for batch, labels in batches(processor, data, rank, world):
        loss = step(model, batch, labels, world)
        dist.all_reduce(loss)
        losses.append(loss.item())
    register_fsdp_forward_method(model, "generate")
    sample = read_samples(Path(data))[rank]
    answer = read(model, processor, sample, synced_gpus=True)
    Path(out).mkdir(exist_ok=True)
    (Path(out) / f"read-{rank}.json").write_text(json.dumps(answer))
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    if rank == 0:
        save_checkpoint(model, processor, Path(out), torch.bfloat16, state)
        (Path(out) / "losses.json").write_text(json.dumps(losses))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
