"""Formulas of one sense register, one bond and one measurement, as pure functions; those of a chain are in `chain`.

Letters: K senses of a token, C complex dimensions of a sense vector; `...` are batch axes. `probs` (..., K) sum to 1, and
`senses` (..., K, C) are complex unit vectors. Logarithms are natural. All gradients are finite, also at states where the
formula itself has an infinite slope (one-hot probabilities, product states): there they are those of a clamped formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from qsr.hparams.base import ConfigError, nearest
from qsr.qembed.matrices import inverse_root, root_fidelity

FLOOR = 1e-12  # probabilities below it count as zero in logarithms and square roots


def at_least_single(values: Tensor) -> Tensor:
    """Half precision as float32, everything else as it is: probabilities and phases need 24 bits."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def safe_root(values: Tensor) -> Tensor:
    """sqrt(x), and 0 with slope 0 below `FLOOR`."""
    there = values > FLOOR
    return torch.where(there, torch.where(there, values, 1.0).sqrt(), 0.0)


def unit(vectors: Tensor) -> Tensor:
    """Real or complex vectors (..., C) divided by their norm; a zero vector stays zero."""
    return vectors * inverse_norm(vectors)[..., None]


def inverse_norm(vectors: Tensor) -> Tensor:
    """1 / |v|, (...,), of real or complex vectors (..., C); finite for a zero vector."""
    squares = vectors.abs().square() if vectors.is_complex() else vectors.square()
    return squares.sum(dim=-1).clamp_min(FLOOR**2).rsqrt()


def entropy(probs: Tensor) -> Tensor:
    """-sum_k p_k ln p_k, (...,), in nats."""
    probs = at_least_single(probs)
    return -(probs * probs.clamp_min(FLOOR).log()).sum(dim=-1)


def overlaps(senses: Tensor) -> Tensor:
    """Gram matrix <s_k|s_l>, (..., K, K)."""
    return senses.conj() @ senses.mT


def sense_overlap(senses: Tensor) -> Tensor:
    """sum_{k != l} |<s_k|s_l>|^2 / (K (K - 1)), (...,), in [0, 1]: 0 for orthogonal senses, and for K = 1."""
    squares = overlaps(senses).abs().square()
    count = senses.shape[-2]
    off = squares.sum(dim=(-2, -1)) - squares.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return off / (count * (count - 1)) if count > 1 else 0 * off


def relative_entropy(first: Tensor, second: Tensor) -> Tensor:
    """sum_k p_k (ln p_k - ln q_k), (...,), in nats, of probabilities p = `first` and q = `second`, (..., K)."""
    first, second = at_least_single(first), at_least_single(second)
    return (first * (first.clamp_min(FLOOR).log() - second.clamp_min(FLOOR).log())).sum(dim=-1)


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of the values (...,) where the mask (...,) is True, everywhere without one, as a scalar; 0 where there is none."""
    if mask is None:
        return values.sum() / max(values.numel(), 1)
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp_min(1)


# --- uncertainty of a token -----------------------------------------------------------------------------------------


def shannon_uncertainty(probs: Tensor) -> Tensor:
    """H(p) / ln K in [0, 1], (...,); 0 for K = 1."""
    return _normalised(entropy(probs), probs.shape[-1])


def von_neumann_uncertainty(probs: Tensor, gram: Tensor, dimension: int) -> Tensor:
    """S(rho) / ln min(K, C) of rho = sum_k p_k |s_k><s_k|, (...,), in [0, 1]; 0 if min(K, C) = 1.

    From the K x K matrix sqrt(p_k p_l) <s_k|s_l>, which has the non-zero spectrum of rho. Its eigenvalues alone have finite
    gradients where levels coincide; those of the eigenvectors do not.
    """
    roots = safe_root(at_least_single(probs))
    levels = torch.linalg.eigvalsh(roots[..., :, None] * gram * roots[..., None, :])
    return _normalised(entropy(levels), min(probs.shape[-1], dimension))


def purity_uncertainty(probs: Tensor, gram: Tensor) -> Tensor:
    """Linear entropy (1 - tr rho^2) K/(K-1), (...,), in [0, 1], with tr rho^2 = sum_kl p_k p_l |<s_k|s_l>|^2; 0 for K = 1."""
    probs = at_least_single(probs)
    count = probs.shape[-1]
    purity = (probs[..., :, None] * probs[..., None, :] * gram.abs().square()).sum(dim=(-2, -1))
    return (1 - purity) * (count / (count - 1)) if count > 1 else 0 * purity


def variance_uncertainty(probs: Tensor, gram: Tensor) -> Tensor:
    """sum_k p_k |s_k|^2 - |sum_k p_k s_k|^2, (...,), in [0, 1)."""
    probs = at_least_single(probs)
    inner = gram.real
    mean = (probs[..., :, None] * probs[..., None, :] * inner).sum(dim=(-2, -1))
    return (probs * inner.diagonal(dim1=-2, dim2=-1)).sum(dim=-1) - mean


UNCERTAINTIES = ("entropy", "von_neumann", "purity", "variance")


def uncertainty(kind: str, probs: Tensor, senses: Tensor) -> Tensor:
    """One of `UNCERTAINTIES`, (...,), of probabilities (..., K) and senses (..., K, C).

    Raises:
        ConfigError: for another name.
    """
    return uncertainty_by_overlaps(kind, probs, lambda: overlaps(senses), senses.shape[-1])


def uncertainty_by_overlaps(kind: str, probs: Tensor, gram: Callable[[], Tensor], dimension: int) -> Tensor:
    """The same of senses that are known by their dimension C and Gram matrix (..., K, K), which 'entropy' does not ask for."""
    check_name("uncertainty_type", kind, UNCERTAINTIES)
    if kind == "entropy":
        return shannon_uncertainty(probs)
    if kind == "von_neumann":
        return von_neumann_uncertainty(probs, gram(), dimension)
    return purity_uncertainty(probs, gram()) if kind == "purity" else variance_uncertainty(probs, gram())


def _normalised(nats: Tensor, states: int) -> Tensor:
    return nats / math.log(states) if states > 1 else 0 * nats


# --- coherence and fidelity -----------------------------------------------------------------------------------------


def l1_coherence(probs: Tensor, dephasing: Tensor | float = 0.0) -> Tensor:
    """(1 - e) ((sum_k sqrt p_k)^2 - 1) / (K - 1), (...,), in [0, 1]; 0 for K = 1.

    A collapse that happens with probability e and is not read out takes |a><a| to (1 - e) |a><a| + e diag(p). (Baumgratz,
    Cramer, Plenio, Phys. Rev. Lett. 113, 140401 (2014).)
    """
    count = probs.shape[-1]
    off = safe_root(at_least_single(probs)).sum(dim=-1).square() - 1
    return (1 - dephasing) * off / (count - 1) if count > 1 else 0 * off


def relative_entropy_coherence(probs: Tensor, dephasing: Tensor | float = 0.0) -> Tensor:
    """S(diag rho) - S(rho) of the dephased state of `l1_coherence`, (...,), in [0, ln K] nats."""
    probs = at_least_single(probs)
    roots = safe_root(probs)
    kept = 1 - torch.as_tensor(dephasing, dtype=probs.dtype, device=probs.device)
    inside = torch.eye(probs.shape[-1], dtype=probs.dtype, device=probs.device)
    state = roots[..., :, None] * roots[..., None, :] * (inside + kept[..., None, None] * (1 - inside))
    return entropy(probs) - entropy(torch.linalg.eigvalsh(state))


def fidelity(first: Tensor, second: Tensor) -> Tensor:
    """|<a|b>|^2 of pure states (..., C), (...,)."""
    return (first.conj() * second).sum(dim=-1).abs().square()


def mixed_fidelity(first: Tensor, second: Tensor) -> Tensor:
    """(tr sqrt(sqrt(rho) sigma sqrt(rho)))^2 of density matrices (..., C, C), (...,) (Uhlmann)."""
    return root_fidelity(first, second).square()


# --- measurement ----------------------------------------------------------------------------------------------------


def evidence(senses: Tensor, context: Tensor, temperature: float) -> Tensor:
    """Re <s_k|c> / temperature, (..., K), of a context vector c (..., C)."""
    return (senses.conj() * context[..., None, :]).sum(dim=-1).real / temperature


def bayes_update(log_probs: Tensor, evidence: Tensor) -> Tensor:
    """ln p'_k = ln p_k + e_k - ln sum_l p_l exp(e_l), (..., K).

    The Lueders update by the Kraus operator diag(exp(e_k / 2)): equal e leave the state as it is.
    """
    return torch.log_softmax(at_least_single(log_probs) + at_least_single(evidence), dim=-1)


def density_matrix(probs: Tensor, states: Tensor) -> Tensor:
    """sum_k p_k |s_k><s_k|, (..., C, C), of states (..., K, C)."""
    return (at_least_single(probs)[..., None] * states).mT @ states.conj()


def born_probabilities(states: Tensor, vectors: Tensor) -> Tensor:
    """|<u_m|psi>|^2, (..., M), of pure states (..., C) and vectors (M, C)."""
    return (states @ vectors.mH).abs().square()


def effect_probabilities(density: Tensor, effects: Tensor) -> Tensor:
    """tr(rho E_m), (..., M), of density matrices (..., C, C) and effects (M, C, C)."""
    return torch.einsum("...ij,mji->...m", density, effects).real


def resolution_of_identity(vectors: Tensor) -> Tensor:
    """u_m = S^{-1/2} v_m with S = sum_m |v_m><v_m|, (M, C): sum_m |u_m><u_m| = 1. The C-dimensional space must be spanned."""
    return vectors @ inverse_root(vectors.mT @ vectors.conj()).mT


def povm(kraus: Tensor) -> Tensor:
    """Effects E_m = S^{-1/2} A_m^dagger A_m S^{-1/2}, S = sum_m A_m^dagger A_m, of matrices (M, C, C): sum_m E_m = 1."""
    squares = kraus.mH @ kraus
    root = inverse_root(squares.sum(dim=0))
    return root @ squares @ root


def weak_kraus(dimension: int, strength: Tensor) -> Tensor:
    """sqrt(1 - eps) 1 and sqrt(eps) |k><k|, (C + 1, C, C): a measurement of the basis with strength eps in [0, 1]."""
    identity = torch.eye(dimension, dtype=strength.dtype, device=strength.device)
    return torch.cat([(safe_root(1 - strength) * identity)[None], safe_root(strength) * torch.diag_embed(identity)])


def weak_measurement(density: Tensor, strength: Tensor | float) -> Tensor:
    """(1 - eps) rho + eps diag(rho), (..., C, C): what `weak_kraus` does to a state if the outcome is not read."""
    return (1 - strength) * density + strength * torch.diag_embed(density.diagonal(dim1=-2, dim2=-1))


def draw(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Outcomes (...,) int64 of probabilities (..., K), by inverse CDF of uniforms (...,) in [0, 1)."""
    steps = at_least_single(probs.detach()).cumsum(dim=-1)
    passed = steps[..., :-1] <= uniforms[..., None] * steps[..., -1:]
    return passed.sum(dim=-1)


def straight_through(outcomes: Tensor, probs: Tensor) -> Tensor:
    """One-hot outcomes (..., K) whose gradient is that of the probabilities (..., K)."""
    # Not by one_hot, which looks at its input and so cannot be vectorised over samples.
    chosen = outcomes[..., None] == torch.arange(probs.shape[-1], device=probs.device)
    return chosen.to(probs.dtype) + probs - probs.detach()


# --- bonds ----------------------------------------------------------------------------------------------------------


def bond_matrix(log_left: Tensor, coupling: Tensor, log_right: Tensor) -> Tensor:
    """Schmidt matrix T_kl = sqrt(a_k) exp(J_kl) sqrt(b_l) over its Frobenius norm, (..., K, K).

    Args:
        log_left, log_right: (..., K) ln a and ln b, up to constants.
        coupling: (..., K, K) J, real or complex.
    """
    size = 0.5 * log_left[..., :, None] + coupling.real + 0.5 * log_right[..., None, :]
    size = (size - 0.5 * torch.logsumexp(2 * size, dim=(-2, -1), keepdim=True)).exp()
    return torch.polar(size, coupling.imag.expand_as(size)) if coupling.is_complex() else size


def _schmidt_pairs(matrix: Tensor) -> Tensor:
    """1 - sum sigma^4 = sum_{k != l} sigma_k^2 sigma_l^2, without the cancellation of the first form at product states."""
    squares = torch.linalg.svdvals(matrix).square()
    products = squares[..., :, None] * squares[..., None, :]
    return products.sum(dim=(-2, -1)) - products.diagonal(dim1=-2, dim2=-1).sum(dim=-1)


def _bond_entropy(matrix: Tensor) -> Tensor:
    return entropy(torch.linalg.svdvals(matrix).square()) / math.log(matrix.shape[-1])


def _concurrence(matrix: Tensor) -> Tensor:
    return safe_root(2 * _schmidt_pairs(matrix)) / math.sqrt(2 * (1 - 1 / matrix.shape[-1]))


def _negativity(matrix: Tensor) -> Tensor:
    return (torch.linalg.svdvals(matrix).sum(dim=-1).square() - 1) / (matrix.shape[-1] - 1)


def _bond_purity(matrix: Tensor) -> Tensor:
    return _schmidt_pairs(matrix) * (matrix.shape[-1] / (matrix.shape[-1] - 1))


def _bell_fidelity(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(dim=-1).abs().square() / matrix.shape[-1]


def _largest_bell_fidelity(matrix: Tensor) -> Tensor:
    return torch.linalg.svdvals(matrix).sum(dim=-1).square() / matrix.shape[-1]


BOND_MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": _bond_entropy,
    "mutual_information": _bond_entropy,
    "concurrence": _concurrence,
    "negativity": _negativity,
    "purity": _bond_purity,
    "bell_state": _bell_fidelity,
    "bell_state_lu": _largest_bell_fidelity,
}


def bond_measure(kind: str, matrix: Tensor) -> Tensor:
    """Entanglement in [0, 1] of Schmidt matrices (..., K, K) of Frobenius norm 1, (...,); 0 for K = 1.

    With singular values sigma: 'entropy' (or 'mutual_information', which is twice it for a pure pair, and normalised the
    same) -sum sigma^2 ln sigma^2 / ln K; 'concurrence' sqrt(2 (1 - sum sigma^4)) over its maximum; 'negativity'
    ((sum sigma)^2 - 1) / (K - 1); 'purity' (1 - sum sigma^4) K/(K-1); 'bell_state' |tr T|^2 / K, the fidelity to
    sum_k |kk> / sqrt K; 'bell_state_lu' (sum sigma)^2 / K, the largest one that local unitaries reach.

    Raises:
        ConfigError: for another name.
    """
    check_name("entanglement_type", kind, BOND_MEASURES)
    return BOND_MEASURES[kind](matrix) if matrix.shape[-1] > 1 else 0 * matrix[..., 0, 0].abs()


def check_name(argument: str, value: object, known: dict[str, Callable[..., Tensor]] | tuple[str, ...]) -> None:
    """Refuse a name that is not known.

    Raises:
        ConfigError: names the argument, the value and the known names.
    """
    if not isinstance(value, str) or value not in known:
        hint = nearest(value, known) if isinstance(value, str) else ""
        raise ConfigError(f"{argument}={value!r}: must be one of {', '.join(known)}{hint if 'mean' in hint else ''}")
