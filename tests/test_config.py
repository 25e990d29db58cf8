"""Presets, overrides and refusals of page options; tower sizes from config.json."""

import pytest

from vllm_dsocr.config import MODES, OptionError, PageOptions, Resolution, VisionSizes, mode_name


def chosen(**options):
    return PageOptions().override(options).resolution


def test_a_mode_is_its_preset():
    for name, preset in MODES.items():
        assert chosen(mode=name) == preset
        assert mode_name(preset) == name


def test_single_fields_change_the_mode_they_come_with():
    assert chosen(mode="gundam", max_crops=6) == Resolution(1024, 640, True, 2, 6)
    assert chosen(mode="tiny", image_size=640) == MODES["small"]
    assert chosen(base_size=1280, image_size=1280, crop_mode=False) == MODES["large"]


def test_without_crop_mode_image_size_is_the_view_as_in_the_official_code():
    assert chosen(base_size=1024, image_size=640, crop_mode=False) == MODES["small"]
    assert chosen(base_size=1024, crop_mode=False) == MODES["base"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mode": "huge"}, "mode"),
        ({"mode": 3}, "mode"),
        ({"dpi": 300}, "'dpi'"),
        ({"base_size": "1024"}, "base_size"),
        ({"base_size": True}, "base_size"),
        ({"base_size": 1000}, "base_size must be a multiple of 16"),
        ({"base_size": 4096}, "base_size must be between"),
        ({"image_size": 0}, "image_size"),
        ({"crop_mode": "yes"}, "crop_mode"),
        ({"max_crops": 10}, "max_crops"),
        ({"min_crops": 5, "max_crops": 4}, "min_crops"),
        ({"resampler": "nearest"}, "resampler"),
    ],
)
def test_bad_options_are_refused_by_name(options, named):
    with pytest.raises(OptionError, match=named):
        PageOptions().override(options)


def test_a_checkpoints_other_keys_are_ignored():
    stored = {"candidate_resolutions": [[1024, 1024]], "patch_size": 16, "mode": "base"}
    assert PageOptions.from_checkpoint(stored).resolution == MODES["base"]
    assert PageOptions.from_checkpoint({}) == PageOptions()


def test_sizes_come_from_the_config_and_default_to_the_official_ones():
    assert VisionSizes.from_config({}, {}) == VisionSizes()
    vision = {
        "image_size": 640,
        "width": {
            "sam_vit_b": {"width": 48, "downsample_channels": [48, 64], "unknown": 1},
            "clip-l-14-224": {"width": 64},
        },
    }
    sizes = VisionSizes.from_config(vision, {"input_dim": 128, "n_embed": 32})
    assert (sizes.sam.width, sizes.sam.pos_size, sizes.sam.heads) == (48, 640, 12)
    assert (sizes.clip.width, sizes.projector_output) == (64, 32)
    with pytest.raises(OptionError, match="input_dim is 2048, the towers give 128"):
        VisionSizes.from_config(vision, {})
