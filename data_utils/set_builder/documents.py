"""Parts of the README.md of a set."""

from collections.abc import Mapping, Sequence


def files_table(dims: int, captions: str, concept: str, group: str) -> str:
    """List the files of a set.

    Args:
        dims: Dimensions of a region.
        captions: Number of captions of a picture, as a word.
        concept: What tells a concept.
        group: What a concept's group is.

    Returns:
        A table, and how to read two of the files.
    """
    return f"""| file | holds |
| --- | --- |
| `{{split}}_ims.h5` | `features` int8 (pictures, 36, {dims}), `scales` float32 ({dims},) |
| `{{split}}_caps.txt` | captions, one a line, {captions} consecutive lines a picture, in the features' order |
| `pictures.json` | for each split and row the concept ({concept}), label, artist and {group} |
| `thumbnails.h5` | for each split WebP pictures of 72 x 72 and `grey16`, 16 x 16 grey images |
| `LICENSES` | sources, versions, authors and licences |

A region feature is `features * scales`; WebP file i is `bytes[offsets[i]:offsets[i + 1]]`."""


def artists_table(artists: Mapping[str, Sequence[int]]) -> str:
    """Tell who drew how many pictures.

    Args:
        artists: For each artist the pictures in train, dev and test.

    Returns:
        A table.
    """
    rows = "\n".join(f"| {name} | " + " | ".join(map(str, own)) + " |" for name, own in artists.items())
    return f"""| artist | train | dev | test |
| --- | --- | --- | --- |
{rows}"""


def regions_text(figures: Mapping[str, float]) -> str:
    """Say what a region is and what storing it loses.

    Args:
        figures: "dims", "kept" (share of variance) and the signal-to-noise ratios "snr_train", "snr_dev" and
            "snr_test".

    Returns:
        A paragraph.
    """
    dims, kept = f"{figures['dims']:.0f}", f"{figures['kept']:.1%}"
    noise = {split: f"{figures[f'snr_{split}']:.1f}" for split in ("train", "dev", "test")}
    return f"""\
Regions are the 6 x 6 cells of the last feature map of EfficientNet-Lite0 (ImageNet weights) at 192 x 192,
reduced from 1280 to {dims} dimensions by a PCA fitted on train, which keeps {kept} of the variance.
The mean square over train is 1. Rounding to 8 bits leaves a signal-to-noise ratio of
{noise["train"]} dB (train), {noise["dev"]} dB (dev) and {noise["test"]} dB (test)."""
