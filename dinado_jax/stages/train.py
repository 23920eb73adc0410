"""Stage train: rounds of {sample the current q, judge, weight, learn} on all rollouts so far."""

import functools
import itertools
import shutil
from functools import partial

import jax
import numpy as np

from dinado_jax.config.schema import Train
from dinado_jax.controls.control import Control
from dinado_jax.controls.make import make_control
from dinado_jax.distributed.partitioning import Plan
from dinado_jax.distributed.processes import barrier, is_main
from dinado_jax.errors import InputError
from dinado_jax.evaluation.stage_figures import TrainFigures, as_dict, round_line
from dinado_jax.evaluation.warnings import round_warnings
from dinado_jax.objectives.table import phases
from dinado_jax.objectives.terms import Objective
from dinado_jax.objectives.warmup import Warmup
from dinado_jax.rollouts.arrays import Rollouts, concatenate
from dinado_jax.rollouts.hidden_states import delete_files
from dinado_jax.rollouts.weighting import importance_weights, success_rate
from dinado_jax.stages.artifacts import trained_base
from dinado_jax.stages.context import Context
from dinado_jax.stages.round_data import RoundData
from dinado_jax.stages.rounds import Rounds
from dinado_jax.stages.works import round_ends
from dinado_jax.training.checkpoint import Checkpoints
from dinado_jax.training.loop import Loop, Phase, restore_or_init
from dinado_jax.training.optimizer import control_optimizer
from dinado_jax.training.step import (
    Step,
    TrainState,
    at_average,
    init_state,
    make_evaluation,
    make_step,
)
from dinado_jax.utils.outlook import reach
from dinado_jax.utils.progress import MetricsLog, print_once, print_progress

_HIGHEST = 0.5  # with only lower labels, the scale of an oracle is not [0, 1]


def train(context: Context) -> TrainFigures:
    """Trains the control; writes train/control, checkpoints and the rollouts of each round.

    Raises:
      InputError: if the labels of the base's rollouts leave nothing to learn.
    """
    config, run, plan = context.config, context.run, context.plan
    settings, folder = config.train, run.stage_folder("train")
    base = trained_base(context, plan.shard)
    initial = Rollouts.load(run.path / "rollout" / "rollouts.npz", vocab_size=base.model.vocab_size)
    rate = _check_labels(initial)
    control = make_control(config, base.model)
    schedule = [
        (end, objective, *_programs(objective, control, settings, plan))
        for end, objective in phases(settings)
    ]
    prior = rate if config.control.norm_bias == "success_rate" else 0.5
    rounds, figures = Rounds(context, base, control, initial), []
    init = partial(_init, control, settings, config.seed, prior, rounds.table)
    with Checkpoints(folder / "checkpoints", context.base_fingerprint) as checkpoints:
        state = restore_or_init(checkpoints, plan, init, base.params)
        board = context.board("train", int(state.step))
        log = MetricsLog(folder / "train.jsonl", int(state.step), board)
        loop = Loop(plan, settings.accumulate, config.run, checkpoints, log)
        for number, (begin, end) in enumerate(itertools.pairwise([0, *round_ends(settings)])):
            label = reach(f"round {number}")
            parts = rounds.rollouts_up_to(number, state.trainable)
            rollouts = concatenate(list(parts.values()), base.codec.eos_id)
            weight = importance_weights(
                rollouts, settings.weights, settings.weight_clip, settings.reference_weight
            )
            figures.append(rounds.figures(number, parts, rollouts, weight))
            print_progress(f"{label}: {round_line(number, figures[-1])}")
            if board:
                board.write(number, as_dict(figures[-1]), "round/")
            for line in round_warnings(number, figures[-1], rounds.table_kl):
                print_once(f"warning: {line}")
            states = rounds.states(list(parts.values()))
            automata = rounds.automata(rollouts) if control.state else None
            data = RoundData(control, settings, config.seed, rollouts, weight, states, automata)
            for place, (until, objective, step, evaluate) in enumerate(schedule):
                stop = max(begin, min(end, until))
                if begin == stop:
                    continue
                name = "warm-up" if isinstance(objective, Warmup) else f"train round {number}"
                held_out = data.held_out(place, evaluate, stop)
                phase = Phase(name, step, data.batches(objective), begin, stop, held_out)
                state, begin = loop.fit(phase, state, base.params), stop
            if int(state.step) == end:  # not beyond it, in a run that continues
                state = at_average(state)
    if is_main():  # left by a run that was stopped between here and the end of the stage
        shutil.rmtree(folder / "control", ignore_errors=True)
    barrier("the control is to be saved")
    with Checkpoints(folder / "control", context.base_fingerprint) as final:
        final.save(settings.steps, plan.to_host(state.trainable))
    barrier("the control is saved")
    if is_main():
        delete_files(folder)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.trainable))
    return TrainFigures(count, tuple(figures), rounds.table_kl)


def _check_labels(initial: Rollouts) -> float:
    """Returns the success rate of the base.

    Raises:
      InputError: if all labels of its samples are equal, or the highest label is far below 1.
    """
    rate, label = success_rate(initial), initial.label[~initial.reference]
    if not 0 < rate < 1:
        raise InputError(
            f"the base satisfies the oracle in {rate:.0%} of its samples: there is nothing to "
            "learn; check the oracle, or draw more with rollout.samples"
        )
    if label.min() == label.max():
        raise InputError(
            f"the oracle gives all {len(label)} samples of the base the same label, "
            f"{label[0]:.3g}: there is nothing to learn; check the oracle, or draw more with "
            "rollout.samples"
        )
    highest = initial.label.max()
    if highest < _HIGHEST:
        raise InputError(
            f"the highest label of {len(initial)} rollouts is {highest:.3g}, and 1 is what a "
            "control aims for: rescale the oracle, such as dividing its scores by their maximum "
            "(at most 1 after that), or draw more with rollout.samples"
        )
    return rate


@functools.lru_cache(8)
def _programs(
    objective: Objective, control: Control, settings: Train, plan: Plan
) -> tuple[Step, Step]:
    """A compiled step and evaluation, cached so that training resumed in the same process does not
    recompile.
    """
    terms = partial(objective.terms, control)
    return make_step(terms, control_optimizer(settings), plan), make_evaluation(terms, plan)


def _init(
    control: Control,
    settings: Train,
    seed: int,
    prior: float,
    log_rates: np.ndarray | None,
    base_params: dict,
) -> TrainState:
    params = control.init(jax.random.key(seed), base_params, prior, log_rates)
    return init_state(params, control_optimizer(settings), settings.held_out > 0)
