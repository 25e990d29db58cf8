"""Messages of a chat -> the one prompt that serving makes of them, as a template for transformers.

The contents follow each other as they are: the model was trained on single exchanges and knows no
roles. Images whose tags are not in the text stand before it, a line each. vLLM does the same for
this architecture (`template_deepseek_ocr.jinja` and its placing of images).
"""

from __future__ import annotations

from vllm_dsocr.config import IMAGE_TOKEN

CHAT_TEMPLATE = (
    """{%- macro content(message) -%}
{%- if message['content'] is string -%}{{ message['content'] }}
{%- elif message['content'] -%}
{%- set parts = namespace(text='', images=0, texts=0) -%}
{%- for part in message['content'] -%}
{%- if part['type'] in ('image', 'image_url') -%}{%- set parts.images = parts.images + 1 -%}
{%- elif part['type'] == 'text' -%}
{%- set parts.text = parts.text + ('\n' if parts.texts else '') + part['text'] -%}
{%- set parts.texts = parts.texts + 1 -%}
{%- else -%}{{ raise_exception('Only text and images can be read, not ' + part['type']) }}
{%- endif -%}
{%- endfor -%}
{%- set missing = [parts.images - parts.text.count('"""
    + IMAGE_TOKEN
    + """'), 0] | max -%}
{%- if parts.texts -%}{{- '"""
    + IMAGE_TOKEN
    + """\n' * missing + parts.text -}}
{%- else -%}{{- (['"""
    + IMAGE_TOKEN
    + """'] * missing) | join('\n') -}}{%- endif -%}
{%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- for message in messages -%}{{- content(message) -}}{%- endfor -%}
"""
)
