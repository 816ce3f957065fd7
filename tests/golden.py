"""Recompute golden values of the public NCR, BiCro, SCAN and VSE-infinity code with this project's own code.

    python -m tests.golden FOLDER

FOLDER holds `ncr.npz` and `bicro.npz`, and may hold `scan_gpo.npz`. Prints, key by key, the largest difference and ok
or FAIL. Exit code 0: all is well; 1: a value differs, or a key was not recomputed; 2: the folder or a file cannot be
read.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_utils.loaders import Batch
from methods.bicro import BiCro, BiCroConfig, most_trusted
from methods.blocks.method import Scored, StudentAndPeer
from methods.blocks.mixture import clean_probability, fit_bmm, min_max
from methods.ncr import predicted_correspondence
from models.losses import hardest_negative, mean_over_negatives, pair_costs
from models.matcher import Embeddings, Matcher, MatcherConfig, MatcherShape
from models.ranks import RECALLS, Ranks, retrieval
from models.scan import SCAN
from models.similarity import EncodedCaptions, EncodedImages
from models.vse import RankPooling
from runtime.errors import InputError, exit_on_input_error
from runtime.flags import OneLineParser

Golden = Mapping[str, np.ndarray]

FILES = ("ncr.npz", "bicro.npz")
SIMILARITY_FILE = "scan_gpo.npz"
MARGIN = 0.2
CAPTIONS_PER_IMAGE = 5
"""Of the golden rank matrix."""

VALUE_BOUND = 1e-5
MIXTURE_BOUND = 1e-6
GRADIENT_SHARE, GRADIENT_FLOOR = 1e-4, 1e-7
"""Gradients are recomputed in double precision: in float32 the smallest ones round by more than this share."""

ZERO_SHARE, NOISE_SHARE = 1e-12, 1e-7
"""How large a gradient that is zero in exact arithmetic may come out, as a share of the norm of all gradients: ours in
double precision, and the golden one, where one or two float32 roundings (6e-8) are left of the terms that cancel."""

PARTS = {"img_enc": "region_encoder", "txt_enc": "caption_encoder", "sim_enc": "similarity"}
ZERO_GRADIENTS = (
    "embedding_common.0.bias",  # shifts all logits of a softmax
    "v_global_w.embedding_global.0.bias",  # in front of a batch norm
    "graph_key_w.bias",  # the same for every key of a softmax over keys; left out of the merged map
    "SAF_module.attn_sim_w.bias",  # in front of a batch norm
)

INPUTS = ("images", "captions", "lengths", "criterion/scores", "ranks/sims", "bicro/clean/", "bicro/noisy/")
INPUT_ENDINGS = ("/loss", "/train/loss_weight")
SIMILARITY_INPUTS = ("regions", "words", "lengths")
NOT_MATCHED = {
    "clean_soft_label_as_published": "not to be matched: the published code scatters labels to the wrong pairs",
}


@dataclass(frozen=True)
class Comparison:
    """One golden value against ours: the largest difference, what it may be, and how it was measured."""

    key: str
    difference: float
    bound: float
    rule: str

    @property
    def is_ok(self) -> bool:
        """Whether the difference is within its bound; NaN is not."""
        return self.difference <= self.bound


def _compare(key: str, ours: Tensor | np.ndarray, golden: np.ndarray, bound: float, rule: str = "") -> Comparison:
    """Compare all entries; another shape differs infinitely."""
    mine = ours.detach().numpy() if isinstance(ours, Tensor) else ours
    if mine.shape != golden.shape:
        return Comparison(key, float("inf"), bound, f"shape {mine.shape}, golden {golden.shape}")
    difference = np.abs(mine.astype(np.float64) - golden.astype(np.float64)).max(initial=0.0)
    return Comparison(key, float(difference), bound, rule)


def is_input(key: str) -> bool:
    """Tell inputs and weights from values to recompute."""
    is_named = key.startswith(INPUTS) or key.endswith(INPUT_ENDINGS) or key in SIMILARITY_INPUTS
    return is_named or "/state/" in key


def why_not_matched(key: str) -> str | None:
    """Return the documented reason not to match a value, if there is one."""
    return next((reason for ending, reason in NOT_MATCHED.items() if key.endswith(ending)), None)


# -- networks -----------------------------------------------------------------------------------------------------


def _own_name(name: str) -> str:
    part, rest = name.split("/", 1)
    return f"{PARTS[part]}.{rest}"


def load_golden_matcher(golden: Golden, module_name: str) -> Matcher:
    """Build the matcher of a golden file with its weights, without dropout."""
    prefix = f"{module_name}/state/"
    state = {_own_name(k[len(prefix) :]): torch.from_numpy(golden[k]) for k in golden if k.startswith(prefix)}
    vocabulary_size, word_dim = state["caption_encoder.embed.weight"].shape
    sim_dim, embed_size = state["similarity.sim_tranloc_w.weight"].shape
    steps = sum(name.endswith("sim_graph_w.weight") for name in state)
    config = MatcherConfig(
        module_name=module_name,
        word_dim=word_dim,
        embed_size=embed_size,
        sim_dim=sim_dim,
        sgr_step=max(1, steps),
        dropout=0.0,
    )
    matcher = Matcher(config, MatcherShape(vocabulary_size, *golden["images"].shape[1:]))
    matcher.load_state_dict(state)
    return matcher


def _score(matcher: Matcher, golden: Golden) -> tuple[EncodedImages, EncodedCaptions, Tensor]:
    regions = torch.from_numpy(golden["images"]).to(matcher.region_encoder.fc.weight.dtype)
    images = matcher.encode_images(regions)
    captions = matcher.encode_captions(torch.from_numpy(golden["captions"]), torch.from_numpy(golden["lengths"]))
    return images, captions, matcher.similarity(images, captions)


def _compare_gradient(key: str, ours: Tensor | None, golden: np.ndarray, total_norm: float) -> Comparison:
    """Compare a gradient by the norm of the difference, or hold a zero one to rounding noise."""
    if key.endswith(ZERO_GRADIENTS):
        if np.abs(golden).max() > NOISE_SHARE * total_norm:
            return Comparison(key, float("nan"), 0.0, "should be zero, but the golden one is more than noise")
        size = 0.0 if ours is None else float(ours.abs().max())
        return Comparison(
            key, size, ZERO_SHARE * total_norm, f"zero in exact arithmetic: ours within {ZERO_SHARE:g} of all gradients"
        )
    if ours is None or tuple(ours.shape) != golden.shape:
        return Comparison(key, float("inf"), 0.0, "no gradient of this shape")
    bound = GRADIENT_SHARE * float(np.linalg.norm(golden)) + GRADIENT_FLOOR
    difference = float(np.linalg.norm(ours.numpy() - golden))
    return Comparison(key, difference, bound, f"norm of the difference, within {GRADIENT_SHARE:g} of the golden norm")


def compare_network(golden: Golden, module_name: str) -> Iterator[Comparison]:
    """Check embeddings, scores, gradients and running statistics of SGR or SAF."""
    matcher = load_golden_matcher(golden, module_name).eval()
    with torch.no_grad():
        images, captions, sims = _score(matcher, golden)
    for name, ours in (("img_emb", images.regions), ("cap_emb", captions.words), ("sims", sims)):
        key = f"{module_name}/eval/{name}"
        yield _compare(key, ours, golden[key], VALUE_BOUND)
    sims = _score(matcher.train(), golden)[2]
    yield _compare(f"{module_name}/train/sims", sims, golden[f"{module_name}/train/sims"], VALUE_BOUND)
    prefix, buffers = f"{module_name}/train/buffer/", dict(matcher.named_buffers())
    for key in (k for k in golden if k.startswith(prefix)):
        yield _compare(key, buffers[_own_name(key[len(prefix) :])], golden[key], VALUE_BOUND)
    matcher = load_golden_matcher(golden, module_name).double().train()
    (_score(matcher, golden)[2] * torch.from_numpy(golden[f"{module_name}/train/loss_weight"])).sum().backward()
    prefix = f"{module_name}/train/grad/"
    keys = [k for k in golden if k.startswith(prefix)]
    total_norm = float(np.sqrt(sum(np.square(golden[k], dtype=np.float64).sum() for k in keys)))
    parameters = dict(matcher.named_parameters())
    for key in keys:
        yield _compare_gradient(key, parameters[_own_name(key[len(prefix) :])].grad, golden[key], total_norm)


# -- similarities without a network --------------------------------------------------------------------------------

POOLING_NAMES = {"Mean": "mean", "LogSumExp": "lse"}


@torch.no_grad()
def compare_scan(golden: Golden) -> Iterator[Comparison]:
    """Check SCAN's scores both ways; a key `scan/t2i/LogSumExp/softmax9_lse6` says how they were made."""
    regions, words, lengths = (torch.from_numpy(golden[key]) for key in SIMILARITY_INPUTS)
    for key in (k for k in golden if k.startswith("scan/")):
        _, direction, pooling, named = key.split("/")
        factors = [float(value) for value in named.removeprefix("softmax").split("_lse")]
        lse_factor = factors[1] if len(factors) > 1 else None
        similarity = SCAN(
            direction,
            pooling=POOLING_NAMES[pooling],
            softmax_factor=factors[0],
            lse_factor=lse_factor,
        )
        sims = similarity(similarity.pool_images(regions), similarity.pool_captions(words, lengths))
        yield _compare(key, sims, golden[key], VALUE_BOUND)


@torch.no_grad()
def compare_gpo(golden: Golden) -> Iterator[Comparison]:
    """Check VSE-infinity's weights of ranks and what they pool, of words and of regions."""
    prefix = "gpo/state/"
    pooling = RankPooling()
    pooling.load_state_dict({k.removeprefix(prefix): torch.from_numpy(golden[k]) for k in golden if prefix in k})
    regions, words, lengths = (torch.from_numpy(golden[key]) for key in SIMILARITY_INPUTS)
    all_regions = torch.full((len(regions),), regions.shape[1])
    for name, elements, count in (("words", words, lengths), ("regions", regions, all_regions)):
        for what, ours in (("weights", pooling.rank_weights(count)), ("pooled", pooling(elements, count))):
            key = f"gpo/{name}_{what}"
            yield _compare(key, ours, golden[key], VALUE_BOUND)


# -- losses, labels, mixtures, ranks ------------------------------------------------------------------------------


def compare_criterion(golden: Golden) -> Iterator[Comparison]:
    """Check the hinges, NCR's prediction, the most trusted pairs and the small-loss warm-up."""
    costs = pair_costs(torch.from_numpy(golden["criterion/scores"]), MARGIN)
    per_pair = mean_over_negatives(costs)
    prediction = predicted_correspondence(costs, MARGIN)
    values: dict[str, Tensor] = {
        "mean_hinge_sum": per_pair.sum(),
        "hard_hinge_sum": hardest_negative(costs).sum(),
        "per_pair_loss": per_pair,
        "ncr_predict": prediction,
    }
    for key in golden:
        if key.startswith("criterion/warmup_sele_rate_"):
            kept = int(float(key.rsplit("_", 1)[1]) * len(per_pair))
            values[key.removeprefix("criterion/")] = per_pair.sort().values[:kept].sum()
    for name, ours in values.items():
        yield _compare(f"criterion/{name}", ours, golden[f"criterion/{name}"], VALUE_BOUND)
    if "criterion/anchor_idx" in golden:
        anchors = most_trusted(prediction).numpy()
        rest = np.setdiff1d(np.arange(len(prediction)), anchors)
        for name, chosen in (("anchor_idx", anchors), ("rest_idx", rest)):
            yield _compare_sets(f"criterion/{name}", chosen, golden[f"criterion/{name}"])


def _compare_sets(key: str, ours: np.ndarray, golden: np.ndarray) -> Comparison:
    return Comparison(key, float(len(np.setxor1d(ours, golden))), 0.0, "the same pairs, in any order")


def _scored(sims: Tensor, image: np.ndarray, caption: np.ndarray) -> Scored:
    """Make a batch that is scored and pooled already."""
    f, g = torch.from_numpy(image), torch.from_numpy(caption)
    number = torch.arange(len(f))
    words = g[:, None]
    batch = Batch(f[:, None], torch.zeros_like(number)[:, None], torch.ones_like(number), number, number)
    scored = Scored.__new__(Scored)
    scored.batch = batch
    scored.embeddings = Embeddings(EncodedImages(batch.regions, f), EncodedCaptions(words, batch.lengths, g), f, g)
    scored.sims = scored.scores = sims
    return scored


def compare_bicro(golden: Golden) -> Iterator[Comparison]:
    """Check BiCro's most trusted pairs and the labels of both sides, for each --noise_train in the file."""
    sims = torch.from_numpy(golden["bicro/clean/sims"])
    clean = _scored(sims, golden["bicro/clean/img_global"], golden["bicro/clean/txt_global"])
    unscored = torch.full_like(sims, float("nan"))  # the noisy batch's scores are not to be looked at
    noisy = _scored(unscored, golden["bicro/noisy/img_global"], golden["bicro/noisy/txt_global"])
    for noise_train in ("train", "noise_soft"):
        config = BiCroConfig(margin=MARGIN, mask_same_image=False, noise_train=noise_train, noise_tem=0.5)
        method = BiCro(config)
        labels = method.refine(StudentAndPeer(clean, clean), StudentAndPeer(noisy, noisy), torch.ones(len(sims)))
        assert labels.noisy is not None
        if noise_train == "train":
            yield _compare_sets("bicro/anchor_idx", method.trusted(clean).numpy(), golden["bicro/anchor_idx"])
        for side, ours in (("clean", labels.clean), ("noisy", labels.noisy)):
            key = f"bicro/{noise_train}/{side}_soft_label"
            yield _compare(key, ours, golden[key], VALUE_BOUND)


def compare_mixtures(golden: Golden) -> Iterator[Comparison]:
    """Check the beta mixtures: parameters, and posteriors where the reference's are finite."""
    keys = [k for k in golden if k.startswith("bmm/") and k.endswith("/loss")]
    if not keys:
        raise KeyError("bmm/*/loss")
    for key in keys:
        prefix, loss = key.removesuffix("loss"), golden[key].astype(np.float64)
        ours, theirs = clean_probability(loss, "bmm"), golden[f"{prefix}clean_probability"]
        is_finite = np.isfinite(theirs)
        rule = f"ours is finite everywhere, the golden one at {is_finite.sum()} of {len(theirs)}"
        difference = _compare(prefix, ours[is_finite], theirs[is_finite], MIXTURE_BOUND).difference
        if not np.isfinite(ours).all():
            difference = float("nan")
        yield Comparison(f"{prefix}clean_probability", difference, MIXTURE_BOUND, rule)
        mixture = fit_bmm(min_max(loss))
        for name in ("alphas", "betas", "weights"):
            yield _compare(prefix + name, getattr(mixture, name), golden[prefix + name], MIXTURE_BOUND)


def compare_ranks(golden: Golden) -> Iterator[Comparison]:
    """Check R@1, R@5, R@10, median and mean rank both ways."""
    sims = golden["ranks/sims"]
    result = retrieval(sims, np.arange(sims.shape[1]) // CAPTIONS_PER_IMAGE)
    for name, ranks in (("i2t", result.i2t), ("t2i", result.t2i)):
        yield _compare(f"ranks/{name}", _rank_row(ranks), golden[f"ranks/{name}"], 0.0, "exact")


def _rank_row(ranks: Ranks) -> np.ndarray:
    return np.array([*(ranks.recall[k] for k in RECALLS), ranks.median_rank, ranks.mean_rank])


# -- the whole ----------------------------------------------------------------------------------------------------


def compare_file(name: str, golden: Golden) -> list[Comparison]:
    """Recompute every value of one file; a value that nothing recomputed is a failure."""
    groups: list[Iterator[Comparison]]
    if name == SIMILARITY_FILE:
        groups = [compare_scan(golden), compare_gpo(golden)]
    else:
        groups = [compare_network(golden, module) for module in ("SGR", "SAF")]
        groups += [compare_criterion(golden), compare_ranks(golden)]
    if name == "bicro.npz":
        groups += [compare_bicro(golden), compare_mixtures(golden)]
    comparisons = [comparison for group in groups for comparison in group]
    covered = {comparison.key for comparison in comparisons}
    assert covered <= set(golden)
    forgotten = [k for k in golden if k not in covered and not is_input(k) and why_not_matched(k) is None]
    return comparisons + [Comparison(key, float("nan"), 0.0, "not recomputed by tests/golden.py") for key in forgotten]


def read_golden(path: Path) -> dict[str, np.ndarray]:
    """Read one file.

    Raises:
        InputError: it is missing or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the folder that holds {' and '.join(FILES)}")
    try:
        with np.load(path) as content:
            return {key: content[key] for key in content}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read as a numpy archive ({error})") from None


def report(folder: Path) -> bool:
    """Compare the files of a folder, print every key, return whether all is well."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the one that holds {' and '.join(FILES)}")
    has_similarities = (folder / SIMILARITY_FILE).exists()
    names = [*FILES, SIMILARITY_FILE] if has_similarities else FILES
    contents = {name: read_golden(folder / name) for name in names}
    comparisons: dict[str, list[Comparison]] = {}
    for name, golden in contents.items():
        try:
            comparisons[name] = compare_file(name, golden)
        except KeyError as error:
            raise InputError(f"{folder / name} lacks the key {error}") from None
    for name, golden in contents.items():
        for c in comparisons[name]:
            rule = f"  ({c.rule})" if c.rule else ""
            print(f"{'ok  ' if c.is_ok else 'FAIL'} {c.difference:8.1e} of {c.bound:7.1e}  {name} {c.key}{rule}")
        for key in golden:
            reason = why_not_matched(key)
            if reason is not None:
                print(f"--   {name} {key}: {reason}")
        print(f"     {name}: {sum(map(is_input, golden))} inputs and weights")
    if not has_similarities:
        print(f"--   {SIMILARITY_FILE} is not there: SCAN and GPO are not checked")
    every = [c for part in comparisons.values() for c in part]
    failed = sum(not c.is_ok for c in every)
    print(f"{len(every)} golden values: {len(every) - failed} ok, {failed} failed")
    return failed == 0


@exit_on_input_error
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line, compare, exit with 1 on any difference."""
    parser = OneLineParser(prog="python -m tests.golden", description="Recompute golden values.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder that holds ncr.npz and bicro.npz")
    if not report(parser.parse_args(argv).folder):
        sys.exit(1)


if __name__ == "__main__":
    main()
