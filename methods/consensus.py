"""Consensus: a pair is judged with its neighbours, noisy pairs are matched anew, and the loss bears what is left. Ours.

Every published method scores each pair by itself and splits that one number. Here the caption is also held against the
captions of images like the pair's image, and the image against the images of captions like the pair's caption
and both networks are heard (methods/blocks/consensus.py), captions and images that lost
their partner are offered new ones (methods/blocks/rematch.py), and training is by a bounded contrastive loss
(models/losses.py). docs/consensus.md tells what each part is worth. Each part can be taken alone by any other
method: --signal consensus, --refine rematch, --loss bounded.
"""

from __future__ import annotations

from torch import Tensor

from methods.blocks.method import CONSENSUS, REMATCH, Method, Scored, SoftLabels, StudentAndPeer


class ConsensusMethod(Method):
    """The defaults below, and what is left of the contract: similarity as a pair's own signal, label 1."""

    trains_noisy = False
    defaults = {"loss": "bounded", "signal": CONSENSUS, "refine": REMATCH}

    def pair_signal(self, scored: Scored) -> Tensor:
        """Return minus the similarity of each pair: cheaper than a loss, which asks for all pairs of a batch."""
        return -scored.matched

    def diagnostics(self, scored: Scored) -> dict[str, Tensor]:
        return {"similarity": scored.matched}

    def refine(self, clean: StudentAndPeer, noisy: StudentAndPeer | None, probability: Tensor) -> SoftLabels:
        """Return label 1 for clean pairs (`--refine labels`); the noisy side is dropped."""
        return SoftLabels(clean=probability.new_ones(len(probability)))


METHOD = ConsensusMethod
