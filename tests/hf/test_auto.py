"""The Auto classes of transformers in a fresh process, with the hub's auto_map and without."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

READER = Path(__file__).parents[2] / "examples/reader"
PAGE = READER.parent / "page.png"
AUTO_MAP = {
    "AutoConfig": "modeling_deepseekocr.DeepseekOCRConfig",
    "AutoModel": "modeling_deepseekocr.DeepseekOCRForCausalLM",
}


def run(script, *arguments):
    """The output of a script, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert not done.returncode, done.stderr[-2000:]
    return done.stdout


def changed(path, **values):
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, **values}))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The reader's checkpoint with what else the published one says of classes."""
    folder = tmp_path_factory.mktemp("published") / "reader"
    shutil.copytree(READER, folder)
    changed(folder / "config.json", auto_map=AUTO_MAP)
    changed(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast")
    return folder


EVERY_CLASS = """
import json, sys
import torch
from transformers import (AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText,
    AutoProcessor, AutoTokenizer, pipeline)
import vllm_dsocr.hf

path, page, saved = sys.argv[1:]
names = []
for trust in (None, True, False):
    kwargs = {} if trust is None else {"trust_remote_code": trust}
    for auto in (AutoConfig, AutoProcessor):
        names.append(type(auto.from_pretrained(path, **kwargs)).__name__)
    tokenizer = AutoTokenizer.from_pretrained(path, **kwargs)
    for auto in (AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText):
        model = auto.from_pretrained(path, dtype=torch.float32, **kwargs)
        names.append(type(model).__name__)
assert set(names) == {"DeepseekOCRConfig", "DeepseekOCRProcessor", "DeepseekOCRForCausalLM"}, names
text = "\\u00c4rger <image> <td>"
assert tokenizer.encode(text) == vllm_dsocr.hf.DeepseekOCRProcessor.from_pretrained(
    path).tokenizer.encode(text)
model.save_pretrained(saved)
AutoProcessor.from_pretrained(path).save_pretrained(saved)
pipe = pipeline("image-text-to-text", model=saved, dtype=torch.float32)
chat = [{"role": "user", "content": [{"type": "image", "path": page},
                                     {"type": "text", "text": "Free OCR."}]}]
answers = [
    pipe(text=chat, max_new_tokens=40, return_full_text=False),
    pipe(page, text="<image>\\nFree OCR.", max_new_tokens=40, return_full_text=False),
]
print(json.dumps([answer[0]["generated_text"] for answer in answers]))
"""


def test_every_auto_class_finds_ours(published, tmp_path):
    answers = json.loads(run(EVERY_CLASS, published, PAGE, tmp_path).splitlines()[-1])
    assert answers[0] == answers[1]
    assert PAGE.with_suffix(".txt").read_text().startswith(answers[0][:20])
    saved = [path.read_text() for path in tmp_path.glob("*.json")]
    assert not any("auto_map" in text for text in saved)
    assert (tmp_path / "chat_template.jinja").exists()


OTHERS = """
import sys
import vllm_dsocr.hf
from transformers import AutoConfig, AutoTokenizer, AutoProcessor, PreTrainedConfig

path, ours = sys.argv[1:]
try:
    AutoConfig.from_pretrained(path)
except ValueError as error:
    print(error)
print(type(AutoProcessor.from_pretrained(path)).__name__)

class Theirs(PreTrainedConfig):
    model_type = "deepseek_vl_v2"

AutoConfig.register("deepseek_vl_v2", Theirs, exist_ok=True)
vllm_dsocr.hf.register()
print(*[type(AutoConfig.from_pretrained(folder)).__name__ for folder in (path, ours)])
"""


def test_other_models_of_the_same_type_are_left_to_others(published, tmp_path):
    """DeepSeek-VL2 checkpoints have this model type and name the same processor."""
    for file in published.glob("*.json"):
        shutil.copy(file, tmp_path)
    changed(tmp_path / "config.json", architectures=["DeepseekVLV2ForCausalLM"], auto_map={})
    refusal, processor, classes = run(OTHERS, tmp_path, published).splitlines()[-3:]
    assert "DeepseekVLV2ForCausalLM" in refusal and "vllm_dsocr.hf" in refusal
    assert processor == "TokenizersBackend"  # as without this package
    assert classes == "Theirs DeepseekOCRConfig"


def test_importing_the_package_registers_and_loads_nothing():
    script = "import sys, vllm_dsocr; print({'torch', 'transformers'} & set(sys.modules))"
    assert run(script).strip() == "set()"
