"""How well success can be learned from the beginnings of texts, by a reader as large as the base.

    python benchmarks/prefix_reader.py RUN [--rollouts FILE] [--steps 1000] [--guided N]

RUN is a finished run of a keyword task. A copy of its base with one output, all of whose parameters
are trained, learns by cross entropy to predict the label of a rollout after its prompt and after
each of its tokens: the optimum is R of every prefix, what an optimal control would know. FILE holds
rollouts of the same base, by default those of RUN. Prints lines of JSON: from time to time the
loss, in nats per prefix, and how well the reader ranks the base's samples for held-out prompts, see
prefix_auc.py; at the end success and KL of samples that it guides (FUDGE, arXiv 2104.05218): each
token is drawn from p R^strength of the base's 24 most probable next tokens, and of the others from
p R^strength of the prefix. For N of the held-out prompts, evenly chosen, one each.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from prefix_auc import SHARES, mean_within

from dinado_jax.config.schema import Optim
from dinado_jax.data.batch import Batch
from dinado_jax.data.batching import Epochs, bucket, by_length
from dinado_jax.data.sequences import Sequences, pad, sequences
from dinado_jax.evaluation.samples import Sample, read_samples
from dinado_jax.models import output
from dinado_jax.models.protocol import BaseModel
from dinado_jax.oracles.judge import is_success
from dinado_jax.rollouts.arrays import Rollouts
from dinado_jax.stages.pipeline import load_run
from dinado_jax.tasks.keyword.lexical import coverage
from dinado_jax.training.optimizer import optimizer

BATCH = 128
CANDIDATES = 24  # next tokens that the reader is asked about


def logits(model: BaseModel, params: dict, tokens: jax.Array) -> jax.Array:
    """The reader's log odds of success after each token of [B, T]: float32 [B, T]."""
    hidden = model.apply({"params": params["base"]}, tokens).hidden.astype(jnp.float32)
    return hidden @ params["weight"] + params["bias"]


def loss(model: BaseModel, params: dict, batch: Batch, label: jax.Array) -> jax.Array:
    """Cross entropy after the prompt and after each token of the targets, in nats per prefix."""
    column = jnp.arange(batch.tokens.shape[1])
    inside = (column >= batch.prompt_length[:, None] - 1) & (column < batch.length[:, None])
    each = optax.sigmoid_binary_cross_entropy(logits(model, params, batch.tokens), label[:, None])
    return jnp.sum(inside * each) / jnp.sum(inside)


def ranking(
    model: BaseModel, params: dict, rows: Sequences, samples: list[Sample]
) -> dict[str, float]:
    """The AUC between samples of one prompt, for each share of their tokens."""
    read = np.zeros(rows.tokens.shape, np.float32)
    compiled = jax.jit(lambda params, tokens: logits(model, params, tokens))
    for index, batch in by_length(rows, 256, model.context_length):
        out = np.asarray(compiled(params, batch.tokens))[: len(index), : read.shape[1]]
        read[index, : out.shape[1]] = out
    success = np.array([is_success(each.label) for each in samples])
    prompts = [each.prompt_id for each in samples]
    # All but the closing eos, as prefix_auc.py has it.
    after = {
        share: (share * (rows.length - rows.prompt_length - 1)).astype(int) for share in SHARES
    }
    place = np.arange(len(rows))
    return {
        f"{share:g}": round(
            mean_within(read[place, rows.prompt_length - 1 + end], success, prompts), 3
        )
        for share, end in after.items()
    }


def guided(
    model: BaseModel,
    base_params: dict,
    params: dict,
    strength: float,
    rows: list[list[int]],
    steps: int,
    eos: int,
) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    """Draws a text for each of B prompts from the base, guided by the reader.

    Returns:
      The texts' tokens, how far log q lies above log p [B], in nats, and which ended [B].
    """

    @jax.jit
    def log_base(tokens, at):
        out = model.apply({"params": base_params}, tokens)
        hidden = jnp.take_along_axis(out.hidden, at[:, None, None], 1)[:, 0]
        return jax.nn.log_softmax(output.logits(hidden, out.vocabulary, model.excluded_ids))

    @jax.jit
    def log_value(tokens, at):
        read = logits(model, params, tokens)
        return jax.nn.log_sigmoid(jnp.take_along_axis(read, at[:, None], 1)[:, 0])

    rng, start = np.random.default_rng(0), np.array([len(row) for row in rows])
    tokens, end = pad(rows, eos, int(start.max()) + steps), start.copy()
    kl, ended, each = np.zeros(len(rows)), np.zeros(len(rows), bool), np.arange(len(rows))
    for _ in range(steps):
        now = tokens[:, : bucket(int(end.max()) + 1, tokens.shape[1])]
        log_p = np.asarray(log_base(now, end - 1))
        likely = np.argsort(-log_p, 1)[:, :CANDIDATES]
        after = np.repeat(now[:, None], CANDIDATES, 1)
        np.put_along_axis(after, end[:, None, None], likely[..., None], 2)
        ahead = [log_value(after[:, i], end) for i in range(CANDIDATES)]
        tilt = np.zeros_like(log_p)
        gain = np.stack(ahead, 1) - np.asarray(log_value(now, end - 1))[:, None]
        np.put_along_axis(tilt, likely, gain, 1)
        log_q = np.asarray(jax.nn.log_softmax(log_p + strength * tilt))
        new = np.argmax(log_q + rng.gumbel(size=log_q.shape), 1)
        kl += np.where(ended, 0.0, log_q[each, new] - log_p[each, new])
        tokens[each, end] = np.where(ended, eos, new)
        ended |= new == eos
        end = np.where(ended, end, np.minimum(end + 1, tokens.shape[1] - 1))
    texts = [row[a : b + 1].tolist() for row, a, b in zip(tokens, start, end, strict=True)]
    return [[token for token in text if token != eos] for text in texts], kl, ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rollouts", type=Path)
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--every", type=int, default=250)
    parser.add_argument("--guided", type=int, default=0, metavar="N")
    parser.add_argument("--strength", type=float, default=1.0)
    args = parser.parse_args()

    base = load_run(args.run).base
    model, codec = base.model, base.codec
    drawn = read_samples(args.run / "generate" / "base.jsonl")
    samples = [each for each in drawn if each.prompt_id < args.prompts and each.finished]
    rows = sequences(
        codec.prompts([each.prompt for each in samples]),
        codec.targets([each.text for each in samples]),
        codec.eos_id,
        model.context_length,
    )
    rollouts = Rollouts.load(
        args.rollouts or args.run / "rollout" / "rollouts.npz", vocab_size=model.vocab_size
    )
    params: Any = {
        "base": base.params,
        "weight": jnp.zeros(model.width, jnp.float32),
        "bias": jnp.zeros((), jnp.float32),
    }
    update = optimizer(Optim(learning_rate=1e-3, weight_decay=0.1), args.steps)

    @jax.jit
    def step(params, state, batch, label):
        value, gradient = jax.value_and_grad(lambda params: loss(model, params, batch, label))(
            params
        )
        change, state = update.update(gradient, state, params)
        return optax.apply_updates(params, change), state, value

    state, epochs, losses = update.init(params), Epochs(rollouts, BATCH, 0), []
    for number in range(args.steps):
        batch = epochs.at(number)
        params, state, value = step(params, state, batch, rollouts.label[batch.row])
        losses.append(value)
        if (number + 1) % args.every == 0 or number + 1 == args.steps:
            figures = {
                "steps": number + 1,
                "rollouts": min((number + 1) * BATCH, len(rollouts)),
                "loss": round(float(np.mean(losses)), 4),
                "auc_within_prompts": ranking(model, params, rows, samples),
            }
            print(json.dumps(figures), flush=True)
            losses = []

    if args.guided:
        prompts = {each.prompt_id: each.prompt for each in drawn}
        spaced = np.linspace(0, len(prompts) - 1, args.guided).astype(int)
        ids = [sorted(prompts)[place] for place in spaced]
        asked = [prompts[each] for each in ids]
        tokens, kl, ended = guided(
            model,
            base.params,
            params,
            args.strength,
            codec.prompts(asked),
            base.max_new_tokens,
            codec.eos_id,
        )
        label = [coverage(*pair) == 1 for pair in zip(asked, codec.decode(tokens), strict=True)]
        of_base = [is_success(each.label) for each in drawn if each.prompt_id in ids]
        figures = {
            "prompts": len(ids),
            "strength": args.strength,
            "success_of_base": round(float(np.mean(of_base)), 4),
            "success": round(float(np.mean(label)), 4),
            "success_error": round(float(np.std(label) / len(label) ** 0.5), 4),
            "kl": round(float(kl.mean()), 3),
            "ended": round(float(ended.mean()), 3),
        }
        print(json.dumps({"guided": figures}), flush=True)


if __name__ == "__main__":
    main()
