"""Ask a running `vllm serve` for the text of page images, all at once, by the openai client.

python examples/client.py PAGE.png ... [--url http://localhost:8000/v1] [--prompt "Free OCR."]
"""

import argparse
import asyncio
import base64
import mimetypes
from pathlib import Path

import openai


async def read(client: openai.AsyncOpenAI, model: str, prompt: str, page: Path) -> str:
    kind = mimetypes.guess_type(page)[0] or "image/png"
    url = f"data:{kind};base64,{base64.b64encode(page.read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt}]
    messages = [{"role": "user", "content": content}]
    answer = await client.chat.completions.create(model=model, messages=messages)
    return f"--- {page}\n{answer.choices[0].message.content}"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--url", default="http://localhost:8000/v1")
    parser.add_argument("--prompt", default="Free OCR.")
    args = parser.parse_args()
    client = openai.AsyncOpenAI(base_url=args.url, api_key="none")
    model = (await client.models.list()).data[0].id
    for text in await asyncio.gather(*(read(client, model, args.prompt, p) for p in args.pages)):
        print(text)


if __name__ == "__main__":
    asyncio.run(main())
