"""Audit training pairs: which do not belong together, what fits them better, which are near-duplicates.

    python -m tools.audit --mode_path output/RUN/checkpoint_dev_best.pth.tar --output audit
    python -m tools.audit --images I.npy --captions C.npy --texts captions.txt --output audit

From a trained run, or from any paired embeddings by DSDMR's filter. Writes `audit.csv`, `audit.parquet` and
`audit.html` (the most suspicious pair first), `cleaned_index.npy` for run.py's `--noise_file`, and files for cleanlab.
Where it is known which pairs are mismatched, precision at 100, 500 and 1,000 is told. Nothing needs a matrix of all
scores: 29,000 images x 145,000 captions fit a small memory.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_utils.captions import parse_captions, read_caption_file
from data_utils.catalog import DataConfig, locate
from data_utils.noise import sidecar_of
from data_utils.precomputed import number_images
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import check_range, flag, require
from runtime.log import Progress, table
from tools.audit.embedded import audit_embeddings
from tools.audit.page import PAGE, audit_page
from tools.audit.subject import Audit
from tools.audit.trained import audit_run, subject_of
from tools.audit.written import (
    CSV,
    LABELS,
    PARQUET,
    PRED_PROBS,
    Cleaned,
    audit_table,
    check_tables,
    cleaned_index,
    write_cleaned,
    write_cleanlab,
    write_tables,
)
from tools.command import PlacesConfig, check_output, folder_at_once, give_noise, open_checkpoint, parsed
from tools.filter.files import read_truth
from tools.filter.filtering import EmbeddingPairs, FilterConfig
from tools.pages.pictures import Thumbnails, find_pictures
from tools.picture_files import Pictures

CLEANED = "cleaned_index.npy"
WRITTEN = (CSV, PARQUET, PAGE, CLEANED, str(sidecar_of(Path(CLEANED))), LABELS, PRED_PROBS)
EMBEDDINGS_ONLY = ("captions_per_image", "texts", "truth")
RUN_ONLY = ("vocab_path", "noise_file", "shortlist")


@dataclass(frozen=True)
class AuditConfig(PlacesConfig):
    """Flags of what is audited and written."""

    mode_path: str | None = flag(None, "checkpoint of the run whose training pairs are audited", metavar="FILE")
    images: str | None = flag(
        None, "or image embeddings (rows, dimensions): .npy, .h5, .safetensors; FILE::NAME", metavar="FILE"
    )
    captions: str | None = flag(
        None, "with --images: caption embeddings; row k belongs to row k of --images", metavar="FILE"
    )
    captions_per_image: int = flag(1, "with --images: so many captions in a row belong to each image")
    texts: str | None = flag(None, "with --images: the captions themselves, one a line", metavar="FILE")
    truth: str | None = flag(
        None, "with --images: 1 for a matched pair, 0 for a mismatched one; only for precision", metavar="FILE"
    )
    data_name: str | None = flag(
        None, "data set (default: the checkpoint's); with --images its training captions and pictures are shown"
    )
    noise_file: str | None = flag(
        None, "noise index that the run was trained with (default: the checkpoint's noise)", metavar="FILE"
    )
    output: str | None = flag(None, "folder for the results (required)", metavar="DIR")
    overwrite: bool = flag(False, "replace what an earlier audit left in --output")
    shortlist: int = flag(
        64, "SGR, SAF, SCAN: rank so many candidates of each image and caption; 0: every pair, which takes long"
    )
    duplicate_cosine: float = flag(0.98, "images whose mean features have a larger cosine are near-duplicates")
    page_pairs: int = flag(200, "most suspicious pairs on the page")
    pictures: str | None = flag(None, "folder that the paths in train_images.txt start from", metavar="DIR")
    no_pictures: bool = flag(False, "leave pictures out")

    def __post_init__(self) -> None:
        if (self.mode_path is None) == (self.images is None):
            raise InputError("give either --mode_path, a checkpoint, or --images and --captions")
        if (self.images is None) != (self.captions is None):
            raise InputError("--images and --captions belong together; give both")
        require(self, "output", "name a folder for the results")
        foreign, kind = (RUN_ONLY, "--mode_path") if self.images is not None else (EMBEDDINGS_ONLY, "--images")
        for name in foreign:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise InputError(f"--{name} goes with {kind} only; leave it out")
        if self.texts is not None and self.data_name is not None:
            raise InputError("--texts and --data_name both say what the captions are; give one")
        check_range(self, "captions_per_image", low=1)
        check_range(self, "shortlist", low=0)
        check_range(self, "page_pairs", low=1)
        check_range(self, "duplicate_cosine", low=0.5, high=1.0)


def progress_bars(stack: contextlib.ExitStack) -> Callable[[str, int, str], Callable[[int], None]]:
    """Return what opens progress bars, which close with the stack."""

    def progressing(title: str, total: int, unit: str) -> Callable[[int], None]:
        bar = Progress(title, total, unit=unit)
        stack.callback(bar.close)
        return bar.advance

    return progressing


def note(text: str) -> None:
    """Print what could not be shown."""
    print(f"note: {text}", file=sys.stderr)


def pictures_of(config: AuditConfig, folder: Path, num_images: int) -> Pictures | None:
    """Return the training pictures of a data set; None where it has none, or none are wanted."""
    return None if config.no_pictures else find_pictures(folder, "train", num_images, config.pictures, note)


def audit_of_run(config: AuditConfig, scratch: Path) -> tuple[Audit, Pictures | None]:
    """Audit a trained run."""
    assert config.mode_path is not None
    run = open_checkpoint(config.mode_path, "train", config)
    noise = give_noise(run.stored, run.checkpoint, run.path, noise_file=config.noise_file)
    pictures = pictures_of(config, run.folder, run.split.num_images)
    if not noise.is_known:
        print("which pairs are mismatched is not recorded; pairs are taken as the files have them")
    with contextlib.ExitStack() as stack:
        subject = subject_of(run, config.duplicate_cosine, truth_is_known=noise.is_known)
        bars = progress_bars(stack)
        return audit_run(run, subject, size=config.shortlist, scratch=scratch, progressing=bars), pictures


def audit_of_embeddings(config: AuditConfig, filtering: FilterConfig) -> tuple[Audit, Pictures | None]:
    """Audit stored embeddings."""
    assert config.images is not None and config.captions is not None
    pairs = EmbeddingPairs.open(config.images, config.captions, config.captions_per_image)
    file, pictures, name = None, None, Path(config.images).name
    if config.texts is not None:
        if not Path(config.texts).is_file():
            raise InputError(f"--texts {config.texts} is no file")
        file = parse_captions(Path(config.texts), Path(config.texts).read_bytes())
    elif config.data_name is not None:
        folder = locate(DataConfig(data_name=config.data_name, data_path=config.data_path))
        file, name = read_caption_file(folder, "train"), config.data_name
        pictures = pictures_of(config, folder, len(pairs.images))
    elif config.data_path is not None or config.pictures is not None:
        raise InputError("--data_path and --pictures need --data_name, the data set that the embeddings are of")
    if file is not None and len(file.texts) != len(pairs):
        raise InputError(f"{file.path} has {len(file.texts)} captions, there are {len(pairs)} pairs")
    if file is not None and file.ids is not None and pairs.captions_per_image > 1:
        if not np.array_equal(number_images(file.ids), pairs.image_of_caption):
            raise InputError(
                f"the image ids in {file.path} do not go {pairs.captions_per_image} by {pairs.captions_per_image}, as "
                "--captions_per_image says; give embeddings in that order, or one image row a caption and no such flag"
            )
    truth = None if config.truth is None else ~read_truth(config.truth, len(pairs))
    with contextlib.ExitStack() as stack:
        audit = audit_embeddings(
            pairs,
            filtering,
            name=name,
            texts=None if file is None else file.texts,
            is_mismatched=truth,
            duplicate_cosine=config.duplicate_cosine,
            progressing=progress_bars(stack),
        )
    return audit, pictures


def say(audit: Audit, cleaned: Cleaned) -> None:
    """Print what was found."""
    count = len(audit.order)
    suspects, moved = int(cleaned.is_suspect.sum()), int(cleaned.is_moved.sum())
    print(f"{audit.subject.name}: {count} pairs, judged by {audit.judged_by}")
    print(f"ranks are over {audit.ranked_over}")
    print(f"{suspects} suspects ({100 * suspects / count:.1f} %), {moved} of them have an image that fits better")
    unread = audit.subject.is_unread
    if unread is not None and unread.any():
        print(f"of {int(unread.sum())} captions no word is known: nothing can be said of them")
    if precision := audit.precisions():
        rows = [[f"first {k}", 100 * share] for k, share in precision.items()]
        print(table(["most suspicious", "mismatched %"], rows))


def audit(config: AuditConfig, filtering: FilterConfig) -> None:
    """Audit, print what was found, write the results."""
    assert config.output is not None
    output = Path(config.output)
    inputs = (config.mode_path, config.images, config.captions, config.texts, config.truth, config.noise_file)
    check_output(output, [name for name in inputs if name is not None], overwrite=config.overwrite)
    with folder_at_once(output, WRITTEN) as folder:
        is_run = config.mode_path is not None
        found, pictures = audit_of_run(config, folder) if is_run else audit_of_embeddings(config, filtering)
        subject, better = found.subject, found.partners.t2i.better
        cleaned = cleaned_index(
            subject.image_of_pair, found.probability, better, filtering.p_threshold, subject.is_unread
        )
        say(found, cleaned)
        write_tables(folder, audit_table(found, cleaned))
        thumbnails = None if pictures is None else Thumbnails(pictures)
        audit_page(found, cleaned, thumbnails, num_pairs=config.page_pairs).write(folder / PAGE)
        write_cleanlab(folder, found.probability)
        if subject.has_real_noise:
            print(f"no {CLEANED}: run.py takes no --noise_file for {subject.name}, whose noise is real")
        else:
            write_cleaned(folder / CLEANED, cleaned, subject.image_of_caption)
        written = ", ".join(sorted(path.name for path in folder.iterdir()))
    print(f"{output}: {written}")


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the flags and audit."""
    kinds = {"audit": AuditConfig, "suspects, and the filter of --images": FilterConfig}
    configs = parsed("tools.audit", "Find the training pairs that do not belong together.", argv, kinds)
    check_tables()
    audit(*configs)


if __name__ == "__main__":
    main()
