"""Checkpoints of NCR, BiCro, MGCS and SGRAF, to our content and back: names, dimensions, options.

Theirs: {"epoch", "model_A", "model_B", "best_rsum", "opt"}, SGRAF's {"epoch", "model", "best_rsum", "opt"}; each model
is a list of three state dicts (image encoder, caption encoder, similarity), `opt` an `argparse.Namespace` of the flags.
Programs built on these put more behind them: PC2 a projection head, GSC three vectors. They score without it.
Ours is described in runtime/checkpoint.py. The parameters carry the same names but for a prefix, so that this file
needs no model. Dimensions come from the tensors; options that say otherwise are a damaged file, except `bi_gru`, whose
meaning differs between the programs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from runtime.errors import InputError
from runtime.torch_file import Array, StoredOptions

PARTS = ("region_encoder", "caption_encoder", "similarity")
"""Our prefixes of the three state dicts, in the lineage's order."""
RENAMED = {"caption_encoder.rnn": "caption_encoder.cap_rnn"}
"""SCAN's name of the caption encoder's GRU -> SGRAF's, which is ours."""
REGIONS = 36
"""Regions of the lineage's features; its code fixes the number."""
NOT_RECORDED = "not recorded"
READERS = {"SGR_module": "SGR", "SAF_module": "SAF"}
"""What tells a similarity from its parameters."""
ARCHITECTURE = (
    "module_name img_dim word_dim embed_size sim_dim num_layers sgr_step bi_gru no_imgnorm no_txtnorm".split()
)
"""Options that describe a network; ours are more, and stand in the option `architecture` of what we export."""
SCAN_POOLINGS = {"Mean": "mean", "LogSumExp": "lse"}

_POOLED_REGIONS = "similarity.v_global_w.embedding_local.1.running_mean"
_VECTORS = "similarity.sim_tranloc_w.weight"


def is_legacy(content: Any) -> bool:
    """Tell whether the content of a torch file is a checkpoint of the lineage."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("opt"), StoredOptions)
        and any(isinstance(content.get(name), (list, tuple)) for name in ("model", "model_A"))
    )


def plain_options(options: StoredOptions) -> dict[str, Any]:
    """Return the options that are plain values or lists of them, by name."""
    kinds = (str, int, float, bool, type(None))

    def is_plain(value: Any) -> bool:
        return isinstance(value, kinds) or (isinstance(value, (list, tuple)) and all(map(is_plain, value)))

    return {str(name): value for name, value in vars(options).items() if is_plain(value)}


def left_out(models: Iterable[Any]) -> str | None:
    """Say how much of the lineage's models is not read; None: all is."""
    count = sum(len(model[len(PARTS) :]) for model in models)
    told = f"{len(PARTS)} parts of each model are read: image encoder, caption encoder and similarity"
    return f"{told}; what stands behind them is left out ({count} part(s))" if count else None


def _our_names(model: Any, path: str) -> dict[str, Tensor]:
    """Join a model's state dicts under our names."""
    is_model = isinstance(model, (list, tuple)) and len(model) >= 2 and all(isinstance(p, dict) for p in model[:3])
    if not is_model or not all(isinstance(part, (dict, Tensor, Array)) for part in model[3:]):
        raise InputError(
            f"{path} is not a checkpoint of NCR, BiCro, MGCS or SGRAF, or of a program built on them: a model there is "
            "a list of three state dicts (image encoder, caption encoder, similarity), and perhaps tensors behind them"
        )
    weights: dict[str, Tensor] = {}
    for prefix, part in zip(PARTS, model, strict=False):  # SCAN's similarities have no parameters
        for name, value in part.items():
            first, *others = str(name).removeprefix("module.").split(".")  # DataParallel's prefix
            module = f"{prefix}.{first}"
            weights[".".join([RENAMED.get(module, module), *others])] = value
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path} is damaged: among its parameters there is something that is no tensor")
    return weights


def _dimensions(weights: Mapping[str, Tensor], options: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the architecture as the tensors of a network have it, under the lineage's names."""
    try:
        embed_size, img_dim = weights["region_encoder.fc.weight"].shape
        vocab_size, word_dim = weights["caption_encoder.embed.weight"].shape
    except (KeyError, ValueError) as error:
        raise InputError(f"{path} is damaged: its encoders are not those of the lineage ({error})") from None
    layers = [name for name in weights if name.startswith("caption_encoder.cap_rnn.weight_ih_l")]
    found: dict[str, Any] = {
        **{"img_dim": img_dim, "embed_size": embed_size, "word_dim": word_dim, "vocab_size": vocab_size},
        "num_layers": sum(not name.endswith("_reverse") for name in layers),
        "bi_gru": any(name.endswith("_reverse") for name in layers),
    }
    readers = {name.split(".")[1] for name in weights if name.startswith("similarity.")} & set(READERS)
    if readers:
        found["module_name"] = "+".join(READERS[reader] for reader in sorted(readers))
    if "SGR_module" in readers:
        found["sgr_step"] = len({n.split(".")[2] for n in weights if n.startswith("similarity.SGR_module.")})
    if _VECTORS in weights:
        found["sim_dim"] = len(weights[_VECTORS])
    if _POOLED_REGIONS in weights:
        found["num_regions"] = len(weights[_POOLED_REGIONS])
    for name, value in found.items():
        if name != "bi_gru" and options.get(name, value) not in (value, None):
            raise InputError(f"{path} is damaged: its options say {name} {options[name]}, its weights {name} {value}")
    return found


def _scan_options(options: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return our settings of a similarity for the options of SCAN's own program; nothing for others."""
    if "cross_attn" not in options:
        return {}
    if options.get("raw_feature_norm", "clipped_l2norm") != "clipped_l2norm":
        raise InputError(
            f"{path} normalises attention by {options['raw_feature_norm']}; this suite has clipped_l2norm only"
        )
    pooling = options.get("agg_func", "LogSumExp")
    return {
        "module_name": f"SCAN_{options['cross_attn']}",
        "scan_pooling": SCAN_POOLINGS.get(pooling, pooling),
        "scan_softmax": options.get("lambda_softmax"),
        "scan_lse": options.get("lambda_lse"),
    }


def from_legacy(content: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Turn a checkpoint of the lineage into the content of one of ours.

    What it does not hold is said: `vocabulary_digest` None, `chosen_on` and the noise protocol "not recorded"; and what
    is not read of it: `left_out`.

    Raises:
        InputError: networks that are not the lineage's, that differ from each other, or from the options.
    """
    options = plain_options(content["opt"])
    models = [content[name] for name in ("model_A", "model_B", "model") if content.get(name) is not None]
    networks = [_our_names(model, path) for model in models]
    found = _dimensions(networks[0], options, path)
    for weights in networks[1:]:
        if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in networks[0].items()}:
            raise InputError(f"{path} is damaged: its networks are not of the same dimensions")
    told = {**options, **_scan_options(options, path), **found}
    fields = {*ARCHITECTURE, *options.get("architecture", ()), *_scan_options(options, path)}
    matcher = {name: told[name] for name in sorted(fields) if told.get(name) not in (None, "")}
    sizes = {"vocabulary_size": found["vocab_size"], "region_dim": found["img_dim"]}
    noise = {"protocol": NOT_RECORDED, "asked_ratio": options.get("noise_ratio"), "measured_ratio": None}
    config = {
        "data": {name: options.get(name) or None for name in ("data_name", "data_path", "vocab_path")},
        "matcher": matcher,
        "shape": {**sizes, "num_regions": told.get("num_regions", REGIONS)},
        "training": {"seed": options.get("seed")},
        "noise_report": noise,
        "method_name": options.get("method"),
        "options": options,
    }
    return {
        **{"format": "legacy", "epoch": content.get("epoch"), "config": config, "vocabulary_digest": None},
        **{"networks": networks, "chosen_on": NOT_RECORDED, "best_rsum": content.get("best_rsum")},
        "left_out": left_out(models),
    }


def to_legacy(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a checkpoint of ours into the lineage's layout: two networks as NCR's, one as SGRAF's.

    The options are all our settings that are flags, under the lineage's names; what a path or a name lacks is "".
    """
    config, dev = checkpoint["config"], checkpoint.get("dev") or {}
    options: dict[str, Any] = {"architecture": sorted(config["matcher"])}
    for name in ("method", "training", "noise", "data", "matcher"):  # the later ones win
        options |= {k: "" if v is None else v for k, v in (config.get(name) or {}).items()}
    options |= config.get("options", {})
    shape = config["shape"]
    options |= {"vocab_size": shape["vocabulary_size"], "img_dim": shape["region_dim"]}
    options |= {"num_regions": shape["num_regions"], "method": config.get("method_name") or ""}
    models = []
    for weights in checkpoint["networks"]:
        parts: list[OrderedDict[str, Tensor]] = [OrderedDict() for _ in PARTS]
        for name, value in weights.items():
            prefix, _, rest = name.partition(".")
            parts[PARTS.index(prefix)][rest] = value
        models.append(parts)
    names = ("model",) if len(models) == 1 else [f"model_{chr(ord('A') + k)}" for k in range(len(models))]
    best = list(dev.values())[-1]["rSum"] if dev else checkpoint.get("best_rsum")
    named = dict(zip(names, models, strict=True))
    return {"epoch": checkpoint["epoch"], **named, "best_rsum": best, "opt": StoredOptions(**options)}


def misfits(checkpoint: Mapping[str, Any]) -> list[str]:
    """Say what the lineage's own programs will not make of an exported checkpoint."""
    config, notes = checkpoint["config"], []
    module = config["matcher"].get("module_name", "SGR")
    if module not in READERS.values():
        notes.append(f"{module} is unknown to SGRAF's code and to what is built on it; this suite reads it back")
    if config["shape"]["num_regions"] != REGIONS and module in READERS.values():
        notes.append(f"their code fixes {REGIONS} regions an image; this network has {config['shape']['num_regions']}")
    return notes
