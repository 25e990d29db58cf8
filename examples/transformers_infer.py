"""Read one page with transformers: the official `infer()`, no vLLM.

python examples/transformers_infer.py PAGE.png [--model examples/reader] [--mode small]
"""

import argparse

import torch

from vllm_dsocr.config import MODES
from vllm_dsocr.hf import DeepseekOCRForCausalLM, DeepseekOCRProcessor
from vllm_dsocr.page.prompt import TASKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page")
    parser.add_argument("--model", default="deepseek-ai/DeepSeek-OCR")
    parser.add_argument("--mode", choices=MODES, help="default: the checkpoint's own")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = DeepseekOCRForCausalLM.from_pretrained(args.model, dtype="auto").to(device).eval()
    processor = DeepseekOCRProcessor.from_pretrained(args.model)
    resolution = MODES[args.mode] if args.mode else processor.options.resolution
    model.infer(
        processor.tokenizer,
        prompt=TASKS["free"],
        image_file=args.page,
        base_size=resolution.base_size,
        image_size=resolution.image_size,
        crop_mode=resolution.crop_mode,
        test_compress=True,
    )


if __name__ == "__main__":
    main()
