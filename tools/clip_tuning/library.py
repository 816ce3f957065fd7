"""transformers, if it is installed: the one place that imports it."""

from __future__ import annotations

from typing import Any

from runtime.extras import CLIP, require

try:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers import logging as library_logging
except ImportError:  # an optional extra: the rest of the suite works without it
    AutoTokenizer = ByteLevel = CLIPConfig = CLIPModel = CLIPTokenizer = library_logging = None  # type: ignore[assignment,misc]

__all__ = ["AutoTokenizer", "ByteLevel", "CLIPConfig", "CLIPModel", "CLIPTokenizer", "require_transformers"]

Tokenizer = Any
"""A tokeniser of transformers; the library's own type is missing where the library is."""


def require_transformers() -> None:
    """Make sure that transformers is there, and keep its remarks and progress bars from the terminal.

    Raises:
        InputError: it is not installed; says how to install it.
    """
    require(CLIPModel, "transformers", "CLIP needs", CLIP)
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
