"""`dsocr bench` against a server on a real port: what it asks for, writes, keeps and scores."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.fake_server import Answer, Trouble, fake_server
from vllm_dsocr.cli import main
from vllm_dsocr.evaluation.bench import official
from vllm_dsocr.evaluation.bench.published import published
from vllm_dsocr.evaluation.bench.settings import cleaned

TEXT = "The quick brown fox jumps over the lazy dog."
MARKED = f"<|ref|>text<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\n{TEXT}\n\n\n\n<｜end▁of▁sentence｜>"


def answers(text):
    return lambda body, image: Answer(text)


def page(path: Path, color: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (700, 900), (color, 255, 255)).save(path)


@pytest.fixture
def omnidocbench(tmp_path):
    pages = []
    for number in (1, 2):
        page(tmp_path / "images" / f"p{number}.jpg", 100 * number)
        block = {"category_type": "text_block", "order": 1, "anno_id": 1, "text": TEXT}
        info = {"image_path": f"p{number}.jpg", "page_attribute": {"language": "english"}}
        pages.append({"layout_dets": [block], "page_info": info, "extra": {"relation": []}})
    (tmp_path / "OmniDocBench.json").write_text(json.dumps(pages))
    return tmp_path


def bench(capsys, *arguments):
    code = main(["bench", *map(str, arguments), "--scorer-python", "/none/python"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_omnidocbench_is_read_as_published_and_only_once(omnidocbench, capsys):
    with fake_server(answers(MARKED)) as server:
        command = ("omnidocbench", omnidocbench, "--server", server.url)
        code, out, _ = bench(capsys, *command)
        assert code == 0
        body = server.bodies[0]
        assert len(server.bodies) == 2
        assert (body["temperature"], body["max_tokens"]) == (0, 8192)
        assert (body["vllm_xargs"]["ngram_size"], body["vllm_xargs"]["window_size"]) == (40, 90)
        assert body["mm_processor_kwargs"]["mode"] == "gundam"
        (omnidocbench / "dsocr" / "p2.md").unlink()
        assert bench(capsys, *command)[0] == 0
        assert len(server.bodies) == 3
    result = json.loads(out.splitlines()[-1])
    assert (omnidocbench / "dsocr" / "p1.md").read_text().strip() == TEXT
    assert "<|ref|>" in (omnidocbench / "dsocr" / "p1.answer.txt").read_text()
    assert result["scored_by"] == "our estimate"
    assert result["scores"]["all"]["text_edit"] == 0
    assert "/none/python" in result["why"]
    assert "overall, mean of en and zh" in out
    assert "0.154" in out


def test_a_page_in_trouble_counts_as_read_wrong_and_is_read_next_time(omnidocbench, capsys):
    def answer(body, image):
        return Trouble(400, "no such page") if image.getpixel((0, 0))[0] < 150 else Answer(MARKED)

    with fake_server(answer) as server:
        code, out, err = bench(capsys, "omnidocbench", omnidocbench, "--server", server.url)
    result = json.loads(out.splitlines()[-1])
    assert code == 1
    assert result["scores"]["all"]["text_edit"] == 0.5
    assert len(result["pages"]["troubles"]) == 1
    with fake_server(answers(MARKED)) as server:
        code, out, err = bench(capsys, "omnidocbench", omnidocbench, "--server", server.url)
        assert (code, len(server.bodies)) == (0, 1)


def test_texts_of_other_settings_or_origin_are_not_mixed(omnidocbench, capsys):
    with fake_server(answers(MARKED)) as server:
        command = ("omnidocbench", omnidocbench, "--server", server.url)
        assert bench(capsys, *command)[0] == 0
        code, _, err = bench(capsys, *command, "--mode", "base")
        assert (code, "mode 'gundam' then, 'base' now" in err) == (2, True)
        (omnidocbench / "theirs").mkdir()
        (omnidocbench / "theirs" / "p1.md").write_text("x")
        code, _, err = bench(capsys, *command, "--candidate", "theirs")
        assert (code, "of another origin" in err) == (2, True)
        assert bench(capsys, *command, "--candidate", "../up")[0] == 2


def test_olmocr_bench_reads_the_pages_of_pdfs_that_facts_are_about(tmp_path, capsys):
    (tmp_path / "pdfs" / "papers").mkdir(parents=True)
    page(tmp_path / "page.png", 1)
    Image.open(tmp_path / "page.png").save(tmp_path / "pdfs" / "papers" / "one.pdf")
    fact = {"pdf": "papers/one.pdf", "page": 1, "id": "1", "type": "present", "text": TEXT}
    absent = fact | {"page": 2, "id": "2", "type": "absent"}
    (tmp_path / "text.jsonl").write_text(f"{json.dumps(fact)}\n{json.dumps(absent)}\n")
    with fake_server(answers(MARKED)) as server:
        code, out, err = bench(capsys, "olmocr-bench", tmp_path, "--server", server.url)
    result = json.loads(out.splitlines()[-1])
    assert code == 1  # the PDF has no page 2
    assert (tmp_path / "dsocr" / "papers" / "one_pg1_repeat1.md").read_text().strip() == TEXT
    assert result["scores"]["files"] == {"text": 0.5, "baseline": 1}
    assert result["scores"]["missing"] == 1
    assert "0.757" in out


def test_fox_has_no_scorer_and_its_own_settings(tmp_path, capsys):
    page(tmp_path / "en_pdf_png" / "en_1.png", 1)
    talk = [{"from": "human", "value": "?"}, {"from": "gpt", "value": f"{TEXT} And more."}]
    entries = [{"image": "en_1.png", "len": 650, "conversations": talk}]
    (tmp_path / "en_page_ocr.json").write_text(json.dumps(entries))
    with fake_server(answers(TEXT)) as server:
        code, out, _ = bench(capsys, "fox", tmp_path, "--server", server.url)
        body = server.bodies[0]
    scores = json.loads(out.splitlines()[-1])["scores"]
    assert code == 0
    assert body["mm_processor_kwargs"]["mode"] == "small"
    assert "Free OCR." in json.dumps(body["messages"])
    assert scores["600-700 tokens"]["precision"] == 1
    assert scores["all"]["recall"] == pytest.approx(9 / 11)
    assert scores["all"]["edit_distance"] == pytest.approx(2 / 11)
    assert "0.985" in out


@pytest.mark.parametrize("arguments", [("omnidocbench", "."), ("olmocr-bench", "."), ("fox", ".")])
def test_a_folder_that_is_no_benchmark_is_one_line(tmp_path, capsys, arguments):
    with fake_server(answers(TEXT)) as server:
        name, _ = arguments
        code, _, err = bench(capsys, name, tmp_path, "--server", server.url)
    assert (code, err.startswith("dsocr bench: ")) == (2, True)


def test_an_answer_is_cleaned_as_the_published_script_does():
    marks = "<center>\n<|ref|>a<|/ref|><|det|>[[1]]<|/det|>\n"
    answer = f"{marks}\\[ x = y \\quad (12) \\]\n\n\n\n</center>z"
    assert cleaned(answer) == "\n\n\\[x = y\\]\n\nz"


def test_scorers_run_in_a_process_of_their_own_and_say_why_not(omnidocbench):
    with pytest.raises(official.NoScorer, match="cannot import omnidocbench"):
        official.score("omnidocbench", omnidocbench, omnidocbench / "dsocr", sys.executable)
    with pytest.raises(official.NoScorer, match="no scorer that can be installed"):
        official.score("fox", omnidocbench, omnidocbench, sys.executable)


SCORER = """\
import sys
print("ours                 : Average Score: 62.5% ± 3.0% (average of per-JSONL scores)")
print("        text.jsonl                    : 50.0% (1/2 tests)")
print("        baseline                      : 75.0% (3/4 tests)")
sys.exit("--candidate" not in sys.argv)
"""


def test_what_the_scorer_of_olmocr_bench_prints_is_read(tmp_path, monkeypatch):
    """A stand-in that prints what the package does; the package itself needs a browser."""
    package = tmp_path / "site" / "olmocr" / "bench"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "benchmark.py").write_text(f'if __name__ == "__main__":\n    exec({SCORER!r})\n')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    scores = official.score("olmocr-bench", tmp_path, tmp_path / "ours", sys.executable)
    assert scores == {"overall": 0.625, "files": {"text": 0.5, "baseline": 0.75}}


def test_published_numbers_have_a_source():
    for name in ("omnidocbench", "fox", "olmocr-bench"):
        numbers, source = published(name, "small")
        assert numbers
        assert source
    assert published("omnidocbench", "no mode")[0] == {}
