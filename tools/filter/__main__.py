"""Find the mismatched pairs among paired embeddings or similarities of any origin, by DSDMR's filter.

    python -m tools.filter --images I.npy --captions C.npy --output DIR
    python -m tools.filter --similarities S.npy --output DIR --logit_scale 100
    python -m tools.filter --images I.npy --captions C.npy --output DIR --adapt

Writes `clean_probability.csv`, `clean_probability.npy`, `clean_index.npy` (numbers of the kept pairs), `modes.json` and
`modes.png`; with `--adapt` also `adapter.pt`, `adapted_images.npy`, `adapted_captions.npy` and `results.json`. The
adapted files are input to this command like any others. A reconstruction of DSDMR (TOIS 2024): filter and loop are
published, guards, margins and adapter are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from methods.blocks.dynamic_margin import MarginConfig
from methods.blocks.modes import check_similarity
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import check_range, flag, require
from tools.command import check_output, folder_at_once, parsed
from tools.filter.adapter import ADAPTED_CAPTIONS, ADAPTED_IMAGES, ADAPTER, RESULTS, AdapterConfig, adapt
from tools.filter.files import read_similarities, read_truth
from tools.filter.filtering import EmbeddingPairs, FilterConfig, filter_pairs, filter_quality
from tools.filter.report import INDEX, MODES, PAIRS_CSV, PICTURE, PROBABILITY, filter_text, quality_text, write_filter

WRITTEN = (PAIRS_CSV, PROBABILITY, INDEX, MODES, PICTURE, ADAPTER, ADAPTED_IMAGES, ADAPTED_CAPTIONS, RESULTS)


@dataclass(frozen=True)
class CleanConfig:
    """Flags of what is read and written."""

    images: str | None = flag(
        None, "image embeddings (rows, dimensions): .npy, .h5, .safetensors; FILE or FILE::NAME", metavar="FILE"
    )
    captions: str | None = flag(None, "caption embeddings; row k belongs to row k of --images", metavar="FILE")
    captions_per_image: int = flag(1, "so many captions in a row belong to each image")
    similarities: str | None = flag(
        None,
        "instead of embeddings, one similarity a pair: .npy, .h5, .safetensors, .txt or .csv; FILE or FILE::NAME",
        metavar="FILE",
    )
    logit_scale: float = flag(1.0, "with --similarities: what the cosines were multiplied by (CLIP: about 100)")
    truth: str | None = flag(
        None, "1 for a matched pair, 0 for a mismatched one, in such a file; only for figures", metavar="FILE"
    )
    output: str | None = flag(None, "folder for the results (required)", metavar="DIR")
    overwrite: bool = flag(False, "replace the results that an earlier run left in --output")

    def __post_init__(self) -> None:
        require(self, "output", "name a folder for the results")
        check_range(self, "captions_per_image", low=1)
        if (self.images is None) != (self.captions is None):
            raise InputError("--images and --captions belong together; give both")
        if (self.images is None) == (self.similarities is None):
            raise InputError("give either --images and --captions, or --similarities")
        if self.similarities is None and self.logit_scale != 1:
            raise InputError(
                f"--logit_scale {self.logit_scale:g} is for --similarities; cosines of embeddings need none"
            )
        if self.similarities is not None and self.captions_per_image != 1:
            raise InputError("--captions_per_image is for embeddings; --similarities has one number a pair")


def read_pairs(config: CleanConfig) -> EmbeddingPairs | None:
    """Open the embeddings; None if similarities were given."""
    if config.images is None or config.captions is None:
        return None
    return EmbeddingPairs.open(config.images, config.captions, config.captions_per_image)


def pair_similarities(config: CleanConfig, pairs: EmbeddingPairs | None) -> np.ndarray:
    """Return the cosine of each pair, (n,) float64: computed, or read."""
    if pairs is not None:
        return pairs.similarity()
    assert config.similarities is not None
    try:
        return check_similarity(read_similarities(config.similarities), logit_scale=config.logit_scale)
    except InputError as error:
        named = str(error).startswith(config.similarities)
        raise error if named else InputError(f"{config.similarities}: {error}") from None


def clean(files: CleanConfig, filtering: FilterConfig, adapter: AdapterConfig, margins: MarginConfig) -> None:
    """Filter, and adapt if asked to; print what was found, write the results."""
    assert files.output is not None
    output = Path(files.output)
    if adapter.adapt and files.images is None:
        raise InputError("--adapt needs embeddings: give --images and --captions instead of --similarities")
    inputs = (files.images, files.captions, files.similarities, files.truth)
    check_output(output, [name for name in inputs if name is not None], overwrite=files.overwrite)
    pairs = read_pairs(files)
    if pairs is not None:
        print(pairs.describe())
    similarity = pair_similarities(files, pairs)
    is_matched = None if files.truth is None else read_truth(files.truth, len(similarity))
    found = filter_pairs(similarity, filtering, filtering.p_threshold, filtering.seed)
    print(filter_text(found, filtering))
    if is_matched is not None:
        print(quality_text({"as given": filter_quality(found.is_clean, found.probability, is_matched)}))
    with folder_at_once(output, WRITTEN) as folder:
        write_filter(folder, found, filtering, is_matched=is_matched, source=asdict(files))
        if adapter.adapt:
            assert pairs is not None
            adapt(pairs, is_matched, adapter, filtering, margins, folder, print)
        written = ", ".join(sorted(path.name for path in folder.iterdir()))
    print(f"{output}: {written}")


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and clean."""
    kinds = {"files": CleanConfig, "filter": FilterConfig, "adapter": AdapterConfig, "its margins": MarginConfig}
    clean(*parsed("tools.filter", "Find the mismatched pairs among paired embeddings (DSDMR).", argv, kinds))


if __name__ == "__main__":
    main()
