"""Build a vocabulary from a data set's train and dev captions.

    python -m vocab.build --data_path data --data_name f30k_precomp

Writes `<vocab_path>/<data_name>_vocab.json`. This entry point stands above data_utils, which it uses to find captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data_utils.captions import read_captions
from data_utils.catalog import DataConfig, locate, vocabulary_file
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace
from vocab.vocabulary import Vocabulary


@dataclass(frozen=True)
class VocabularyConfig:
    """How the vocabulary is built."""

    min_count: int = flag(4, "keep the words seen at least this often")

    def __post_init__(self) -> None:
        check_range(self, "min_count", low=1)


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Read the captions, write the JSON, say how many words it holds."""
    parser = OneLineParser(prog="python -m vocab.build", description="Build a vocabulary from train and dev captions.")
    add_flags(parser, "data", DataConfig)
    add_flags(parser, "vocabulary", VocabularyConfig)
    namespace = parser.parse_args(argv)
    data = from_namespace(DataConfig, namespace)
    config = from_namespace(VocabularyConfig, namespace)
    folder = locate(data)
    captions = [c for split in ("train", "dev") for c in read_captions(folder, split)]
    vocabulary = Vocabulary.build(captions, config.min_count)
    path = vocabulary_file(data)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--vocab_path {path.parent} cannot be written: {error.strerror}") from None
    vocabulary.save(path)
    print(f"{path}: {len(vocabulary)} words from {len(captions)} captions")


if __name__ == "__main__":
    main()
