"""The algorithm of the original NN-QSR (arXiv 2306.03921) on the weights of a qsr model: the baseline of engine.py.

Same function, the original's way of computing it, so that a ratio of times compares algorithms and nothing else:

- sequence-first tensors, softmax and one-hot picks, `multinomial`, dense attention with an additive log(tril) mask;
- the transformer caches the outputs of its layers: whatever reads a prefix projects keys and values of all of it again in
  every layer, and the cache is concatenated at every step;
- flips are grouped into NLOOPS stretches of the sequence. All flips of a stretch start at its first token, with the cache
  (or the hidden state of the RNN) at that place repeated for each of them: N(n+1)/2 token evaluations a sample at best.

Everything runs without gradients. Run as a script, it prints the times of the table in the docstring of `main`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

import qsr
from qsr.hparams.presets import preset_values
from qsr.samplers.ptf import PatchedTransformer
from qsr.samplers.rnn import PatchedRNN


class OriginalModel:
    """What both models of the original share. Shapes: n patches of p sites, V = 2^p values of a patch."""

    def __init__(self, model: PatchedTransformer | PatchedRNN) -> None:
        self.weights = {name: value.detach() for name, value in model.state_dict().items()}
        self.sites = model.token_sites  # (n, p)
        self.num_tokens, self.p = self.sites.shape
        self.num_sites = model.num_sites
        self.dtype = model.dtype
        self.device = model.device
        self.bits = 2 ** torch.arange(self.p, device=self.device)
        values = torch.arange(2**self.p, device=self.device)
        self.options = (values[:, None] // self.bits % 2).to(self.dtype)  # (V, p) all patches
        self.one_hots = torch.eye(2**self.p, dtype=self.dtype, device=self.device)  # (V, V)

    def patches(self, configs: Tensor) -> Tensor:
        """(B, N) configurations to (B, n, p) patches."""
        return configs[:, self.sites].to(self.dtype)

    def pick(self, probabilities: Tensor, patches: Tensor) -> Tensor:
        """log of the entries of (..., V) tables at patches (..., p)."""
        one_hot = self.one_hots[(patches.long() * self.bits).sum(dim=-1)]
        return (probabilities * one_hot).sum(dim=-1).log()

    def draw(self, probabilities: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Patches (B, p) from (B, V) tables, and their log-probabilities (B,)."""
        index = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
        return self.options[index], (probabilities * self.one_hots[index]).sum(dim=-1).log()

    def head(self, hidden: Tensor) -> Tensor:
        """Linear-ReLU-Linear-Softmax: (..., V) conditional probabilities."""
        inner = linear(hidden, self.weights["head.0.weight"], self.weights["head.0.bias"]).relu()
        return linear(inner, self.weights["head.2.weight"], self.weights["head.2.bias"]).softmax(dim=-1)

    def configs(self, patches: Tensor) -> Tensor:
        """(B, n, p) patches to (B, N) configurations."""
        configs = torch.empty(len(patches), self.num_sites, dtype=torch.uint8, device=self.device)
        configs[:, self.sites.flatten()] = patches.flatten(1).to(torch.uint8)
        return configs

    def flipped_patches(self, patches: Tensor) -> Tensor:
        """(B, n, p) patches to (B, N, n, p): flip i, in the order of the sequence, is the i-th digit of all patches."""
        digits = self.num_tokens * self.p
        flip = torch.eye(digits, dtype=self.dtype, device=self.device).view(digits, self.num_tokens, self.p)
        return (patches[:, None] - flip).abs()

    def stretches(self, num_loops: int | None) -> tuple[int, range]:
        """Number of patches in a stretch, and the first patch of each stretch."""
        loops = self.num_tokens if num_loops is None else num_loops
        if loops < 1 or self.num_tokens % loops:
            raise ValueError(f"num_loops={loops}: must divide the {self.num_tokens} patches of the sequence")
        length = self.num_tokens // loops
        return length, range(0, self.num_tokens, length)


class OriginalTransformer(OriginalModel):
    """Post-norm encoder layers over tanh(Linear) tokens with constant positions; hidden tensors (n, B, H)."""

    def __init__(self, model: PatchedTransformer) -> None:
        super().__init__(model)
        if "trunk.tokens.linear.weight" not in self.weights or "trunk.norm.weight" in self.weights:
            raise ValueError("the original has post-norm layers and linear tokens: build the model with --preset nnqsr")
        self.positions = model.get_buffer("trunk.positions.fixed")[:, None]  # (n, 1, H)
        self.num_heads = model.trunk.heads
        self.mask = torch.ones(self.num_tokens, self.num_tokens, dtype=self.dtype, device=self.device).tril().log()
        self.layers = []
        for i in range(len(model.trunk.layers)):
            prefix = f"trunk.layers.{i}."
            self.layers.append({name[len(prefix) :]: w for name, w in self.weights.items() if name.startswith(prefix)})

    def embed(self, patches: Tensor) -> Tensor:
        """(t, B, p) inputs to (t, B, H) tokens."""
        tokens = linear(patches, self.weights["trunk.tokens.linear.weight"], self.weights["trunk.tokens.linear.bias"]).tanh()
        return tokens + self.positions[: len(patches)]

    def layer(self, weights: dict[str, Tensor], source: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """One encoder layer: queries from (w, B, H), keys and values from (t, B, H), mask (w, t)."""
        width = source.shape[-1]
        queries, keys, values = (
            linear(x, weight, bias)
            for x, weight, bias in zip(
                (source, target, target), weights["qkv.weight"].split(width), weights["qkv.bias"].split(width), strict=True
            )
        )
        d = width // self.num_heads
        queries, keys, values = (x.view(len(x), -1, d).transpose(0, 1) for x in (queries * d**-0.5, keys, values))
        scores = queries @ keys.transpose(1, 2) if mask is None else torch.baddbmm(mask, queries, keys.transpose(1, 2))
        mixed = (scores.softmax(dim=-1) @ values).transpose(0, 1).reshape(source.shape)
        x = source + linear(mixed, weights["out.weight"], weights["out.bias"])
        x = layer_norm(x, (width,), weights["norm1.weight"], weights["norm1.bias"])
        inner = linear(x, weights["linear1.weight"], weights["linear1.bias"]).relu()
        x = x + linear(inner, weights["linear2.weight"], weights["linear2.bias"])
        return layer_norm(x, (width,), weights["norm2.weight"], weights["norm2.bias"])

    def advance(self, tokens: Tensor, cache: Tensor | None, start: int) -> tuple[Tensor, Tensor]:
        """Outputs (t - start, B, H) of the tokens (t, B, H) from `start` on, given a cache (layers, start, B, H).

        The second result is the cache of all t tokens.
        """
        mask = None if start == len(tokens) - 1 else self.mask[start : len(tokens), : len(tokens)]
        output, new = tokens, []
        for i, weights in enumerate(self.layers):
            target = output if i == 0 or cache is None else torch.cat([cache[i - 1], output])
            output = self.layer(weights, target[start:], target, mask)
            new.append(output)
        outputs = torch.stack(new)
        return output, outputs if cache is None else torch.cat([cache, outputs], dim=1)

    @torch.no_grad()
    def sample(self, num_samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Configurations (B, N) and their log p (B,)."""
        inputs = torch.zeros(self.num_tokens + 1, num_samples, self.p, dtype=self.dtype, device=self.device)
        log_prob = torch.zeros(num_samples, dtype=self.dtype, device=self.device)
        cache = None
        for t in range(self.num_tokens):
            output, cache = self.advance(self.embed(inputs[: t + 1]), cache, t)
            inputs[t + 1], log_conditional = self.draw(self.head(output[-1]), generator)
            log_prob += log_conditional
        return self.configs(inputs[1:].transpose(0, 1)), log_prob

    @torch.no_grad()
    def log_prob(self, configs: Tensor) -> Tensor:
        """log p (B,) of configurations (B, N)."""
        return self.conditionals(self.patches(configs).transpose(0, 1))[0].sum(dim=0)

    def conditionals(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Patches (n, B, p): log-conditionals (n, B) and the cache."""
        output, cache = self.advance(self.embed(shifted(patches)), None, 0)
        return self.pick(self.head(output), patches), cache

    @torch.no_grad()
    def flips(self, configs: Tensor, num_loops: int | None = None) -> Tensor:
        """log p (B, N) with each single site flipped."""
        batch = len(configs)
        patches = self.patches(configs)
        flipped = self.flipped_patches(patches)
        base, cache = self.conditionals(patches.transpose(0, 1))
        length, starts = self.stretches(num_loops)
        copies = length * self.p
        cache = cache.repeat_interleave(copies, dim=2)  # (layers, n, B*copies, H)
        result = torch.empty(batch, self.num_sites, dtype=self.dtype, device=self.device)
        for start in starts:
            columns = slice(start * self.p, start * self.p + copies)
            rows = flipped[:, columns].reshape(batch * copies, self.num_tokens, self.p).transpose(0, 1)
            output, _ = self.advance(self.embed(shifted(rows)), cache[:, :start], start)
            suffix = self.pick(self.head(output), rows[start:]).sum(dim=0).view(batch, copies)
            result[:, self.sites.flatten()[columns]] = suffix + base[:start].sum(dim=0)[:, None]
        return result


class OriginalRNN(OriginalModel):
    """A GRU over patches; tensors (B, n, ...)."""

    def __init__(self, model: PatchedRNN) -> None:
        super().__init__(model)
        prefix = "rnn."
        cell = {name[len(prefix) :]: w for name, w in self.weights.items() if name.startswith(prefix)}
        kind = nn.GRU if len(cell["weight_ih_l0"]) == 3 * model.width else nn.RNN
        self.rnn = kind(self.p, model.width, batch_first=True, dtype=self.dtype, device=self.device)
        self.rnn.load_state_dict(cell)

    @torch.no_grad()
    def sample(self, num_samples: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Configurations (B, N) and their log p (B,)."""
        inputs = torch.zeros(num_samples, self.num_tokens + 1, self.p, dtype=self.dtype, device=self.device)
        log_prob = torch.zeros(num_samples, dtype=self.dtype, device=self.device)
        hidden = None
        for t in range(self.num_tokens):
            output, hidden = self.rnn(inputs[:, t : t + 1], hidden)
            inputs[:, t + 1], log_conditional = self.draw(self.head(output[:, 0]), generator)
            log_prob += log_conditional
        return self.configs(inputs[:, 1:]), log_prob

    @torch.no_grad()
    def log_prob(self, configs: Tensor) -> Tensor:
        """log p (B,) of configurations (B, N)."""
        patches = self.patches(configs)
        output, _ = self.rnn(shifted(patches, dim=1))
        return self.pick(self.head(output), patches).sum(dim=1)

    @torch.no_grad()
    def flips(self, configs: Tensor, num_loops: int | None = None) -> Tensor:
        """log p (B, N) with each single site flipped."""
        batch = len(configs)
        patches = self.patches(configs)
        flipped = self.flipped_patches(patches)
        inputs = shifted(patches, dim=1)
        length, starts = self.stretches(num_loops)
        copies = length * self.p
        result = torch.empty(batch, self.num_sites, dtype=self.dtype, device=self.device)
        hidden = None  # after the inputs before the stretch
        before = torch.zeros(batch, dtype=self.dtype, device=self.device)  # log p of the patches before the stretch
        for start in starts:
            columns = slice(start * self.p, start * self.p + copies)
            rows = flipped[:, columns].reshape(batch * copies, self.num_tokens, self.p)
            repeated = None if hidden is None else hidden.repeat_interleave(copies, dim=1)
            output, _ = self.rnn(shifted(rows, dim=1)[:, start:], repeated)
            suffix = self.pick(self.head(output), rows[:, start:]).sum(dim=1).view(batch, copies)
            result[:, self.sites.flatten()[columns]] = suffix + before[:, None]
            output, hidden = self.rnn(inputs[:, start : start + length], hidden)
            before = before + self.pick(self.head(output), patches[:, start : start + length]).sum(dim=1)
        return result


def shifted(patches: Tensor, dim: int = 0) -> Tensor:
    """The inputs that belong to the patches: zeros, then all but the last patch."""
    inputs = torch.zeros_like(patches)
    count = patches.shape[dim] - 1
    inputs.narrow(dim, 1, count).copy_(patches.narrow(dim, 0, count))
    return inputs


def original(model: PatchedTransformer | PatchedRNN) -> OriginalTransformer | OriginalRNN:
    """The original's program on the weights of `model`."""
    return OriginalTransformer(model) if isinstance(model, PatchedTransformer) else OriginalRNN(model)


def baseline_sample(
    model: PatchedTransformer | PatchedRNN, num_samples: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Configurations (B, N) and their log p (B,), as the original draws them."""
    return original(model).sample(num_samples, generator)


def baseline_log_prob(model: PatchedTransformer | PatchedRNN, configs: Tensor) -> Tensor:
    """log p (B,), as the original computes it."""
    return original(model).log_prob(configs)


def baseline_flips(model: PatchedTransformer | PatchedRNN, configs: Tensor, num_loops: int | None = None) -> Tensor:
    """log p (B, N) with each single site flipped, as the original computes it; by default one loop per patch."""
    return original(model).flips(configs, num_loops)


def nnqsr_model(kind: str, size: int, seed: int = 0, **changes: Any) -> PatchedTransformer | PatchedRNN:
    """A `ptf` or `rnn` of --preset nnqsr, `changes` apart, with 2x2 patches on size x size sites; initial weights, float32."""
    settings = {**preset_values("nnqsr")[kind], "patch": "2x2", **changes}
    section: Any = qsr.PTF if kind == "ptf" else qsr.RNN
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return section(**settings).build(qsr.Lattice(size, size)).eval()


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of `work()` after one call to warm up."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main(threads: int, repeats: int) -> None:
    """Seconds for sampling and for all single flips, on one thread.

    The original program itself, on one core of a 2-core x86-64 machine with torch 2.13: RNN 8x8 Nh=128 K=128 0.006 and
    0.160; PTF 8x8 K=128 0.091 and 2.76; RNN 16x16 Nh=128 K=32 0.008 and 0.61; PTF 16x16 K=16 0.114 and 4.3.
    """
    torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {threads} threads\n{'':<26}{'sample':>10}{'flips':>10}")
    for kind, size, batch in (("rnn", 8, 128), ("ptf", 8, 128), ("rnn", 16, 32), ("ptf", 16, 16)):
        baseline = original(nnqsr_model(kind, size, Nh=128))
        configs, _ = baseline.sample(batch)
        sample = median_seconds(partial(baseline.sample, batch), repeats)
        flips = median_seconds(partial(baseline.flips, configs), repeats)
        print(f"{f'{kind.upper()} {size}x{size} K={batch}':<26}{sample:>10.4f}{flips:>10.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    main(chosen.threads, chosen.repeats)
