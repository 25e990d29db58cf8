"""Pages say what they print and where; tokenizer and training pass fit the model."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib", reason="the pages use matplotlib's DejaVu fonts")
pytest.importorskip("transformers")

from examples.reader_training import batches, checkpoint, forward, muon, tokenizer  # noqa: E402
from examples.reader_training.layout.answers import plain_answer  # noqa: E402
from examples.reader_training.pages import (  # noqa: E402
    FONTS,
    MAX_CHARS,
    PAGE_SIDE,
    held_out_pages,
    load_font,
    render_page,
)
from examples.reader_training.scores import reading  # noqa: E402
from examples.reader_training.words import english_words, is_held_out  # noqa: E402
from vllm_dsocr.config import BOS_TOKEN, EOS_TOKEN, IGNORE_INDEX, IMAGE_TOKEN, PAD_TOKEN  # noqa: E402
from vllm_dsocr.hf import DeepseekOCRForCausalLM  # noqa: E402

SEEDS = range(40)


@pytest.fixture(scope="module")
def pages():
    return [render_page(Random(seed)) for seed in SEEDS]


def test_same_seed_same_page(pages):
    again = render_page(Random(SEEDS[7]))
    assert again.text == pages[7].text
    assert again.image.tobytes() == pages[7].image.tobytes()
    assert again.text != pages[8].text


def test_text_is_well_defined(pages):
    for page in pages:
        lines = page.text.split("\n")
        assert page.text.isascii() and page.text.strip() == page.text
        assert all(line and line == " ".join(line.split(" ")) for line in lines)
        assert "  " not in page.text
        assert len(lines) <= 14 and len(page.text) <= MAX_CHARS + 20


def test_one_place_per_character_in_reading_order(pages):
    for page in pages:
        assert len(page.centers) == len(page.text)
        for (x, y), (next_x, next_y), char in zip(
            page.centers, [*page.centers[1:], page.end], page.text, strict=True
        ):
            assert next_y > y if char == "\n" else next_x > x
        assert all(0 < y < PAGE_SIDE for _, y in page.centers)


def test_ink_lies_where_the_characters_are(pages):
    """Around letters the page is darker than its paper, around the end of the text it is not."""
    for page in pages:
        pixels = np.asarray(page.image, np.float32)
        paper = np.median(pixels)
        solid = [c for c, char in zip(page.centers, page.text, strict=True) if char.isalnum()]
        inked = [pixels[int(y) - 9 : int(y) + 10, int(x) - 4 : int(x) + 5].min() for x, y in solid]
        assert np.mean(np.array(inked) < paper - 60) > 0.98


@pytest.mark.parametrize("name", FONTS)
def test_fonts_grow_with_their_size(name):
    small, large = (load_font(name, size, basic=True).getlength("page") for size in (24, 36))
    assert 1.3 < large / small < 1.7


def test_pages_of_other_sizes():
    page = render_page(Random(3), width=256, height=384)
    assert page.image.size == (256, 384) and page.text
    assert render_page(Random(3), width=256, height=16).text == ""


def test_held_out_pages_show_no_trained_word():
    trained, held_out = english_words(False), english_words(True)
    assert not set(trained) & set(held_out)
    assert 0.05 < len(held_out) / len(trained) < 0.2
    assert all(is_held_out(word) for word in held_out)
    shown = {w for page in held_out_pages(30) for w in page.text.lower().split() if w.isalpha()}
    assert len(shown & set(held_out)) > 30
    long_trained = {w for w in trained if len(w) > 6}
    assert not shown & long_trained


def test_tokenizer_files_agree_with_the_ids(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.write_tokenizer(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "Qty 3 x $1,204.50 é\n<x> ~"
    assert loaded.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert loaded.decode(tokenizer.encode(text)) == tokenizer.decode(tokenizer.encode(text)) == text
    ids = loaded.convert_tokens_to_ids([BOS_TOKEN, EOS_TOKEN, PAD_TOKEN, IMAGE_TOKEN])
    assert ids == [tokenizer.BOS_ID, tokenizer.EOS_ID, tokenizer.PAD_ID, tokenizer.IMAGE_ID]
    assert len(loaded) <= tokenizer.VOCAB_SIZE


def test_batches_name_the_next_character_and_its_place():
    pages = [render_page(Random(seed), 640, 256) for seed in (1, 2)]
    samples = [batches.Sample(page.image, plain_answer(page, "free")) for page in pages]
    batch = batches.make_batch(samples, top=128)
    for row, page in enumerate(pages):
        said = batch.labels[row] != IGNORE_INDEX
        labels = batch.labels[row][said].tolist()
        assert labels == [*tokenizer.encode(page.text), tokenizer.EOS_ID]
        assert batch.ids[row][said].tolist()[1:] == labels[:-1]
        assert batch.points[row][said][0].tolist() == pytest.approx(page.centers[0])
    assert int((batch.ids[0] == tokenizer.IMAGE_ID).sum()) == 4 * 11 + 1


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = checkpoint.new_model().eval()
    for name, p in model.named_parameters():
        if "rel_pos" in name or "norm" in name:
            torch.nn.init.normal_(p, std=0.2)
    return model


@torch.inference_mode()
def test_training_pass_equals_the_model_on_full_pages(model):
    pages = held_out_pages(2)
    samples = [batches.Sample(page.image, plain_answer(page, "free")) for page in pages]
    batch = batches.make_batch(samples, top=0)
    mask = batch.ids == tokenizer.IMAGE_ID
    x = model.model.embed_tokens(batch.ids)
    image = forward.page_embeddings(model, forward.encode_strips(model, batch.pixels, 0).coarse)
    x = torch.cat((x[:, :1], image, x[:, 1 + image.shape[1] :]), dim=1)
    ours = model.lm_head(forward.decode(model, x).hidden[-1])
    views = [view.expand(1, 3, -1, -1) for view in batch.pixels]
    images = [(view[:0], view) for view in views]
    grids = torch.ones(2, 2, dtype=torch.long)
    theirs = model(batch.ids, images=images, images_seq_mask=mask, images_spatial_crop=grids).logits
    assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))


@torch.inference_mode()
def test_strips_take_their_band_of_the_page(model):
    """Windows do not look across bands, so a band's fine features are those of the whole page."""
    page = batches.normalise(held_out_pages(1)[0].image)[None]
    whole = forward.encode_strips(model, page, 0).fine
    band = forward.encode_strips(model, page[:, 128:384], 128).fine
    inner = slice(9, 23)  # the neck's 3x3 convolution sees one patch beyond the band's edges
    assert torch.allclose(band[:, 1:15], whole[:, inner], atol=1e-5)


def test_saved_checkpoint_is_small_and_reads_the_same(model, tmp_path):
    checkpoint.save_checkpoint(model.state_dict(), tmp_path)
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 16e6
    loaded = DeepseekOCRForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name].to(torch.bfloat16).to(value.dtype)), name


def test_errors_are_counted_over_all_characters():
    pages = held_out_pages(2)
    texts = [page.text for page in pages]
    wrong, printed = reading.count_errors([texts[0], texts[1][2:]], texts)
    assert (wrong, printed) == (2, len(pages[0].text) + len(pages[1].text))


def test_muon_steps_as_torchs_does_but_in_fp32():
    """torch's orthogonalises in bf16, hence the tolerance; a gradient of zeros moves nothing."""
    torch.manual_seed(0)
    start, still = torch.randn(48, 96), torch.randn(8, 8)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    steppers = (
        muon.Muon([ours, still], lr=0.1, weight_decay=0.1, momentum=0.9),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, momentum=0.9),
    )
    before = still.clone()
    for _ in range(3):
        ours.grad, still.grad = torch.randn(48, 96), torch.zeros(8, 8)
        theirs.grad = ours.grad.clone()
        for stepper in steppers:
            stepper.step()
    moved = (theirs.detach() - start).norm()
    assert (ours - theirs.detach()).norm() < 0.02 * moved
    assert torch.equal(still, before)


@torch.inference_mode(False)
def test_frozen_features_get_no_gradient(model):
    strip = batches.normalise(render_page(Random(1), 640, 128).image)[None]
    for frozen in (True, False):
        model.zero_grad()
        forward.encode_strips(model, strip, 0, frozen).coarse.sum().backward()
        assert (model.model.sam_model.patch_embed.proj.weight.grad is None) == frozen
        assert model.model.projector.layers.weight.grad is not None
