"""Settings of vLLM's image loader -> one sentence on what is wrong with them, or nothing.

`--media-io-kwargs` of a server and `media_io_kwargs` of a request, one over the other. vLLM hands
them to its loader, and into the keys of its cache, as they are. Knows nothing of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm_dsocr.config import OptionError

KNOWN_SETTINGS = ("image_mode", "rgba_background_color")  # with which vLLM decodes an image
IMAGE_MODES = ("RGB", "RGBA", "L", "LA", "1", "P", "CMYK", "YCbCr", "HSV")  # that become a page
MOST_SHOWN = 60  # characters of a value


def check_loading(stated: Any, served: Any = None) -> None:
    """stated: by modality, the request's over the server's; served: the server's alone.

    A server may name settings of a loader of its own. Raises OptionError.
    """
    settings, own = _of_images(stated), _of_images(served)
    for name in settings:
        if name not in (*KNOWN_SETTINGS, *own):
            raise OptionError(
                f"media_io_kwargs: unknown setting {_shown(name)} of images; there are "
                f"{', '.join(KNOWN_SETTINGS)}"
            )
    mode = settings.get("image_mode")
    if mode is not None and mode not in IMAGE_MODES:
        raise OptionError(
            f"media_io_kwargs: image_mode must be null or one of {', '.join(IMAGE_MODES)}, "
            f"got {_shown(mode)}"
        )
    if "rgba_background_color" in settings and not _is_colour(settings["rgba_background_color"]):
        raise OptionError(
            "media_io_kwargs: rgba_background_color must be three integers of 0 to 255, "
            f"got {_shown(settings['rgba_background_color'])}"
        )


def _of_images(stated: Any) -> Mapping[str, Any]:
    settings = stated.get("image") if isinstance(stated, Mapping) else None
    if settings is None:
        return {}
    if not isinstance(settings, Mapping):
        raise OptionError(f"media_io_kwargs: image must be an object, got {_shown(settings)}")
    return settings


def _is_colour(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 3:
        return False
    return all(isinstance(c, int) and not isinstance(c, bool) and 0 <= c <= 255 for c in value)


def _shown(value: Any) -> str:
    """What was given, unless it is long or no plain value."""
    if isinstance(value, Mapping | list | tuple):
        return "a list" if isinstance(value, list | tuple) else "an object"
    said = repr(value)
    return said if len(said) <= MOST_SHOWN else f"{said[:MOST_SHOWN]}..."
