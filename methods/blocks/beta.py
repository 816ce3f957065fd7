"""Two beta components, fitted by EM with weighted moments (Arazo et al., ICML 2019; BiCro, CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from methods.blocks.chunks import add_up, all_moments, chunkwise, in_chunks, moments

BMM_STEPS = 10
BMM_CLIP = 1e-4
TINY = 1e-12


@dataclass(frozen=True)
class BetaMixture:
    """Two beta components: (2,) each, in the order of the fit (`clean` is the index of the one with lower mean)."""

    alphas: np.ndarray
    betas: np.ndarray
    weights: np.ndarray

    @property
    def clean(self) -> int:
        """Index of the component of lower mean."""
        return int(np.argmin(self.alphas / (self.alphas + self.betas)))

    def _log_joint(self, log_x: Tensor, log_1_x: Tensor) -> list[Tensor]:
        """Return log(weight * density) of each component, given log x and log(1 - x)."""
        from scipy import special  # here: it takes long to load

        constants = np.log(self.weights) - special.betaln(self.alphas, self.betas)
        rows = np.stack([self.alphas - 1, self.betas - 1, constants], axis=1).tolist()
        return [(log_x * a).add_(log_1_x, alpha=b).add_(c) for a, b, c in rows]

    def density(self, x: np.ndarray) -> np.ndarray:
        """Return weight * density at x (n,) in [0, 1], (2, n): clean, noisy. At 0 and 1, where it may be infinite,
        that of the nearest number that the fit sees."""
        inside = torch.from_numpy(np.clip(x, BMM_CLIP, 1 - BMM_CLIP))
        joint = self._log_joint(inside.log(), inside.neg().log1p_())
        return np.stack([joint[k].exp().numpy() for k in (self.clean, 1 - self.clean)])

    def first_moments(self, x: Tensor, log_x: Tensor, log_1_x: Tensor) -> list[float]:
        """Return the sums of r, r x, r x^2 for the first component: the E-step. No joint is taken below TINY."""
        first, second = (joint.clamp_(min=np.log(TINY)) for joint in self._log_joint(log_x, log_1_x))
        return moments(first.sub_(second).sigmoid_(), x)

    def refitted(self, first: np.ndarray, total: np.ndarray) -> BetaMixture:
        """Return the mixture of these moments, the M-step; a component without pairs or spread keeps its parameters."""
        alphas, betas, weights = self.alphas.copy(), self.betas.copy(), self.weights.copy()
        for k, (mass, sum_x, sum_xx) in enumerate((first, total - first)):
            weights[k] = max(mass / total[0], TINY)
            if mass <= TINY:
                continue
            mean = sum_x / mass
            variance = sum_xx / mass - mean**2
            alpha = mean * (mean * (1 - mean) / variance - 1) if variance > TINY else 0.0
            if alpha > 0:
                alphas[k], betas[k] = alpha, alpha * (1 - mean) / mean
        return BetaMixture(alphas, betas, weights)

    def posterior(self, x: np.ndarray) -> np.ndarray:
        """Return P(clean | x), (n,), as published: at x = 0 or 1 it may leap, in the tails it may turn round.

        Where the published formula divides infinity by infinity, x is clipped as in the fit.
        """
        return chunkwise(self._published, x)

    def _published(self, x: Tensor) -> Tensor:
        p = self._published_formula(x)
        is_undefined = p.isnan()
        if is_undefined.any():
            p[is_undefined] = self._published_formula(x[is_undefined].clamp(BMM_CLIP, 1 - BMM_CLIP))
        return p

    def _published_formula(self, x: Tensor) -> Tensor:
        lowest = torch.finfo(x.dtype).min  # for log 0: 0 log 0 is then 0
        joint = self._log_joint(x.log().clamp_(min=lowest), x.neg().log1p_().clamp_(min=lowest))
        clean, noisy = joint[self.clean].exp_(), joint[1 - self.clean].exp_()
        return clean / noisy.add_(clean).add_(TINY)

    def monotone_posterior(self, x: np.ndarray) -> np.ndarray:
        """Return P(clean | x), (n,), non-increasing.

        The log-odds are const + da log x + db log(1 - x), with da, db the differences of the exponents (clean minus
        noisy). They turn round at most once, at x* = da / (da + db): if da and db are both positive the clean
        component's own peak lies at x*, and everything below it is given the value there; if both are negative,
        everything above.
        """
        c, n = self.clean, 1 - self.clean
        da, db = self.alphas[c] - self.alphas[n], self.betas[c] - self.betas[n]
        low, high = BMM_CLIP, 1 - BMM_CLIP
        if da > 0 and db > 0:
            low = max(low, da / (da + db))
        elif da < 0 and db < 0:
            high = min(high, da / (da + db))

        def probability(x: Tensor) -> Tensor:
            x = x.clamp(low, high)
            joint = self._log_joint(x.log(), x.neg().log1p_())
            return joint[c].sub_(joint[n]).sigmoid_()

        return chunkwise(probability, x)


def fit_bmm(x: np.ndarray) -> BetaMixture:
    """Fit two beta components to x (n,) in [0, 1] by EM, the M-step by weighted moments.

    With mean m and variance v, alpha = m (m (1 - m) / v - 1) and beta = alpha (1 - m) / m. Source: Arazo et al. 2019;
    start and steps as in BiCro.
    """
    x = np.clip(x, BMM_CLIP, 1 - BMM_CLIP)
    chunks = in_chunks(x, chunkwise(torch.log, x), chunkwise(lambda values: values.neg().log1p_(), x))
    total = add_up(chunks, all_moments)
    mixture = BetaMixture(np.array([1.0, 2.0]), np.array([2.0, 1.0]), np.array([0.5, 0.5]))
    for _ in range(BMM_STEPS):
        mixture = mixture.refitted(add_up(chunks, mixture.first_moments), total)
    return mixture
