"""A run's control inside transformers: `generate` of PyTorch draws from our q.

    python examples/transformers_processor.py runs/demo "dog chase kite =" --samples 4

needs the extra [peer] (PyTorch). At each step transformers hands the processor all tokens so far
and the base's scores, and the processor answers with log q of every next token, which JAX computes:
base and control are decoded beside transformers' own pass. Any control works, of any kind, with
state, tilted or composed with others. A `merge` control without state needs none of this: `dinado
export` makes it a model of transformers.
"""

import argparse

import jax
import numpy as np
import torch
from transformers import AutoModelForCausalLM, LogitsProcessor

import dinado_jax
from dinado_jax.data.prompts import PromptSet, TokenizedPrompts
from dinado_jax.errors import InputError
from dinado_jax.models.cache import open_for


class ControlProcessor(LogitsProcessor):
    """Replaces the base's scores by log q, for the prompts of one call of `generate`."""

    def __init__(self, model: dinado_jax.Controlled, prompts: list[str], max_new_tokens: int):
        """Tokenizes the prompts as the run did.

        Args:
          model: what `dinado_jax.load_run` returns, tilted or not; or `dinado_jax.compose`.
          prompts: P texts.
          max_new_tokens: as `generate` gets it.
        """
        # A control with state reads the automata of the prompts; others read their tokens alone.
        self.model, known = model.for_prompts(PromptSet(prompts))
        self.codec, self.steps = model.base.codec, max_new_tokens
        self.tokens = self.codec.prompts(prompts)
        self.width = max(map(len, self.tokens))
        tokenized = TokenizedPrompts(self.tokens, known.condition)
        self.prompts = tokenized.batch(np.arange(len(prompts)), self.codec.eos_id, self.width)
        self.read = np.zeros((0, 0), int)  # [R, n], new tokens that the caches hold
        policy = self.model.policy
        self.prefill = jax.jit(policy.prefill, static_argnums=(2, 3))
        self.step = jax.jit(policy.step)

    def inputs(self) -> dict[str, torch.Tensor]:
        """The prompts as `generate` takes them, padded on the left: int64 [P, T]."""
        width, eos = self.width, self.codec.eos_id
        ids = [[eos] * (width - len(row)) + row for row in self.tokens]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in self.tokens]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """[R, T + n], [R, V] -> log q of the next token [R, V] nats; R / P rows of each prompt
        follow each other.
        """
        new = input_ids[:, self.width :].cpu().numpy()
        variables, count = self.model.variables, new.shape[1] - 1
        if count < 0 or not np.array_equal(new[:, :-1], self.read):
            # The first token, or beams in another order: everything is read again.
            rows = len(new) // len(self.tokens)
            self.logits, self.carry = self.prefill(variables, self.prompts, rows, self.steps)
            count = 0
        for i in range(count, new.shape[1]):
            carry = open_for(self.carry, i)  # makes room in the caches
            self.logits, self.carry = self.step(variables, carry, new[:, i])
        self.read = new
        log_q = jax.nn.log_softmax(self.logits.policy)
        return torch.tensor(np.asarray(log_q)).to(scores)


def main() -> None:
    """Draws from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("prompt")
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        model = dinado_jax.load_run(args.run).tilted(strength=args.strength)
        processor = ControlProcessor(model, [args.prompt], args.max_new_tokens)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    torch.manual_seed(args.seed)
    base = AutoModelForCausalLM.from_pretrained(f"{args.run}/sft/base")
    # top_k=0: transformers would otherwise cut q to 50 tokens.
    drawn = base.generate(
        **processor.inputs(), logits_processor=[processor], do_sample=True, top_k=0,
        num_return_sequences=args.samples, max_new_tokens=args.max_new_tokens,
        eos_token_id=list(processor.codec.stop_ids), pad_token_id=processor.codec.eos_id,
    )  # fmt: skip
    for text in processor.codec.decode(drawn[:, processor.width :].tolist()):
        print(text)


if __name__ == "__main__":
    main()
