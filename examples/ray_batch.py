"""Read many documents on a Ray cluster, and what was read as rows of a table.

python examples/ray_batch.py SCANS/ s3://BUCKET/IN -o /shared/out --server http://HOST:8000
python examples/ray_batch.py SCANS/ -o /shared/out --address 10.0.0.1:6379 --table pages.parquet
"""

import argparse
from pathlib import Path

from vllm_dsocr.fleet.batch.convert import RayOptions, convert_on_ray
from vllm_dsocr.fleet.batch.sources import find_sources
from vllm_dsocr.pipeline.document import Event
from vllm_dsocr.pipeline.files import locked
from vllm_dsocr.pipeline.finish import OutputSettings
from vllm_dsocr.reader import Reader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", help="files, folders, URLs")
    parser.add_argument("-o", "--output", type=Path, required=True, help="on all machines")
    parser.add_argument("--address", help="of the cluster; default: here, or one of its own")
    parser.add_argument("--server", help="what reads; default: vLLM or transformers in the actors")
    parser.add_argument("--model", help="default: deepseek-ai/DeepSeek-OCR")
    parser.add_argument("--workers", type=int, help="engines; default: all that fit")
    parser.add_argument("--table", help="every page as a row: a folder, .parquet or .jsonl")
    args = parser.parse_args()

    with locked(args.output):
        pass  # it can be written to
    inputs = find_sources(args.sources, args.output)
    reader = Reader(server=args.server, model=args.model)
    options = RayOptions(args.address, args.workers, args.table)
    summaries = convert_on_ray(reader, inputs, args.output, OutputSettings(), options, _say)
    pages = sum(sum(summary["statuses"].values()) for summary in summaries)
    print(f"{len(summaries)} documents, {pages} pages in {args.output}")


def _say(event: Event) -> None:
    if event["event"] == "document":
        print(event["document"], event["statuses"], event["reason"] or "")


if __name__ == "__main__":
    main()
