"""Rows of a table of results: from results files and published numbers; their means, and what keeps them apart.

Three kinds of files are read: results.json of run.py, what `evaluation.py --output` writes, and results.json of CLIP
runs. Sums are always computed from the six recalls; a file that says otherwise is noted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from data_utils.catalog import protocol
from runtime.errors import InputError
from runtime.files import parse_json

RECALLS = tuple(f"{way} R@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10))
PUBLISHED = Path(__file__).with_name("published_results.json")

OF_A_RUN = ("seed", "id", "output_dir", "gpu", "workers", "log_step", "save_minutes", "resume", "noise_report")
STARTS = ("saved_model", "warmup_model_path")
"""Settings in which the seeds of one mean may differ; starts may differ in the path, not in being there."""

TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("method", "data_name", "split", "features"), (str,)),
    **dict.fromkeys(("similarity", "noise_protocol", "chosen_on"), (str, NoneType)),
    **dict.fromkeys(("noise_ratio", "measured_ratio"), (int, float, NoneType)),
    **dict.fromkeys(("num_networks", "seeds"), (int, NoneType)),
    "epochs": (int, str, NoneType),
}
"""Fields that come from files as they are -> what they, or all in them, must be."""

LARGEST_SLIP = 0.05
"""A sum that misses that of its recalls by more is noted; less is rounding."""


LARGEST_RATIO_ERROR = 0.01 + 1e-9
MARKS = {
    "D": "other data",
    "S": "another split, or other folds",
    "N": "another noise protocol, or one of them is not stated",
    "E": "another number of networks averaged, or one of them is not stated",
    "F": "other features",
    "C": "not chosen on dev, or that is not recorded",
    "R": "the measured noise ratio is more than a point off the asked one",
}
"""Why a row must not be read against the reference, the first row of the section that is not published."""


@dataclass(frozen=True)
class Row:
    """One result, or the mean over seeds of several.

    Attributes:
        recalls: the six of `RECALLS`; None where a published one is not kept.
        r_sum: their sum, or as published.
        spread: standard deviations over the seeds, of the six and of the sum; empty of one seed.
        noise_ratio: asked; None where the data are mismatched as collected.
        measured_ratio: share of pairs that are really mismatched.
        num_networks: how many score matrices were averaged.
        epochs: `2/4` after warm-up, `warm-up 1/1`, `start`; a number in files that have no more.
        chosen_on: the split that chose the epoch.
        settings: everything else a run was told, its seed and its files apart; None where that is not kept.
        notes: what is wrong with its sum.
    """

    method: str
    source: str
    data_name: str
    split: str
    noise_ratio: float | None
    recalls: tuple[float | None, ...]
    r_sum: float | None
    similarity: str | None = None
    noise_protocol: str | None = None
    measured_ratio: float | None = None
    num_networks: int | None = None
    seeds: tuple[int | None, ...] = ()
    epochs: tuple[int | str | None, ...] = ()
    chosen_on: str | None = None
    features: str = "regions"
    is_published: bool = False
    spread: tuple[float, ...] = ()
    settings: str | None = None
    notes: tuple[str, ...] = ()

    def same_but_seed(self) -> tuple[object, ...]:
        """Return what rows of one mean have in common."""
        told = (self.method, self.similarity, self.data_name, self.split, self.noise_protocol, self.noise_ratio)
        return (*told, self.num_networks, self.chosen_on, self.features, self.settings)


def split_name(split: str, fold_images: int | None) -> str:
    """Return how a split was ranked."""
    return f"{split}, folds of {fold_images:,}" if fold_images else split


def _recalls(result: Mapping[str, Any]) -> tuple[float, ...]:
    return tuple(float(result[way][f"R@{k}"]) for way in ("i2t", "t2i") for k in (1, 5, 10))


def _only(values: Iterable[Any]) -> Any:
    """Return what all values are, or None if they differ."""
    found = list(values)
    return found[0] if found and all(value == found[0] for value in found) else None


def _joined(values: Iterable[str | None]) -> str | None:
    """Return the different values, joined: of an ensemble of several checkpoints."""
    names = list(dict.fromkeys(value for value in values if value))
    return "+".join(names) or None


def _count(title: Any) -> Any:
    """Return `2/4` for `epoch 2/4`; other titles, and the bare numbers of older files, as they are."""
    return title.removeprefix("epoch ") if isinstance(title, str) else title


def _told(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Mapping[str, Any]]]:
    """Return what a results file tells of all its rows, and its results by split."""
    if "clip_method" in content:
        test = content["test"]
        folds = (
            {split_name("test", content.get("fold_images", 1000)): {"clip": test["folds"]}} if "folds" in test else {}
        )
        told = {"method": content["clip_method"], "similarity": "CLIP", "features": "CLIP"}
        told |= {"noise": [content["noise"]], "seeds": [content["seed"]], "epochs": [content["epoch"]]}
        told |= {"chosen_on": [content["chosen_on"]], "data_name": content.get("data_name", "not recorded")}
        return {**told, "num_networks": 1}, {**folds, "test": {"clip": test}}
    if "test" in content:
        told = {name: content[name] for name in ("method", "similarity", "data_name", "num_networks")}
        told |= {"noise": [content["noise"]], "seeds": [content["seed"]]}
        told |= {"epochs": [_count(content.get("epoch_title", content["epoch"]))], "chosen_on": [content["chosen_on"]]}
        return told, {content["split"]: content["test"]}
    told = {name: content[name] for name in ("data_name", "num_networks", "noise", "seeds", "chosen_on")}
    told["epochs"] = [_count(title) for title in content.get("epoch_titles", content["epochs"])]
    told |= {"method": _joined(content.get("methods", ())), "similarity": _joined(content.get("similarities", ()))}
    results = {content["split"]: content["results"]}
    if "fold_results" in content:
        name = split_name(content["split"], content.get("fold_images", protocol(content["data_name"]).fold_images))
        results = {name: content["fold_results"], **results}
    return told, results


def _settings(path: Path) -> str | None:
    """Return the settings in the config.json beside a run's results, less those of `OF_A_RUN`."""
    beside = path.with_name("config.json")
    if path.name != "results.json" or not beside.is_file():
        return None
    try:
        config = parse_json(beside.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{beside}, beside {path.name}, cannot be read: {error}; delete it or copy it again") from None
    if not isinstance(config, dict):
        raise InputError(f"{beside}, beside {path.name}, holds no names and values; delete it or copy it again")
    for section in (config, *(value for value in config.values() if isinstance(value, dict))):
        for name in OF_A_RUN:
            section.pop(name, None)
        section.update({name: bool(section[name]) for name in STARTS if name in section})
    return json.dumps(config, sort_keys=True)


def _check_types(row: Row) -> None:
    """Raise `TypeError` for what a file tells as something else than the tables can show."""
    for name, kinds in TYPES.items():
        value = getattr(row, name)
        for one in value if isinstance(value, tuple) else (value,):
            if not isinstance(one, kinds) or isinstance(one, bool):
                raise TypeError(f"{name} is {one!r}")
    if not all(map(math.isfinite, (*(r for r in row.recalls if r is not None), row.r_sum or 0.0))):
        raise ValueError("a recall is no finite number")


def read_results(path: Path) -> list[Row]:
    """Read a results file, or the results.json of a folder: a row for each way a split was ranked.

    Raises:
        InputError: not a results file.
    """
    path = path / "results.json" if path.is_dir() else path
    rows = []
    try:
        content = parse_json(path.read_bytes())
        told, by_split = _told(content)
        noise = [n or {} for n in told.pop("noise")]
        has_real_noise = protocol(told["data_name"]).has_real_noise
        common: dict[str, Any] = {
            "method": told.pop("method") or "not recorded",
            "seeds": tuple(told.pop("seeds")),
            "epochs": tuple(told.pop("epochs")),
            "chosen_on": _only(told.pop("chosen_on")),
            "noise_protocol": "real" if has_real_noise else _only(n.get("protocol") for n in noise),
            "noise_ratio": None if has_real_noise else _only(n.get("asked_ratio") for n in noise),
            "measured_ratio": None if has_real_noise else _only(n.get("measured_ratio") for n in noise),
        }
        for split, results in by_split.items():
            *_, name = results  # the mean of several networks comes last
            recalls = _recalls(results[name])
            notes: tuple[str, ...] = ()
            if abs(float(results[name]["rSum"]) - sum(recalls)) > LARGEST_SLIP:
                said = f"says rSum {results[name]['rSum']:.1f}, its recalls add up to {sum(recalls):.1f}"
                notes = (f"{path}, {split} {name}: {said}",)
            row = Row(
                **(common | told),
                source=path.parent.name if path.name == "results.json" else path.name,
                settings=_settings(path),
                split=split,
                recalls=recalls,
                r_sum=sum(recalls),
                notes=notes,
            )
            _check_types(row)
            rows.append(row)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give a results.json or its folder") from None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        kind = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{path} is not a results file of run.py, evaluation.py --output or a CLIP run ({kind})"
        ) from None
    return rows


def read_published(path: Path = PUBLISHED) -> list[Row]:
    """Read the published rows, less those of ablations."""
    rows = []
    for entry in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        if entry.get("is_ablation"):
            continue
        recalls = entry.get("recalls") or [entry["i2t_R@1"], None, None, entry["t2i_R@1"], None, None]
        r_sum = sum(entry["recalls"]) if entry.get("recalls") else entry["rSum"]
        printed, notes = entry.get("printed_rSum", entry["rSum"]), []
        if r_sum is not None and abs(printed - r_sum) > LARGEST_SLIP:
            where = f"{entry['method']} in {entry['source']}, {entry['data_name']} at {entry['noise_ratio']}"
            notes = [f"{where}: printed rSum {printed:.1f}, its recalls add up to {r_sum:.1f}"]
        rows.append(
            Row(
                **{name: entry[name] for name in ("method", "source", "data_name", "noise_ratio", "noise_protocol")},
                **{name: entry[name] for name in ("features", "num_networks")},
                split=split_name(entry["split"], entry["fold_images"]),
                recalls=tuple(recalls),
                r_sum=r_sum,
                similarity=entry.get("similarity"),
                is_published=True,
                notes=tuple(notes),
            )
        )
    return rows


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """Join rows that differ in nothing but the seed into one of means; a row that is given twice counts once.

    Different numbers for one seed cannot be of one setting, whatever else the files tell: such rows stay apart.
    """
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        group = groups.setdefault(row.same_but_seed(), [])
        if not any((row.seeds, row.recalls) == (other.seeds, other.recalls) for other in group):
            group.append(row)
    joined: list[Row] = []
    for group in groups.values():
        is_one_setting = len({row.seeds for row in group}) == len(group) > 1
        joined += [_mean(group)] if is_one_setting else group
    return joined


def _mean(rows: Sequence[Row]) -> Row:
    numbers = np.array([[*row.recalls, row.r_sum] for row in rows], dtype=float)
    measured = [row.measured_ratio for row in rows if row.measured_ratio is not None]
    mean = numbers.mean(axis=0).tolist()
    return replace(
        rows[0],
        source=", ".join(row.source for row in rows),
        recalls=tuple(mean[:-1]),
        r_sum=mean[-1],
        spread=tuple(numbers.std(axis=0, ddof=1).tolist()),
        seeds=tuple(seed for row in rows for seed in row.seeds),
        epochs=tuple(epoch for row in rows for epoch in row.epochs),
        notes=tuple(note for row in rows for note in row.notes),
        measured_ratio=float(np.mean(measured)) if measured else None,
    )


def _reasons(row: Row, reference: Row) -> Iterator[str]:
    if row.data_name != reference.data_name:
        yield "D"
    if row.split != reference.split:
        yield "S"
    if row.noise_protocol != reference.noise_protocol or row.noise_protocol in (None, "not recorded"):
        yield "N"
    if row.num_networks != reference.num_networks or row.num_networks is None:
        yield "E"
    if row.features != reference.features:
        yield "F"
    if not row.is_published and row.chosen_on != "dev":
        yield "C"
    if None not in (row.noise_ratio, row.measured_ratio):
        if abs(row.measured_ratio - row.noise_ratio) > LARGEST_RATIO_ERROR:  # type: ignore[operator]
            yield "R"


def marks(row: Row, reference: Row | None) -> str:
    """Return the letters of `MARKS` that keep a row from being read against the reference."""
    return " ".join(_reasons(row, row if reference is None else reference))


@dataclass(frozen=True)
class Section:
    """Rows of one data set and noise ratio, the reference first."""

    title: str
    rows: list[Row]
    reference: Row | None


def sections(own: Sequence[Row], published: Sequence[Row], beside: str) -> list[Section]:
    """Put own rows of one data set and asked ratio together, with published rows of that ratio.

    Args:
        own: rows of results files.
        published: published rows.
        beside: `all` puts every published row of that ratio beside, `auto` those of the same data set or, where there
            are none, all; `none` none.
    """
    found: dict[tuple[str, float | None], list[Row]] = {}
    for row in own:
        found.setdefault((row.data_name, row.noise_ratio), []).append(row)
    made = []
    for (data_name, ratio), rows in found.items():
        at_ratio = [row for row in published if row.noise_ratio == ratio]
        same = [row for row in at_ratio if row.data_name == data_name]
        chosen = {"all": at_ratio, "auto": same or at_ratio, "none": []}[beside]
        noise = "noise as collected" if ratio is None else f"{100 * ratio:g} % noise asked"
        made.append(Section(f"{data_name}, {noise}", [*rows, *chosen], rows[0]))
    return made
