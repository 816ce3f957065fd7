"""The readers that are fuzzed, by name."""

from __future__ import annotations

from tests.fuzz.readers import checkpoints, data, embeddings, pictures
from tests.fuzz.trial import Reader

READERS: dict[str, Reader] = {
    reader.name: reader for part in (data, checkpoints, embeddings, pictures) for reader in part.READERS
}
