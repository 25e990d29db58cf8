"""Pages -> answers of a server that speaks the OpenAI API, such as `vllm serve`.

Knows nothing of what the answers should be.
"""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor

import openai
from PIL import Image

from vllm_dsocr.config import IMAGE_TOKEN

AT_ONCE = 8  # requests


def read_served(
    base_url: str, images: list[Image.Image], prompt: str, max_new_tokens: int
) -> list[str]:
    """Answers of the first model behind `base_url` (.../v1), as it gives them: at temperature 0."""
    client = openai.OpenAI(base_url=base_url, api_key="none")
    model = client.models.list().data[0].id
    text = prompt.removeprefix(IMAGE_TOKEN).lstrip("\n")

    def read(image: Image.Image) -> str:
        data = io.BytesIO()
        image.save(data, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
        content = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": text},
        ]
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],  # type: ignore[list-item]
            max_tokens=max_new_tokens,
        )
        return answer.choices[0].message.content or ""

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(read, images))
