"""A control gives R: a direction over next tokens, a norm of prefixes, and a form that joins them.

The four parameterisations differ only in these three:

    nado     logits of a head on the base's states, through a sigmoid; the peak is the norm; split
    soft     logits of a trunk of its own; norm; split
    merge    log pi - log p, pi the base with a delta; norm; split
    hard     any of these directions; norm of the prompt only; clamped or projected

Each of them may also read the state of the oracle (state.py).

Training calls `values`, `step_inputs` where log q and the peak suffice, or `log_policy` or
`log_direction` where only log q of rows matters. Decoding calls `log_values` once per token: a
control is a `Guide`. All are pure functions of the parameters {"direction": .., ["norm": ..],
["state": ..]}; decoding with state also needs the automata of the prompts, "automata": ...

B rows, T tokens, D model width, V vocabulary. docs/method.md defines the symbols.
"""

import dataclasses
from typing import Any, NamedTuple, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.controls.protocol import Direction, Norm, PolicyDirection
from dinado_jax.controls.recursion import FLOOR, Values, advance, unroll
from dinado_jax.controls.state import AUTOMATA, Progress, Reading, StateReader
from dinado_jax.controls.state_policy import StatePolicy
from dinado_jax.data.batch import Array, Batch
from dinado_jax.data.prompts import Prompts
from dinado_jax.decoding.policy import ModelPolicy, Policy, last_token_states
from dinado_jax.guides.guided import guided_policy, guided_variables
from dinado_jax.guides.protocol import NextValues
from dinado_jax.guides.tilt import NEUTRAL
from dinado_jax.models.cache import Cache, allocate
from dinado_jax.models.output import Output, logits
from dinado_jax.models.protocol import BaseModel, Model
from dinado_jax.ops import bernoulli, vocab
from dinado_jax.ops.masks import target_mask


class ControlState(NamedTuple):
    """The state of a control as a guide."""

    cache: Cache  # the direction's
    norm_cache: Cache | None  # of a norm that reads earlier states
    log_r: jax.Array | None  # [R, V] nats, log R after each next token; None for split
    reading: Reading | None  # of the oracle's state; None for a control without


class StepInputs(NamedTuple):
    """Inputs of the recursion, [B, T-1] each; see recursion.py."""

    scalars: vocab.VocabScalars
    beta_logit: jax.Array  # float32 log-odds


@dataclasses.dataclass(frozen=True)
class Control:
    """A `Guide` that gives R for a base. Static: calls with equal shapes compile once."""

    model: Model  # the base
    direction: Direction
    norm: Norm
    form: str = "split"  # split | clamped | projected: see recursion.py
    state: StateReader | None = None

    @property
    def entangled(self) -> bool:
        """Whether one network is both direction and norm (nado): r is log R itself."""
        return self.form == "split" and self.direction.link == "sigmoid"

    @property
    def excluded_ids(self) -> tuple[tuple[int, int], ...]:
        """The base's token ids without text, which neither p nor the direction includes."""
        return self.model.excluded_ids

    @property
    def recursive(self) -> bool:
        """Whether R is computed recursively from the prompt's: consistent for any parameters."""
        return self.form != "split"

    @property
    def norm_reads_base(self) -> bool:
        """Whether the norm reads the base's states; else those of the direction, which may know
        more. A norm with layers of its own finds out for itself.
        """
        return self.norm.has_layers or not self.direction.norm_reads_own_states

    @property
    def single_pass(self) -> bool:
        """Whether one pass of a model gives q, so that decoding needs no base beside it."""
        return self.direction.link == "policy" and self.form != "projected"

    @property
    def scores_alone(self) -> bool:
        """Whether `log_direction` reads nothing that the base computes."""
        return self.single_pass and self.direction.from_layer == 0

    @property
    def as_twist(self) -> "Control":
        """The same q, with the R that particles are to be weighed by (decoding/particles.py).

        R of the split form is what the norm makes of each prefix, and a particle of which the norm
        is wrongly sure replaces the others. q, which is learned from whole rows, is right more
        often: so R is followed from the prompt's on (clamped), and weights differ only by what the
        oracle and the base make of whole texts.
        """
        if self.form != "split" or self.entangled:
            return self
        return dataclasses.replace(self, form="clamped")

    @property
    def policy(self) -> Policy:
        """The controlled distribution q, for decoding loops."""
        return guided_policy(self.model, (self,), (NEUTRAL,))

    def policy_variables(self, base_params: dict, params: dict) -> dict[str, Any]:
        """The variables of `policy`."""
        return guided_variables(base_params, (self,), (params,), (NEUTRAL,))

    @property
    def single_pass_policy(self) -> Policy:
        model = cast(PolicyDirection, self.direction).model
        return ModelPolicy(model) if self.state is None else StatePolicy(model, self.state)

    def single_pass_variables(self, base_params: dict, params: dict) -> dict[str, Any]:
        direction = cast(PolicyDirection, self.direction)
        model = direction.policy_variables(base_params, params["direction"])
        if self.state is None:
            return model
        return {"model": model, "state": params["state"], AUTOMATA: params[AUTOMATA]}

    def decode_params(self, params: dict) -> dict:
        params = {**params, "direction": self.direction.decode_params(params["direction"])}
        if not self.entangled:
            params["norm"] = self.norm.decode_params(params["norm"])
        return params

    def init(
        self,
        key: jax.Array,
        base_params: dict,
        success_rate: float,
        log_rates: np.ndarray | None = None,
    ) -> dict:
        """Initialises parameters with q = p, and R = success_rate everywhere (entangled: 1/2).

        With state, q is p times R of what is left and of the class after each token.

        Args:
          key: typed PRNG key.
          base_params: of the base.
          success_rate: of the base, in (0, 1).
          log_rates: [N + 1, Z] nats, with state: log R by tokens left and class; None: the same
            for all that is possible.
        """
        direction_key, norm_key = jax.random.split(key)
        params = {"direction": self.direction.init(direction_key, base_params)}
        if not self.entangled:
            params["norm"] = self.norm.init(norm_key, base_params, success_rate)
            if self.state is not None and self.norm_reads_base:
                params["norm_state"] = self.state.init_embedding()
        if self.state is not None:
            params["state"] = self.state.init(jax.random.fold_in(key, 1), log_rates)
        return params

    def log_policy(self, base_params: dict, params: dict, batch: Batch) -> jax.Array:
        """Computes log q of each next token in one parallel pass: float32 [B, T-1] nats."""
        if self.form != "projected":
            return self.log_direction(base_params, params, batch)
        step_inputs = self.step_inputs(base_params, params, batch)
        return step_inputs.scalars.log_base + self.unroll(step_inputs, batch).log_ratio

    def log_direction(self, base_params: dict, params: dict, batch: Batch) -> jax.Array:
        """Computes log q of each next token without the projection to R <= 1.

        Equal to `log_policy` unless the form is projected.
        """
        tokens = batch.tokens
        if self.direction.link != "policy":
            return self.step_inputs(base_params, params, batch).scalars.log_policy
        base = None
        if self.direction.from_layer and batch.states is not None:
            base = self._base_output(base_params, batch)  # for its inputs alone
        at = None if self.state is None else self.state.along(batch)
        out = self._directed(base_params, params, base, tokens, at)
        return vocab.token_log_probs(
            out.hidden[:, :-1],
            out.vocabulary,
            tokens[:, 1:],
            excluded_ids=self.excluded_ids,
            classes=out.classes,
        )

    def values(self, base_params: dict, params: dict, batch: Batch) -> Values:
        """Computes V and R of every prefix, [B, T-1]; gradients reach `params`, never the base.

        What lies below the base's states is not run if the batch holds them.
        """
        return self.unroll(self.step_inputs(base_params, params, batch), batch)

    def step_inputs(self, base_params: dict, params: dict, batch: Batch) -> StepInputs:
        """Computes the inputs of `unroll`; see `values`."""
        tokens = batch.tokens
        chex.assert_rank([tokens, batch.prompt_length, batch.length], [2, 1, 1])
        base = self._base_output(base_params, batch)
        at = None if self.state is None else self.state.along(batch)
        out = self._directed(base_params, params, base, tokens, at)
        scalars = vocab.direction_scalars(
            self.direction.link,
            (out.hidden[:, :-1], out.vocabulary),
            (base.hidden[:, :-1], base.vocabulary),
            tokens[:, 1:],
            excluded_ids=self.excluded_ids,
            classes=out.classes,
        )
        if self.entangled:
            return StepInputs(scalars, scalars.top)  # R of the peak's token
        features, _ = self.norm.features(params["norm"], jax.lax.stop_gradient(base.hidden))
        beta_logit = self._beta_logit(params, features[:, :-1], out.hidden[:, :-1], at)
        return StepInputs(scalars, beta_logit)

    def _beta_logit(
        self, params: dict, of_base: jax.Array, of_direction: jax.Array, at: Progress | None
    ) -> jax.Array:
        """Log-odds of beta [..] from features of the base's states and states of the direction,
        [.., D] each.
        """
        features = of_base if self.norm_reads_base else of_direction
        if self.state is not None and at is not None and "norm_state" in params:
            features = self.state.embed(params["norm_state"], features, at)
        return self.norm.logit(params["norm"], features)

    def _directed(
        self,
        base_params: dict,
        params: dict,
        base: Output | None,
        tokens: Array,
        at: Progress | None,
    ) -> Output:
        """The direction's output on B rows, with the classes of every column but the last."""
        out = self.direction.forward(base_params, params["direction"], base, tokens)
        if self.state is None or at is None:
            return out
        # The last column predicts nothing.
        hidden, last = out.hidden[:, :-1], out.hidden[:, -1:]
        hidden, classes = self.state.apply(params["state"], hidden, at)
        return dataclasses.replace(out, hidden=jnp.concatenate([hidden, last], 1), classes=classes)

    def _base_output(self, base_params: dict, batch: Batch) -> Output:
        """The base's output, from its states where the batch has them: those that enter the
        direction's first layer, or the last hidden ones if the direction shares none.
        """
        variables, first = {"params": base_params}, self.direction.from_layer
        if batch.states is None:
            return self.model.apply(variables, batch.tokens)
        if first == 0:
            return self.model.output_from_states(base_params, batch.states)
        return cast(BaseModel, self.model).apply_upper(variables, first, batch.states)

    def unroll(self, step_inputs: StepInputs, batch: Batch) -> Values:
        """Runs the recursion over the rows of a batch."""
        scalars = step_inputs.scalars
        return unroll(
            self.form,
            step_inputs.beta_logit,
            scalars.below,
            scalars.peak,
            scalars.gap,
            target_mask(batch),
            scalars.logit if self.entangled else None,
        )

    def log_values(
        self,
        params: dict,
        base: tuple[jax.Array, jax.Array],
        out: tuple[jax.Array, jax.Array],
        features: jax.Array | None,
        log_prev: jax.Array | None,
        at: Progress | None = None,
    ) -> NextValues:
        """Computes V of one prefix per row, and R after each next token.

        Ids without text get a low but finite log R; only log p excludes them.

        Args:
          params: the control's parameters.
          base: state [B, D] and vocabulary [V, D] of the base at the prefix.
          out: the same of the direction.
          features: [B, D], the norm's of the base's states; None where no norm is read: where it is
            the direction itself, and in the recursive forms after the prompt.
          log_prev: [B] nats, log R after the prefix's last token; None for a prompt, where the
            recursion starts.
          at: the progress of the oracle's state, for a control that reads it.
        """
        chex.assert_rank([*base, *out], 2)
        log_p_BV = jax.nn.log_softmax(logits(*base, self.excluded_ids))
        out, l_BV = self._next_logits(params, out, at)
        # log q - log p of an excluded id would be nan: -inf - (-inf).
        r_BV = vocab.masked_direction(self.direction.link, l_BV, log_p_BV, self.excluded_ids)
        if self.entangled:
            log_v_B = jax.nn.logsumexp(log_p_BV + r_BV, axis=-1)
            log_not_B = jax.nn.logsumexp(log_p_BV + jax.nn.log_sigmoid(-l_BV), axis=-1)
            return NextValues(log_v_B, r_BV, log_v_B - log_not_B, l_BV)
        below_BV = r_BV - r_BV.max(-1, keepdims=True)
        peak_B = -jax.nn.logsumexp(log_p_BV + below_BV, axis=-1)
        beta_B = None if features is None else self._beta_logit(params, features, out[0], at)
        log_beta_B = log_prev if beta_B is None else jax.nn.log_sigmoid(beta_B)
        prev_B = log_beta_B if log_prev is None else log_prev
        assert prev_B is not None and log_beta_B is not None  # a prompt's beta is always read
        log_v_B1, log_r_BV = advance(
            self.form,
            prev_B[:, None],
            log_beta_B[:, None],
            below_BV,
            peak_B[:, None],
        )
        log_v_B = log_v_B1[:, 0]
        if beta_B is None or self.recursive:
            return NextValues(
                log_v_B, log_r_BV, bernoulli.logit(log_v_B), bernoulli.logit(log_r_BV)
            )
        gap_BV = -jnp.expm1(below_BV)
        gap_B = (jnp.exp(log_p_BV) * gap_BV).sum(-1)
        return NextValues(
            log_v_B,
            log_r_BV,
            bernoulli.scaled(beta_B, -peak_B, gap_B),
            bernoulli.scaled(beta_B[:, None], below_BV, gap_BV),
        )

    def _next_logits(
        self, params: dict, out: tuple[jax.Array, jax.Array], at: Progress | None
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        """The direction's factors with the state of the oracle, if it reads that, and its logits
        [B, V].
        """
        if self.state is None or at is None:
            return out, logits(*out, self.excluded_ids)
        hidden, classes = self.state.apply(params["state"], out[0], at)
        l_BV = logits(hidden, out[1], self.excluded_ids) + classes.of_vocabulary
        return (hidden, out[1]), l_BV

    def prefill(
        self,
        params: dict,
        base_params: dict,
        base: Output,
        prompts: Prompts,
        samples: int,
        steps: int,
    ) -> tuple[NextValues, ControlState]:
        out = self.direction.forward(base_params, params["direction"], base, prompts.tokens)
        of_base, of_direction = (
            (last_token_states(each.hidden, prompts.lengths), each.vocabulary)
            for each in (base, out)
        )
        reading, at = None, None
        if self.state is not None:
            number = jnp.asarray(prompts.condition[AUTOMATA])
            reading = Reading.begin(self.state, params[AUTOMATA], number)
            at = reading.progress(params[AUTOMATA])
        features, norm_cache = None, None
        if not self.entangled:
            features, norm_cache = self.norm.features(params["norm"], base.hidden)
            features = last_token_states(features, prompts.lengths)
        values = self.log_values(params, of_base, of_direction, features, None, at)
        log_r = values.log_after if self.recursive else None
        log_r, reading = jax.tree.map(lambda x: jnp.repeat(x, samples, 0), (log_r, reading))
        cache = allocate(out.cache, prompts.lengths, samples, steps)
        if norm_cache is not None:
            norm_cache = allocate(norm_cache, prompts.lengths, samples, steps)
        return values, ControlState(cache, None if self.recursive else norm_cache, log_r, reading)

    def step(
        self, params: dict, base_params: dict, base: Output, tokens: jax.Array, state: ControlState
    ) -> tuple[NextValues, ControlState]:
        new = tokens[:, None]
        out = self.direction.forward(base_params, params["direction"], base, new, state.cache)
        log_prev = None
        if state.log_r is not None:
            drawn = jnp.take_along_axis(state.log_r, new, 1)[:, 0]
            log_prev = jnp.maximum(drawn, FLOOR)
        of_base, of_direction = ((each.hidden[:, 0], each.vocabulary) for each in (base, out))
        reading, at = state.reading, None
        if reading is not None:
            reading = reading.advanced(params[AUTOMATA], tokens)
            at = reading.progress(params[AUTOMATA])
        features, norm_cache = None, None
        if not self.entangled and not self.recursive:
            features, norm_cache = self.norm.features(params["norm"], base.hidden, state.norm_cache)
            features = features[:, 0]
        values = self.log_values(params, of_base, of_direction, features, log_prev, at)
        log_r = values.log_after if self.recursive else None
        return values, ControlState(out.cache, norm_cache, log_r, reading)
