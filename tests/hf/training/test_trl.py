"""TRL's trainers on this model: the same loss as ours, and rewards of our scores."""

import copy
import json

import pytest
import torch
from PIL import Image, ImageDraw

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

from examples.rewards import end_reward, layout_reward, text_reward  # noqa: E402
from vllm_dsocr.config import OptionError  # noqa: E402
from vllm_dsocr.hf.training import (  # noqa: E402
    PageCollator,
    PageDataset,
    RecordCollator,
    read_samples,
    with_pixel_values,
)

LINES = [{"image": f"{number}.png", "answer": "abc " * (number + 1)} for number in range(2)]


@pytest.fixture
def data(tmp_path):
    for line in LINES:
        image = Image.new("RGB", (80, 50), "white")
        ImageDraw.Draw(image).text((5, 5), line["answer"], fill="black")
        image.save(tmp_path / line["image"])
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    return tmp_path / "data.jsonl"


def arguments(folder, **more):
    return trl.SFTConfig(
        output_dir=str(folder / "out"), max_steps=2, per_device_train_batch_size=2, use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="no", learning_rate=1e-3, bf16=False,
        logging_steps=1, max_length=None, remove_unused_columns=False, optim="sgd",
        gradient_checkpointing=False, lr_scheduler_type="constant", **more,
    )  # fmt: skip


def logged(trainer):
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def test_sft_has_our_loss(data, tmp_path, model, processor):
    dataset = PageDataset(read_samples(data), processor)
    batch = PageCollator(processor)([dataset[0], dataset[1]])
    with torch.no_grad():
        expected = model.train()(**batch, use_cache=False).loss.item()
    model.eval()
    rows = [
        {"images": [line["image"]], "messages": [{"role": "user", "content": "Free OCR."},
                                    {"role": "assistant", "content": line["answer"]}]}
        for line in LINES
    ]  # fmt: skip
    ours = trl.SFTTrainer(
        copy.deepcopy(model),
        arguments(tmp_path),
        RecordCollator(processor, tmp_path),
        datasets.Dataset.from_list(rows),
        processing_class=processor,
    )
    losses = logged(ours)
    assert losses[0] == pytest.approx(expected, rel=1e-4) and losses[1] < losses[0]


def test_grpo_runs_with_rewards_of_our_scores(tmp_path, model, processor):
    """Text alone: TRL passes on pictures only under names it knows."""
    rows = {"prompt": ["Say abc.", "Say b."], "answer": ["abc", "b"]}
    args = trl.GRPOConfig(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=2, num_generations=2,
        max_completion_length=4, use_cpu=True, report_to="none", disable_tqdm=True, bf16=False,
        save_strategy="no", logging_steps=1, gradient_checkpointing=False, learning_rate=1e-3,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        copy.deepcopy(model),
        [text_reward, end_reward],
        args,
        datasets.Dataset.from_dict(rows),
        processing_class=processor.tokenizer,
    )
    trainer.train()
    (line,) = [line for line in trainer.state.log_history if "reward" in line]
    rewards = [line[f"rewards/{name}/mean"] for name in ("text_reward", "end_reward")]
    assert line["reward"] == pytest.approx(sum(rewards))
    assert all(0 <= reward <= 1 for reward in rewards)


def test_grpo_reads_pages(tmp_path, model, processor):
    """Two pages, two answers each; what the policy is scored by is what `forward` gives."""
    pages = [Image.new("RGB", (80, 50), colour) for colour in ("white", "black")]
    chat = [{"role": "user", "content": "Free OCR."}]
    rows = {"prompt": [chat] * 2, "image": pages, "answer": ["abc", "b"]}
    args = trl.GRPOConfig(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, num_generations=2,
        max_completion_length=4, use_cpu=True, report_to="none", disable_tqdm=True, bf16=False,
        save_strategy="no", logging_steps=1, gradient_checkpointing=False, learning_rate=1e-3,
    )  # fmt: skip
    policy = copy.deepcopy(model)
    seen = []
    policy.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("pixel_values")), with_kwargs=True
    )
    trainer = trl.GRPOTrainer(
        policy,
        [text_reward, end_reward],
        args,
        datasets.Dataset.from_dict(rows),
        processing_class=with_pixel_values(policy, processor),
    )
    trainer.train()
    (line,) = [line for line in trainer.state.log_history if "reward" in line]
    assert 0 <= line["reward"] <= 2
    trained = [pixels for pixels in seen if pixels is not None]
    assert trained and trained[-1].shape[1:] == (3, 512, 512)
    moved = dict(trainer.model.named_parameters())["model.projector.layers.weight"]
    assert not torch.equal(moved, model.model.projector.layers.weight) or line["reward_std"] == 0


def test_pixel_values_are_images_of_one_view(model, processor):
    page, prompt = Image.new("RGB", (80, 50), "black"), "<image>\nFree OCR."
    other = copy.deepcopy(model)
    views = with_pixel_values(other, processor)(prompt, page)
    with torch.no_grad():
        expected = model(**processor(prompt, page)).logits
        torch.testing.assert_close(other(**views).logits, expected)
        options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 2}
        assert torch.equal(other.generate(**views, **options),
                           model.generate(**processor(prompt, page), **options))  # fmt: skip
    with pytest.raises(ValueError, match="image_token_id"):
        model(**views)
    big = Image.new("RGB", (1400, 1400))
    with pytest.raises(OptionError, match="one view"):
        with_pixel_values(other, processor)(prompt, big, mode="gundam")


def test_rewards_are_those_of_the_scores():
    truth = "<|ref|>text<|/ref|><|det|>[[0, 1, 5, 9]]<|/det|>\nabc"
    broken = truth.replace("9]]", "9999]]")
    texts = [truth, broken, [{"role": "assistant", "content": "x" * 3 * len(truth)}]]
    assert text_reward(texts, [truth] * 3) == pytest.approx([1, 1 - 3 / len(broken), 0], abs=0.02)
    assert layout_reward(texts) == [1, 0, 1]
    assert end_reward(texts, [truth] * 3) == pytest.approx([1, 1, 0], abs=0.1)
