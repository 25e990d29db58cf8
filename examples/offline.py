"""Read page images in one offline batch with vLLM.

python examples/offline.py PAGE.png ... [--model deepseek-ai/DeepSeek-OCR] [--mode gundam]
"""

import argparse

from vllm import LLM, SamplingParams

from vllm_dsocr.config import MODES
from vllm_dsocr.page.prompt import TASKS
from vllm_dsocr.page.source import open_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+")
    parser.add_argument("--model", default="deepseek-ai/DeepSeek-OCR")
    parser.add_argument("--mode", choices=MODES, help="default: the checkpoint's own")
    args = parser.parse_args()
    options = {"mode": args.mode} if args.mode else {}
    prompts = [
        {
            "prompt": TASKS["free"],
            "multi_modal_data": {"image": open_image(page)},
            "mm_processor_kwargs": options,
        }
        for page in args.pages
    ]
    outputs = LLM(args.model).generate(prompts, SamplingParams(temperature=0, max_tokens=4096))
    for page, output in zip(args.pages, outputs, strict=True):
        print(f"--- {page}\n{output.outputs[0].text}")


if __name__ == "__main__":
    main()
