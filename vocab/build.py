"""Build a vocabulary from a data set's train and dev captions.

    python -m vocab.build --data_path data --data_name f30k_precomp

Writes `<vocab_path>/<data_name>_vocab.json`. An entry point, as run.py is: it uses the rooms below, and none uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_utils.captions import read_captions, unsegmented
from data_utils.catalog import DataConfig, locate, vocabulary_file
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser, add_flags, check_range, flag, from_namespace
from vocab.vocabulary import SPECIAL, Vocabulary


@dataclass(frozen=True)
class VocabularyConfig:
    """How the vocabulary is built."""

    min_count: int = flag(4, "keep the words seen at least this often in the train and dev captions")
    replace: bool = flag(False, "replace a vocabulary of other words; checkpoints trained with it cannot be used then")

    def __post_init__(self) -> None:
        check_range(self, "min_count", low=1)


def _check_target(path: Path, vocabulary: Vocabulary, *, replace: bool) -> None:
    """Raise `InputError` if another vocabulary is there already, unless it is to be replaced."""
    if not path.is_file() or replace:
        return
    try:
        same = Vocabulary.load(path).words == vocabulary.words
    except InputError:
        same = False
    if not same:
        raise InputError(
            f"{path} is there and holds other words; checkpoints trained with it need it: give --replace, or another "
            "--vocab_path"
        )


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Read the captions, write the JSON, say how many words it holds and how much of the text they are."""
    parser = OneLineParser(prog="python -m vocab.build", description="Build a vocabulary from train and dev captions.")
    add_flags(parser, "data", DataConfig)
    add_flags(parser, "vocabulary", VocabularyConfig)
    namespace = parser.parse_args(argv)
    data = from_namespace(DataConfig, namespace)
    config = from_namespace(VocabularyConfig, namespace)
    folder = locate(data)
    captions = [c for split in ("train", "dev") for c in read_captions(folder, split)]
    hint = unsegmented(captions)
    vocabulary = Vocabulary.build(captions, config.min_count)
    if len(vocabulary) == len(SPECIAL):
        why = hint or "lower --min_count"
        raise InputError(f"no word of {folder} is seen {config.min_count} times; {why}")
    path = vocabulary_file(data)
    _check_target(path, vocabulary, replace=config.replace)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--vocab_path {path.parent} cannot be written: {error.strerror}") from None
    vocabulary.save(path)
    ids, lengths = vocabulary.encode_all(captions)
    total = len(ids) - 2 * len(lengths)
    known = 1 - (ids == vocabulary.unknown_id).sum() / total
    print(
        f"{path}: {len(vocabulary)} words, each seen {config.min_count} times or more in {len(captions)} captions: "
        f"{100 * known:.1f} % of all words"
    )
    if hint is not None:
        print(f"warning: {hint}")


if __name__ == "__main__":
    main()
