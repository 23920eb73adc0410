"""The bugs that `planted_bugs.py` plants: small, plausible, and none of them a crash."""

from typing import NamedTuple


class Bug(NamedTuple):
    """`old` occurs exactly once in dinado_jax/`file`; `tests` are paths below tests/."""

    file: str
    old: str
    new: str
    tests: str


OBJECTIVES = "objectives"
STATE = "automata controls/test_state.py"
DRAWS = "objectives/test_draws.py objectives"
WEIGHTING = "rollouts/test_weighting.py rollouts objectives"
LOOP = "training stages/test_pipeline.py"
STAGES = "config evaluation stages"
REACH = "stages/test_settings_reach_their_use.py stages/test_other_settings_reach_their_use.py"

BUGS = [
    # Which rollouts a step sees.
    Bug(
        "objectives/draws.py",
        "weight * rollouts.label, rollouts.prompt_id",
        "rollouts.label, rollouts.prompt_id",
        DRAWS,
    ),
    Bug(
        "objectives/draws.py",
        "np.where(rollouts.reference, weight, 1.0)",
        "np.where(rollouts.reference, 1.0, weight)",
        DRAWS,
    ),
    Bug(
        "objectives/draws.py",
        "np.where(rollouts.reference, weight, 1.0)",
        "np.ones(len(rollouts))",
        DRAWS,
    ),
    Bug(
        "objectives/draws.py",
        "[known * label, known * (1 - label)]",
        "[known * (1 - label), known * label]",
        DRAWS,
    ),
    Bug(
        "objectives/draws.py",
        "if train.balance else [sampled]",
        "if train.balance else [known]",
        DRAWS,
    ),
    Bug("objectives/draws.py", "seed + 1 + i)", "seed + 1)", DRAWS),
    Bug(
        "objectives/draws.py",
        "groups[1][sampled].sum() / groups[0][sampled].sum()",
        "groups[1].sum() / groups[0].sum()",
        DRAWS,
    ),
    Bug(
        "objectives/draws.py",
        "groups[1][sampled].sum() / groups[0][sampled].sum()",
        "groups[0][sampled].sum() / groups[1][sampled].sum()",
        DRAWS,
    ),
    Bug("objectives/draws.py", ", shrinkage=0)", ")", OBJECTIVES),
    Bug(
        "objectives/draws.py",
        "suffix=suffix[index, : rows.tokens.shape[1] - 1]",
        "suffix=np.ones_like(suffix[index, : rows.tokens.shape[1] - 1])",
        DRAWS,
    ),
    Bug(
        "objectives/draws.py",
        "step >= train.bellman_start",
        "step > train.bellman_start",
        DRAWS + " stages/test_pipeline.py",
    ),
    Bug(
        "objectives/draws.py",
        "train.bellman if step",
        "1.0 if step",
        DRAWS + " stages/test_pipeline.py",
    ),
    Bug(
        "objectives/direction_and_norm.py",
        "norm_rows(rollouts, weight, self.train, seed)",
        "norm_rows(rollouts, weight, self.train, 0)",
        OBJECTIVES,
    ),
    Bug(
        "objectives/direction_and_norm.py",
        "if detach and not control.entangled:",
        "if not control.entangled:",
        OBJECTIVES,
    ),
    Bug(
        "objectives/direction_and_norm.py",
        "if detach and control.recursive:",
        "if control.recursive:",
        OBJECTIVES,
    ),
    Bug(
        "objectives/direction_and_norm.py",
        "alone = control.scores_alone",
        "alone = control.recursive",
        "objectives rollouts stages/test_pipeline.py",
    ),
    Bug(
        "objectives/norm.py",
        "last = batch.prompt_length[:, None] - 1",
        "last = batch.prompt_length[:, None]",
        OBJECTIVES,
    ),
    Bug(
        "objectives/norm.py",
        "(1 - batch.label) * jnp.exp(batch.shift)",
        "(1 - batch.label) * jnp.exp(-batch.shift)",
        OBJECTIVES,
    ),
    Bug(
        "objectives/norm.py",
        "return batch.label + (1 - batch.label) * jnp.exp(batch.shift)",
        "return jnp.ones_like(batch.label)",
        OBJECTIVES,
    ),
    Bug(
        "objectives/norm.py",
        "bernoulli.cross_entropy(values.terminal_logit, batch.label, batch.shift)",
        "bernoulli.cross_entropy(values.terminal_logit, batch.label)",
        OBJECTIVES,
    ),
    Bug(
        "objectives/norm.py",
        "estimate = batch.label[:, None] * batch.suffix",
        "estimate = batch.label[:, None]",
        OBJECTIVES,
    ),
    Bug("objectives/norm.py", "* jnp.maximum(estimate, 1.0)", "", OBJECTIVES),
    Bug(
        "objectives/norm.py",
        "values.linked * _row_weight(batch)[:, None]",
        "values.linked",
        OBJECTIVES,
    ),
    Bug(
        "objectives/norm.py",
        "bernoulli.kl(values.value_logit, values.before_logit)",
        "bernoulli.kl(values.before_logit, values.value_logit)",
        OBJECTIVES,
    ),
    Bug("objectives/norm.py", "(values.linked * residual).sum()", "residual.sum()", OBJECTIVES),
    Bug("objectives/norm.py", "coefficient=batch.bellman[0]", "coefficient=1.0", OBJECTIVES),
    Bug(
        "objectives/matching.py",
        "control.log_policy(base_params",
        "control.log_direction(base_params",
        OBJECTIVES,
    ),
    Bug("objectives/ratio.py", "known & (weight > 0)", "weight > 0", OBJECTIVES),
    Bug("objectives/residual.py", "return ratio * (1 +", "return ratio * (2 +", OBJECTIVES),
    Bug(
        "objectives/ratio.py",
        "success = weight * rollouts.label",
        "success = rollouts.label",
        OBJECTIVES,
    ),
    Bug(
        "objectives/ratio.py",
        "rollouts.prompt_id, ~rollouts.reference)",
        "rollouts.prompt_id, np.ones(len(rollouts), bool))",
        OBJECTIVES,
    ),
    Bug("objectives/regression.py", "self.bound * value_excess", "0.3 * value_excess", OBJECTIVES),
    Bug("objectives/bound.py", "before = jax.lax.stop_gradient(", "before = (", OBJECTIVES),
    Bug("objectives/bound.py", "axis=1) - log_ratio)", "axis=1))", OBJECTIVES),
    Bug("objectives/bound.py", "column >= batch", "column > batch", OBJECTIVES),
    Bug("objectives/bound.py", "(mask * huber(", "(huber(", OBJECTIVES),
    Bug("objectives/regression.py", "jnp.where(is_success", "jnp.where(0 * is_success", OBJECTIVES),
    Bug("objectives/residual.py", "jnp.maximum(residual, 0.0)", "residual", OBJECTIVES),
    Bug(
        "objectives/regression.py",
        "sampling_weights(rollouts, weight)",
        "np.ones(len(rollouts))",
        OBJECTIVES,
    ),
    Bug("objectives/residual.py", "_HUBER = 1.5", "_HUBER = 1.0", OBJECTIVES),
    Bug("objectives/regression.py", "np.exp(-self.margin)", "np.exp(-6.0)", OBJECTIVES + " stages"),
    Bug("objectives/prefixes.py", "values.after_logit", "values.value_logit", OBJECTIVES),
    Bug(
        "objectives/prefixes.py",
        "batch.label[:, None], batch.shift[:, None]",
        "batch.label[:, None]",
        OBJECTIVES,
    ),
    Bug(
        "objectives/published.py",
        "weight = target_mask(batch) * batch.suffix",
        "weight = target_mask(batch)",
        OBJECTIVES,
    ),
    Bug(
        "objectives/published.py",
        "if control.entangled or control.recursive:",
        "if control.entangled:",
        OBJECTIVES,
    ),
    Bug(
        "objectives/published.py",
        "Term(bellman(values).sum, rows, batch.bellman[0])",
        "bellman(values)._replace(coefficient=batch.bellman[0])",
        OBJECTIVES,
    ),
    Bug(
        "objectives/published.py",
        "suffix_importance_weights(rollouts, train.weights)",
        'suffix_importance_weights(rollouts, "none")',
        OBJECTIVES,
    ),
    Bug(
        "objectives/warmup.py",
        "control.log_direction(base_params",
        "control.log_policy(base_params",
        OBJECTIVES,
    ),
    Bug(
        "objectives/table.py",
        "(train.warmup_direction, Warmup(train))",
        "(0, Warmup(train))",
        "objectives stages/test_pipeline.py exact",
    ),
    # Importance weights and statistics of prompts.
    Bug("rollouts/weighting.py", "np.minimum(ratio, np.quantile(ratio, clip))", "ratio", WEIGHTING),
    Bug(
        "rollouts/weighting.py",
        "whole[:, None] - rollouts.log_prefix[drawn]",
        "whole[:, None] + rollouts.log_prefix[drawn]",
        WEIGHTING,
    ),
    Bug(
        "rollouts/weighting.py",
        "whole[:, None] - rollouts.log_prefix[drawn]",
        "whole[:, None] + rollouts.log_prefix[drawn]",
        WEIGHTING,
    ),
    Bug(
        "rollouts/weighting.py",
        "(good + added * pooled)",
        "good",
        WEIGHTING,
    ),
    Bug(
        "rollouts/weighting.py",
        "alpha + (1 - alpha) * ratio",
        "(1 - alpha) + alpha * ratio",
        WEIGHTING,
    ),
    Bug(
        "rollouts/weighting.py",
        "np.cumsum(log_ratio, axis=1) - log_ratio",
        "np.cumsum(log_ratio, axis=1)",
        WEIGHTING,
    ),
    # Batches by length.
    Bug(
        "data/batching.py",
        "rng = np.random.default_rng((self.seed, block))\n        return _split",
        "rng = np.random.default_rng((0, block))\n        return _split",
        "data rollouts objectives",
    ),
    Bug(
        "data/batching.py",
        "rng.permutation(order.reshape(self.per_epoch, self.batch))",
        "order.reshape(self.per_epoch, self.batch)",
        "data rollouts",
    ),
    Bug(
        "data/batching.py",
        "np.random.default_rng((self.seed, epoch))",
        "np.random.default_rng((self.seed, 0))",
        "data rollouts",
    ),
    # The loop.
    Bug("training/step.py", "jnp.maximum(w, 1e-9)", "jnp.maximum(w, 1.0)", LOOP),
    Bug("training/step.py", "term.sum / weights[name]", "term.sum / term.weight", LOOP),
    Bug("training/step.py", "sum(term.coefficient * parts[name]", "sum(parts[name]", LOOP),
    Bug("training/loop.py", "log_due = now % self.run.log_every == 0", "log_due = True", LOOP),
    Bug("training/loop.py", "if now % self.run.save_every == 0 or", "if", LOOP),
    Bug("training/optimizer.py", "b2=config.beta2", "b2=0.999", LOOP),
    Bug("training/optimizer.py", "weight_decay=config.weight_decay", "weight_decay=0.0", LOOP),
    Bug(
        "training/optimizer.py",
        "mask=_decays",
        "mask=None",
        LOOP,
    ),
    Bug("training/optimizer.py", 'DictKey("table_left")', 'DictKey("table")', "training"),
    Bug("training/optimizer.py", "config.learning_rate / 10", "0.0", LOOP),
    Bug(
        "training/optimizer.py",
        "optax.clip_by_global_norm(config.clip)",
        "optax.clip_by_global_norm(1.0)",
        LOOP,
    ),
    Bug("training/optimizer.py", "min(config.warmup, steps // 2)", "config.warmup", LOOP),
    # The recursion and the vocabulary.
    Bug(
        "controls/recursion.py",
        "return log_beta - peak, log_beta + below",
        "return log_beta - peak, log_beta + below + peak",
        "controls objectives",
    ),
    Bug(
        "controls/recursion.py",
        "linked = (started & inside).astype(jnp.float32)",
        "linked = inside.astype(jnp.float32)",
        "controls objectives",
    ),
    Bug(
        "controls/recursion.py",
        "carry = jnp.where(inside, after, log_r)",
        "carry = jnp.where(started, after, log_r)",
        "controls objectives",
    ),
    Bug(
        "controls/recursion.py",
        'ceiling = jnp.inf if form == "clamped" else 0.0',
        "ceiling = 0.0",
        "controls objectives",
    ),
    Bug("ops/vocab.py", "of_excess - given.below", "of_excess + given.below", "ops controls"),
    Bug(
        "ops/vocab.py", "of_mean += given.top + given.logit", "of_mean += given.top", "ops controls"
    ),
    Bug(
        "ops/masks.py",
        "predicted >= batch.prompt_length[:, None]",
        "predicted > batch.prompt_length[:, None]",
        "ops objectives controls",
    ),
    Bug(
        "ops/masks.py",
        "predicted < batch.length[:, None]",
        "predicted <= batch.length[:, None]",
        "ops objectives controls",
    ),
    Bug(
        "ops/bernoulli.py",
        "log_p = jnp.minimum(log_p, CEILING)",
        "log_p = jnp.minimum(log_p, -1e-3)",
        "ops controls objectives",
    ),
    # Decoding.
    Bug(
        "decoding/methods.py",
        "min(max(self.temperature, _COLDEST), _HOTTEST)",
        "max(self.temperature, _COLDEST)",
        "decoding",
    ),
    Bug(
        "decoding/methods.py", "probs >= nucleus_threshold", "probs > nucleus_threshold", "decoding"
    ),
    Bug(
        "decoding/methods.py",
        "if 0 < self.top_k < logits.shape[-1]:",
        "if 1 < self.top_k < logits.shape[-1]:",
        "decoding",
    ),
    Bug(
        "decoding/beam.py",
        "jnp.where(joins, candidates.log_probs / per, -jnp.inf)",
        "jnp.where(joins, candidates.log_probs, -jnp.inf)",
        "decoding",
    ),
    Bug(
        "decoding/beam.py",
        "hope / per <= kept.scores[:, -1]",
        "hope / per <= kept.scores[:, 0]",
        "decoding",
    ),
    Bug(
        "decoding/beam.py",
        "scores, beams.log_prefix - most - jnp.log(total)",
        "scores, beams.log_prefix",
        "decoding",
    ),
    Bug(
        "decoding/beam.py",
        "jnp.where(running > -jnp.inf, beams.log_prefix, -jnp.inf)",
        "running",
        "decoding",
    ),
    Bug(
        "decoding/beam.py",
        "hope = jnp.maximum(running, log_prefix).max(1)",
        "hope = running.max(1)",
        "decoding",
    ),
    Bug("ops/ngrams.py", "same & ~among(after, ignored)", "same", "decoding"),
    Bug(
        "decoding/particles.py",
        "return jnp.clip(point - place, 0.0, 1 - 2**-23), place",
        "return uniform, place",
        "decoding",
    ),
    Bug(
        "guides/complete.py",
        'number >= params["least"]',
        'number > params["least"]',
        "guides",
    ),
    Bug("guides/complete.py", "state.ended | among", "among", "guides"),
    Bug("guides/constraint.py", "(left - ends)[:, None]", "left[:, None]", "search"),
    Bug(
        "search/exact.py",
        "self.best[length + 1 :].min(initial=np.inf)",
        "self.best[length:].min(initial=np.inf)",
        "search",
    ),
    Bug("search/exact.py", "len(frame.prefix) + 2, None", "len(frame.prefix) + 4, None", "search"),
    Bug("search/rejection.py", "excess * weight.mean", "weight.mean", "search"),
    Bug(
        "evaluation/rate_bounds.py",
        "given.select(owner), judged, how, kept)",
        "given.select(owner), judged, how)",
        "evaluation",
    ),
    Bug(
        "guides/tilt.py",
        "success = jnp.log(rate) - start.log_value",
        "success = jnp.log(rate)",
        "guides",
    ),
    Bug(
        "guides/tilt.py",
        "0.0, strength * tilted)",
        "0.0, strength + tilted)",
        "guides",
    ),
    # Models and text.
    Bug("models/cache.py", "slots <= count", "slots < count", "models decoding"),
    Bug("models/gpt2.py", "LayerNorm(config.layer_norm_epsilon", "LayerNorm(1e-5", "models"),
    Bug(
        "models/codec.py",
        "[[*ids, self.eos_id] for ids",
        "[[*ids] for ids",
        "models stages/test_pipeline.py",
    ),
    Bug(
        "data/sequences.py",
        "if len(p) + len(t) <= max_length",
        "if len(p) + len(t) < max_length",
        f"data {REACH} rollouts models",
    ),
    Bug(
        "adapters/lora.py", '"b": change["b"] * self.scale', '"b": change["b"]', "adapters controls"
    ),
    # Figures.
    Bug("tasks/bleu.py", "lowercase=True", "lowercase=False", "tasks evaluation"),
    Bug(
        "evaluation/metrics.py",
        "return floor / kl if kl > 0 and math.isfinite(floor) else math.nan",
        "return min(1.0, floor / kl) if kl > 0 else math.nan",
        "evaluation stages",
    ),
    Bug("evaluation/metrics.py", "x.std(ddof=1)", "x.std()", "evaluation stages"),
    Bug("evaluation/warnings.py", "_EFFICIENCY = 0.5", "_EFFICIENCY = 0.4", "evaluation"),
    Bug("evaluation/warnings.py", "_VARIETY = 0.7", "_VARIETY = 0.6", "evaluation"),
    # Settings and stages.
    Bug(
        "stages/contradictions.py", "if train.warmup_direction > train.steps:", "if False:", STAGES
    ),
    Bug(
        "stages/contradictions.py",
        "min(rollout.samples, train.refresh_samples)",
        "rollout.samples",
        STAGES,
    ),
    Bug(
        "stages/settings.py",
        "if key in by_file or where == COMMAND_LINE",
        "if key in by_file",
        "config stages/test_settings.py",
    ),
    Bug("config/checks.py", '0 < x <= 1, "rollout.top_p', '0 <= x <= 1, "rollout.top_p', STAGES),
    Bug("stages/generate.py", "(context.config.seed + 1) % 2**32", "context.config.seed", REACH),
    Bug("stages/generate.py", "label=float(rows.label[i])", "label=float(rows.finished[i])", REACH),
    Bug("stages/generate.py", "at(strength), known, 1", "at(decode.strength), known, 1", REACH),
    Bug("guides/tilt.py", "cls(decode.strength, ", "cls(1.0, ", REACH),
    Bug("stages/rollout.py", "is_success(samples.label).sum()", "samples.finished.sum()", REACH),
    Bug(
        "stages/sft.py",
        "_step(model, adapter, dropout, settings, steps, plan)",
        "_step(model, adapter, dropout, settings, 1, plan)",
        "stages/test_low_rank_sft.py",
    ),
    Bug(
        "stages/train.py",
        'prior = rate if config.control.norm_bias == "success_rate" else 0.5',
        "prior = rate",
        REACH,
    ),
    Bug(
        "stages/rounds.py",
        "config.rollout.prompts + (number - 1) * config.train.refresh_prompts",
        "config.rollout.prompts",
        REACH,
    ),
    Bug("stages/rounds.py", "as_mixture(read, q, share", "as_mixture(read, q, 0.4", REACH),
    Bug("decoding/sampler.py", "index >= switch", "index > switch", "decoding/test_roll_in.py"),
    Bug("stages/rounds.py", "roll_in=max(1, length)", "roll_in=0", "stages/test_roll_outs.py"),
    Bug("stages/artifacts.py", "offset = start % len(distinct)", "offset = 0", REACH),
    Bug(
        "evaluation/aggregate.py",
        "s.log_prob - s.log_prob_base for s",
        "s.log_prob for s",
        "evaluation",
    ),
    # Which texts satisfy a constraint, and which tokens lead to them.
    Bug("guides/constraint.py", "to_settled, -NEVER)", "to_settled, 0)", "automata constraints"),
    Bug(
        "guides/constraint.py",
        "alone = to_accepting.max(1)",
        "alone = jnp.where(open_, to_accepting, 0).max(1)",
        "automata constraints",
    ),
    Bug(
        "automata/joint.py",
        "(automaton.to_settled[own] == 0) & possible",
        "automaton.to_settled[own] == 0",
        "automata constraints",
    ),
    Bug(
        "automata/joint.py",
        "return [product(automata)] if lost else guarded",
        "return guarded",
        "automata constraints",
    ),
    Bug("automata/logic.py", "any() else _reached(table, at)", "any() else states", "constraints"),
    Bug("constraints/order.py", "return after, frozenset()", "return after, parts", "constraints"),
    Bug("constraints/counting.py", "(in_word or end == _NOT)", "in_word", "constraints"),
    Bug(
        "constraints/pattern.py",
        'before + after + "." if after else before',
        "before + after",
        "constraints",
    ),
    # What a control with state reads.
    Bug("automata/progress.py", "start, left[..., None] - 1", "start, left[..., None]", STATE),
    Bug("automata/progress.py", "2 * begun + closed", "2 * begun", STATE),
    Bug("automata/conjunction.py", "array is own.accepting", "array.dtype == bool", STATE),
    Bug("automata/sentence_end.py", "[1] * len(_FOLLOW)", "[0] * len(_FOLLOW)", STATE),
    Bug("controls/state.py", "np.arange(steps) - 1", "np.arange(steps)", STATE),
    Bug("controls/state_table.py", "reading.left - 1", "reading.left", "test_every_mode.py"),
    Bug("rollouts/automata.py", "log_rates[0, progress.SATISFIED] = 0.0", "", "rollouts"),
    Bug("rollouts/automata.py", "around @ seen", "around @ seen * 2", "rollouts"),
    Bug(
        "automata/progress.py",
        "where(satisfied, ENDS, IMPOSSIBLE)",
        "full_like(satisfied, 1)",
        STATE,
    ),
    Bug("automata/progress.py", "asks & (distance < start)", "asks & (distance <= start)", STATE),
    Bug("automata/progress.py", "jnp.maximum(distance.max(-1), shared)", "distance.max(-1)", STATE),
    Bug("automata/progress.py", "jnp.maximum(distance.max(-1), shared)", "distance.sum(-1)", STATE),
    Bug("automata/conjunction.py", "[states[:, 0]] & nearer", "[states[:, 0]] | nearer", STATE),
    Bug("controls/state.py", "(count > 0).T", "(count >= 0).T", STATE),
    Bug("controls/state.py", "jnp.maximum(self.left - 1, 0)", "self.left", STATE),
    Bug("controls/state.py", "column + 1 - jnp.asarray", "column - jnp.asarray", STATE),
    Bug("controls/state.py", "hidden + known", "hidden", STATE),
    Bug(
        "rollouts/automata.py",
        "mass * values[rows, : left.shape[1]]",
        "values[rows, : left.shape[1]]",
        "rollouts/test_automata.py",
    ),
    Bug("rollouts/automata.py", "log_label[:, None] - cost", "-cost", "rollouts/test_automata.py"),
    Bug("rollouts/automata.py", "[rows] * once)", "[rows])", "rollouts/test_automata.py"),
    Bug("objectives/bound.py", "== 1)", ">= 1)", OBJECTIVES),
    Bug(
        "objectives/bound.py", "axis=1) - log_ratio\n    return", "axis=1)\n    return", OBJECTIVES
    ),
    Bug("objectives/regression.py", "loss += lost", "loss += 0 * lost", OBJECTIVES),
    Bug(
        "stages/rounds.py",
        "rows.prompt_id - first_id",
        "(rows.prompt_id - first_id)[::-1]",
        "stages/test_state.py",
    ),
    Bug(
        "objectives/bound.py",
        "log_ratio) - last) + last",
        "log_ratio))",
        OBJECTIVES,
    ),
    Bug("objectives/bound.py", "mask * (scalars.excluded > 0)", "mask", OBJECTIVES),
    Bug("objectives/bound.py", "> 0.5)", "> 0.0)", OBJECTIVES),
    Bug("objectives/bound.py", "before, limit)", "before, jnp.inf)", OBJECTIVES),
    Bug("ops/vocab.py", "own.of_token == 0", "own.of_token == 1", "ops/test_vocab.py"),
    Bug("training/optimizer.py", 'name != "direction"', 'name == "norm"', "training"),
    Bug("training/optimizer.py", "min(1.0, _WIDTH", "max(1.0, _WIDTH", "training"),
    Bug(
        "controls/control.py",
        'params["norm_state"], features, at)',
        'params["norm_state"], features, at) * 1.01',
        STATE,
    ),
    Bug(
        "stages/generate.py",
        "tilted if sure is None else compose(tilted, sure)",
        "tilted",
        "stages/test_guarantee.py",
    ),
]
