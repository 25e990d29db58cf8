"""Fine-tune on a folder of pages and their texts with the plain Trainer, then read one of them.

    python examples/finetune.py FOLDER [--model examples/reader] [--mode small] [--epochs 3]

FOLDER holds images, each with a .md or .txt of the same name. `dsocr train` does the same with
adapters, held-out pages and more; see docs/training.md.
"""

import argparse
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments

from vllm_dsocr.config import MODES, OFFICIAL_MODEL
from vllm_dsocr.hf import DeepseekOCRForCausalLM, DeepseekOCRProcessor
from vllm_dsocr.hf.training import PageCollator, PageDataset, freeze, read_pages, read_samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=OFFICIAL_MODEL)
    parser.add_argument("--mode", choices=MODES, help="default: the checkpoint's own")
    parser.add_argument("--output", default="tuned")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--rate", type=float, default=5e-5)
    args = parser.parse_args()

    options = {"mode": args.mode} if args.mode else {}
    processor = DeepseekOCRProcessor.from_pretrained(args.model, **options)
    model = DeepseekOCRForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    model.lean_loss = True
    freeze(model, ["vision"])
    samples = read_samples(args.folder)
    arguments = TrainingArguments(
        args.output,
        num_train_epochs=args.epochs,
        learning_rate=args.rate,
        per_device_train_batch_size=2,
        bf16=torch.cuda.is_available(),
        remove_unused_columns=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
    )
    dataset = PageDataset(samples, processor, max_length=8192)
    Trainer(model, arguments, PageCollator(processor), train_dataset=dataset).train()
    model.to(torch.bfloat16).save_pretrained(args.output)
    processor.save_pretrained(args.output)
    print(read_pages(model.eval(), processor, samples[:1])[0])


if __name__ == "__main__":
    main()
