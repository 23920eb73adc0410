"""What a run computes, once more in float64 NumPy from the files that it writes.

A GPT-2, a delta of it, a merge or hard control, truncated sampling, the terms of the objectives and
AdamW, each written out in a few lines that share nothing with the package. B rows, T tokens, V
vocabulary, D width.
"""

import dataclasses
import functools
import re
import types
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

HUBER = 1.5  # nats


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def log_sigmoid(x):
    return -np.logaddexp(0, -np.float64(x))


# Models


@dataclasses.dataclass
class Model:
    """A GPT-2 by Hugging Face's names without their prefix."""

    weights: dict[str, np.ndarray]
    heads: int

    @classmethod
    def load(cls, folder: Path, heads: int) -> "Model":
        tensors = load_file(folder / "model.safetensors")
        return cls(
            {k.removeprefix("transformer."): np.float64(v) for k, v in tensors.items()}, heads
        )

    @classmethod
    def of_tree(cls, tree: dict, heads: int) -> "Model":
        """From the parameters of a checkpoint of stage sft."""
        flat = flatten_dict(tree, sep="/")
        weights = {_hf_name(path): np.float64(x) for path, x in flat.items()}
        kernels = {_hf_name(path) for path in flat if path.endswith("/kernel")}
        return cls({name: x.T if name in kernels else x for name, x in weights.items()}, heads)

    def with_delta(self, delta: dict, scale: float) -> "Model":
        """The model plus a delta by "h_0/attn/c_attn/kernel" and the like."""
        weights = dict(self.weights)
        for path, change in delta.items():
            change = {key: np.float64(value) for key, value in change.items()}
            if "full" in change:
                added = change["full"].T if path.endswith("/kernel") else change["full"]
            else:
                added = scale * change["a"] @ change["b"]
            weights[_hf_name(path)] = weights[_hf_name(path)] + added
        return Model(weights, self.heads)

    def next(self, tokens) -> np.ndarray:
        """Log-probabilities [B, V] after the last of tokens [B, T]."""
        return self(tokens)[1][:, -1]

    def __call__(self, tokens) -> tuple[np.ndarray, np.ndarray]:
        """Last states [B, T, D] and log-probabilities of the next token [B, T, V]."""
        tokens = np.asarray(tokens)
        x = self.weights["wte.weight"][tokens] + self.weights["wpe.weight"][: tokens.shape[1]]
        layers = 1 + max(int(name.split(".")[1]) for name in self.weights if name.startswith("h."))
        for layer in range(layers):
            block = f"h.{layer}."
            x = x + self._attention(block + "attn.", self._norm(block + "ln_1", x))
            inner = self._linear(block + "mlp.c_fc", self._norm(block + "ln_2", x))
            inner = inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3))) / 2
            x = x + self._linear(block + "mlp.c_proj", inner)
        states = self._norm("ln_f", x)
        return states, log_softmax(states @ self.weights["wte.weight"].T)

    def _attention(self, name, x):
        B, T, D = x.shape
        q, k, v = (
            part.reshape(B, T, self.heads, -1).transpose(0, 2, 1, 3)
            for part in np.split(self._linear(name + "c_attn", x), 3, -1)
        )
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(D // self.heads)
        scores = np.where(np.tril(np.ones((T, T), bool)), scores, -np.inf)
        out = (np.exp(log_softmax(scores)) @ v).transpose(0, 2, 1, 3).reshape(B, T, D)
        return self._linear(name + "c_proj", out)

    def _linear(self, name, x):
        return x @ self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def _norm(self, name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        return x * self.weights[name + ".weight"] + self.weights[name + ".bias"]


def _hf_name(path: str) -> str:
    """ "h_0/attn/c_attn/kernel" -> "h.0.attn.c_attn.weight" """
    *outer, last = re.sub(r"^h_", "h/", path).split("/")
    return ".".join([*outer, "bias" if last == "bias" else "weight"])


@dataclasses.dataclass
class Merge:
    """A control whose direction is a delta of the base, with a norm on the base's states."""

    base: Model
    params: dict
    scale: float
    form: str = "split"  # split | clamped | projected

    @property
    def q(self) -> Model:
        return self.base.with_delta(self.params["direction"], self.scale)

    def tables(self, tokens):
        """log p, log q unbent [B, T, V], and log-odds of beta [B, T]."""
        states, log_p = self.base(tokens)
        norm = {key: np.float64(value) for key, value in self.params["norm"].items()}
        inner = np.maximum(states @ norm["hidden"] + norm["hidden_bias"], 0)
        return log_p, self.q(tokens)[1], inner @ norm["out"] + norm["out_bias"]


def load_state(folder: Path) -> dict:
    """What a checkpoint holds: {"trainable": .., "mean": .., "square": ..}, or a control's own
    parameters, whatever stands around them."""
    tree = jax.tree.map(np.asarray, ocp.StandardCheckpointer().restore(folder / "default"))
    if "opt_state" not in tree:
        return tree

    def found(node, name):
        if isinstance(node, dict):
            if name in node:
                return node[name]
            node = list(node.values())
        inside = [found(each, name) for each in node] if isinstance(node, list) else []
        return next((each for each in inside if each is not None), None)

    moments = {
        ours: found(tree["opt_state"], name) for ours, name in (("mean", "mu"), ("square", "nu"))
    }
    return {"trainable": tree["trainable"], **moments}


# Sampling


@functools.partial(jax.jit, static_argnums=3)
def _streams(key, ids, numbers, steps):
    def one(i, s):
        stream = jax.random.fold_in(jax.random.fold_in(key, i), s)
        steps_of = jax.vmap(lambda t: jax.random.uniform(jax.random.fold_in(stream, t)))
        return steps_of(np.arange(steps))

    return jax.vmap(one)(ids, numbers)


def uniforms(seed: int, ids, samples: int, steps: int, fold: int | None = None) -> np.ndarray:
    """The random numbers of every prompt, sample and step: [len(ids) * samples, steps]."""
    key = jax.random.key(seed)
    if fold is not None:
        key = jax.random.fold_in(key, fold)
    ids = np.repeat(np.asarray(ids, np.int32), samples)
    numbers = np.arange(len(ids), dtype=np.int32) % samples
    ids_of, numbers = (np.resize(x, 64) for x in (ids, numbers))  # one shape for all
    return np.float64(_streams(key, ids_of, numbers, 8))[: len(ids), :steps]


def truncated(log_probs, temperature=1.0, top_k=0, top_p=1.0):
    """Of one prefix [V]: candidates in the order in which they are drawn, and their
    log-probabilities."""
    if temperature == 0:
        return np.array([log_probs.argmax()]), np.zeros(1)
    order = np.arange(len(log_probs))
    if 0 < top_k < len(log_probs):
        order = np.argsort(-log_probs, kind="stable")[:top_k]
    probs = np.exp(log_softmax(log_probs[order] / temperature))
    if top_p < 1:
        descending = np.sort(probs)[::-1]
        least = descending[np.searchsorted(np.cumsum(descending), top_p)]
        order, probs = order[probs >= least], probs[probs >= least]
    return order, np.log(probs / probs.sum())


@dataclasses.dataclass
class Drawn:
    tokens: list[int]
    log_prob: float  # under the distribution drawn from
    prefix: list[float]  # log-probability of each token, as drawn


def sample(next_log_probs, prompts, uniform, new: int, eos: int, **method) -> list[Drawn]:
    """Rows drawn token by token, each from a whole pass.

    next_log_probs: (rows of equal length [B, T]) -> [B, V] after their last token.
    prompts: token ids of every row, in the order of `uniform` [rows, new].
    """
    rows = [list(prompt) for prompt in prompts]
    out = [Drawn([], 0.0, []) for _ in rows]
    for step in range(new):
        alive = [i for i, each in enumerate(out) if eos not in each.tokens]
        for length in sorted({len(rows[i]) for i in alive}):
            part = [i for i in alive if len(rows[i]) == length]
            tables = next_log_probs(np.array([rows[i] for i in part]))
            for i, table in zip(part, tables):
                order, log_probs = truncated(table, **method)
                place = int((np.cumsum(np.exp(log_probs)) > uniform[i, step]).argmax())
                out[i].tokens.append(int(order[place]))
                out[i].prefix.append(float(log_probs[place]))
                out[i].log_prob += float(log_probs[place])
        for i in alive:
            rows[i] = [*prompts[i], *out[i].tokens]
    return out


def tilted(control: Merge, strength=1.0, target_rate=1.0, reject=0.0, prompt_length=None):
    """Next log-probabilities [B, V] of rows under a tilted split control."""

    def next_log_probs(tokens):
        log_p, log_q, beta = control.tables(tokens)
        r = log_q - log_p
        top = r.max(-1, keepdims=True)
        log_r = log_sigmoid(beta)[..., None] + r - top
        log_v = np.log(np.exp(log_p + log_r).sum(-1))
        out, R = log_p[:, -1], np.exp(log_r[:, -1])
        if target_rate < 1:
            start = np.exp(log_v[np.arange(len(tokens)), np.asarray(prompt_length(tokens)) - 1])
            start = start[:, None]
            R = R * target_rate / start + (1 - R) * (1 - target_rate) / (1 - start)
        out = out + strength * np.log(R)
        if reject:
            out = np.where(log_r[:, -1] - log_v[:, -1:] < np.log(reject), -np.inf, out)
        return log_softmax(out)

    return next_log_probs


# Rows

COLUMNS = ("tokens", "prompt_length", "length", "prompt_id", "label", "finished")
COLUMNS += ("log_base", "log_proposal", "log_prefix", "round")


def part(rows, chosen):
    """Some of the rows of rollouts."""
    return types.SimpleNamespace(**{name: getattr(rows, name)[chosen] for name in COLUMNS})


def joined(parts):
    """Rollouts one after another, of one width."""
    width = max(each.tokens.shape[1] for each in parts)

    def column(name):
        columns = [getattr(each, name) for each in parts]
        if columns[0].ndim == 2:
            wide = width - (name == "log_prefix")
            columns = [np.pad(c, ((0, 0), (0, wide - c.shape[1]))) for c in columns]
        return np.concatenate(columns)

    return types.SimpleNamespace(**{name: column(name) for name in COLUMNS})


def begun(rows) -> list[list[int]]:
    """The prompts' token ids of rows."""
    return [row[:start].tolist() for row, start in zip(rows.tokens, rows.prompt_length)]


def assert_samples(rows, drawn: list[Drawn], eos: int) -> None:
    """The rows are what was drawn by hand."""
    assert len(rows.length) == len(drawn)
    for i, each in enumerate(drawn):
        start, end = rows.prompt_length[i], rows.length[i]
        assert rows.tokens[i, start:end].tolist() == each.tokens, i
        assert rows.finished[i] == (each.tokens[-1] == eos), i


# Scores


def targets(rows) -> np.ndarray:
    """bool [N, T-1]: columns that predict a token of the target."""
    column = 1 + np.arange(rows.tokens.shape[1] - 1)
    return (column >= rows.prompt_length[:, None]) & (column < rows.length[:, None])


def score(log_probs, rows) -> np.ndarray:
    """Log-probability of each target token [N, T-1] from those of all tokens [N, T, V]."""
    drawn = np.take_along_axis(log_probs[:, :-1], rows.tokens[:, 1:, None], 2)[..., 0]
    return np.where(targets(rows), drawn, 0.0)


# Objectives


@dataclasses.dataclass
class Values:
    log_q: np.ndarray  # [N] of the direction, unbent
    value: np.ndarray  # log V [N, T-1]
    after: np.ndarray  # log R after each token [N, T-1]
    inside: np.ndarray  # bool [N, T-1]
    beta: np.ndarray  # log-odds of beta [N, T-1]


def values(control: Merge, rows) -> Values:
    log_p, log_q, beta = control.tables(rows.tokens)
    r, inside = (log_q - log_p)[:, :-1], targets(rows)
    top, log_p = r.max(-1), log_p[:, :-1]
    drawn = np.take_along_axis(r, rows.tokens[:, 1:, None], 2)[..., 0]
    log_beta = log_sigmoid(beta[:, :-1])
    log_q_rows = score(log_q, rows).sum(1)
    if control.form == "split":
        after = log_beta + drawn - top
        value = np.log(np.exp(log_p + (log_beta - top)[..., None] + r).sum(-1))
        return Values(log_q_rows, value, after, inside, beta[:, :-1])
    value, after = np.zeros(inside.shape), np.zeros(inside.shape)
    for n, columns in enumerate(inside):
        previous = None
        for t in np.flatnonzero(columns):
            previous = log_beta[n, t] if previous is None else previous
            value[n, t] = previous
            previous = after[n, t] = _recurred(
                control.form, previous, log_p[n, t], r[n, t], drawn[n, t]
            )
    return Values(log_q_rows, value, after, inside, beta[:, :-1])


def _recurred(form, previous, log_p, r, drawn):
    """log R after a token from log R before it; r is log q - log p over the vocabulary."""
    if form == "clamped":
        return previous + drawn
    below = np.exp(r - r.max())
    total = (np.exp(log_p) * below).sum()
    a = max(0.0, (np.exp(previous) - total) / (1 - total))
    normaliser = max(total, np.exp(previous))
    return previous + np.log(a + (1 - a) * np.exp(drawn - r.max())) - np.log(normaliser)


def logit(log_p):
    return log_p - np.log(-np.expm1(np.minimum(log_p, -1e-6)))


def cross_entropy(odds, label, shift=0.0):
    return -label * log_sigmoid(odds + shift) - (1 - label) * log_sigmoid(-odds - shift)


def kl(a, b):
    """Between Bernoulli distributions of these log-odds."""
    p = np.exp(log_sigmoid(a))
    return p * (log_sigmoid(a) - log_sigmoid(b)) + (1 - p) * (log_sigmoid(-a) - log_sigmoid(-b))


def bellman(found: Values) -> tuple[float, int]:
    """Sum and number of the residuals."""
    parts = [
        kl(logit(found.value[n, t]), logit(found.after[n, t - 1]))
        for n, columns in enumerate(found.inside)
        for t in np.flatnonzero(columns)[1:]
    ]
    return float(sum(parts)), len(parts)


def norm_terms(found: Values, label, suffix, rate, shift) -> dict[str, float]:
    """rate, value, terminal and bellman, as means."""
    of_row = label + (1 - label) * np.exp(shift)
    first = found.inside.argmax(1)
    at_prompt = cross_entropy(logit(found.value[np.arange(len(first)), first]), rate)
    later = found.inside & (np.arange(found.inside.shape[1]) > first[:, None])
    estimate = label[:, None] * suffix
    entropy = cross_entropy(logit(found.value), np.minimum(estimate, 1))
    weight = np.where(later, of_row[:, None] * np.maximum(estimate, 1), 0.0)
    last = [found.after[n, np.flatnonzero(columns)[-1]] for n, columns in enumerate(found.inside)]
    total, count = bellman(found)
    return {
        "rate": (of_row * at_prompt).sum() / of_row.sum(),
        "value": (weight * entropy).sum() / weight.sum(),
        "terminal": cross_entropy(logit(np.array(last)), label, shift).mean(),
        "bellman": total / count,
    }


def rate_term(found: Values, rate, label, shift) -> float:
    """The loss of prompts' rates, rows drawn by label."""
    first = found.inside.argmax(1)
    odds = found.beta[np.arange(len(first)), first]
    weight = label + (1 - label) * np.exp(shift)
    return (weight * cross_entropy(odds, rate)).sum() / weight.sum()


def ratio_losses(log_q, log_proposal, optimal_ratio):
    """Of each row; log_proposal nan for references, which have none."""
    x = np.where(np.isnan(log_proposal), -np.inf, log_q - np.nan_to_num(log_proposal))
    return np.exp(np.minimum(x, 3)) * (1 + np.maximum(x - 3, 0)) - optimal_ratio * log_q


def huber(error):
    size = np.abs(error)
    return np.where(size <= HUBER, size**2 / 2, HUBER * (size - HUBER / 2))


# Weights of rollouts


def importance(rows, mode: str, clip: float, reference_weight: float) -> np.ndarray:
    reference = np.isnan(rows.log_proposal)
    weight = np.where(reference, reference_weight, 1.0)
    if mode == "importance":
        ratio = np.exp(np.float64(rows.log_base - rows.log_proposal)[~reference])
        weight[~reference] = np.minimum(ratio, np.quantile(ratio, clip))
    return weight


def optimal_ratios(rows, weight) -> np.ndarray:
    """q* / proposal [N]: of each prompt as many in all as it has samples."""
    success = np.float64(weight) * rows.label
    ratio = np.zeros(len(success))
    for prompt in np.unique(rows.prompt_id):
        own = rows.prompt_id == prompt
        samples = (~np.isnan(rows.log_proposal[own])).sum()
        if success[own].sum() > 0:
            ratio[own] = success[own] / success[own].sum() * samples
    return ratio


def suffixes(rows, mode: str) -> np.ndarray:
    """p / proposal of what follows each prefix of a target [N, T-1], 1 for references."""
    weight = np.ones(rows.log_prefix.shape)
    if mode == "none":
        return weight
    for n in range(len(weight)):
        if not np.isnan(rows.log_proposal[n]):
            whole = np.float64(rows.log_base[n]) - rows.log_proposal[n]
            weight[n] = np.exp(whole - np.float64(rows.log_prefix[n]))
    return weight


def per_prompt(values, rows) -> np.ndarray:
    """Values scaled to add up to 1 for every prompt that has any."""
    total = np.array([values[rows.prompt_id == prompt].sum() for prompt in rows.prompt_id])
    return np.divide(values, total, out=np.zeros(len(values)), where=total > 0)


def rates(rows, shrinkage: int = 8) -> np.ndarray:
    """The estimated success rate of each row's prompt."""
    sampled = ~np.isnan(rows.log_proposal)
    ratio = np.where(sampled, np.exp(np.nan_to_num(rows.log_base - rows.log_proposal)), 0.0)
    good = ratio * rows.label
    pooled = good.sum() / sampled.sum()
    out = np.zeros(len(ratio))
    for prompt in np.unique(rows.prompt_id):
        own = rows.prompt_id == prompt
        out[own] = (good[own].sum() + shrinkage * pooled) / (sampled[own].sum() + shrinkage)
    return np.clip(out, 1e-6, 1 - 1e-6)


# The optimiser


def learning_rate(settings, step: int, steps: int) -> float:
    """Of the update number `step`, from 0."""
    warmup, peak = min(settings.warmup, steps // 2), settings.learning_rate
    if step < warmup:
        return peak * (1 + step) / (warmup + 1)
    if settings.decay == "constant":
        return peak
    done = (step - warmup) / max(steps - warmup, 1)
    return peak * (0.1 + 0.9 * (1 + np.cos(np.pi * done)) / 2)


def gradient_between(before: dict, after: dict):
    """The clipped gradient of an update, from Adam's means on both sides of it."""
    return jax.tree.map(
        lambda a, b: (np.float64(b) - 0.9 * np.float64(a)) / 0.1, before["mean"], after["mean"]
    )


def tree_norm(tree) -> float:
    return float(np.sqrt(sum((np.float64(x) ** 2).sum() for x in jax.tree.leaves(tree))))


def assert_update(before: dict, after: dict, settings, step: int, steps: int) -> None:
    """`after` is `before` and one update of AdamW, the one number `step` from 0."""
    gradient, rate = gradient_between(before, after), learning_rate(settings, step, steps)
    assert tree_norm(gradient) <= (settings.clip or np.inf) * (1 + 1e-4)

    def square(a, g):
        return settings.beta2 * np.float64(a) + (1 - settings.beta2) * g**2

    squares = jax.tree.map(square, before["square"], gradient)
    for found, wanted in zip(jax.tree.leaves(after["square"]), jax.tree.leaves(squares)):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5 * np.max(wanted) + 1e-12)

    def moved(x, mean, variance):
        mean = np.float64(mean) / (1 - 0.9 ** (step + 1))
        variance = np.float64(variance) / (1 - settings.beta2 ** (step + 1))
        change = mean / (np.sqrt(variance) + 1e-8)
        return np.float64(x) - rate * (change + settings.weight_decay * x * (np.ndim(x) > 1))

    wanted = jax.tree.map(moved, before["trainable"], after["mean"], after["square"])
    for found, value in zip(jax.tree.leaves(after["trainable"]), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=2e-3 * rate)
