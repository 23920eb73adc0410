"""The processor of examples/: transformers draws from our q, whatever the control."""

import dataclasses
import importlib.util
import subprocess
import sys

import jax
import numpy as np
import pytest
import support
from support import tiny, tiny_run

import dinado_jax
from dinado_jax.automata import progress
from dinado_jax.controls.make import make_control
from dinado_jax.controls.state import StateReader
from dinado_jax.controls.state_table import StateTable
from dinado_jax.data.batch import rows_of
from dinado_jax.data.prompts import PromptSet
from dinado_jax.data.sequences import sequences
from dinado_jax.decoding.score import score
from dinado_jax.language_model import Controlled
from dinado_jax.tasks.keyword.oracle import LEXICAL

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FILE = support.ROOT / "examples" / "transformers_processor.py"
PROMPTS = ["dog chase kite =", "cat push the big old box ="]
NEW = 6


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("transformers_processor", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(finished_run):
    return dinado_jax.load(finished_run / "sft" / "base")


@pytest.fixture(scope="module")
def torch_base(finished_run):
    return transformers.AutoModelForCausalLM.from_pretrained(finished_run / "sft" / "base")


def controlled(base, kind, *settings):
    """A control far from its first parameters."""
    control = make_control(tiny_run.config(f"control.kind={kind}", *settings), base.model)
    params = control.init(jax.random.key(1), base.params, 0.1)
    return Controlled(base, control, tiny.noisy(params, 0.3))


CONTROLS = {
    "soft": ("soft",),
    "nado": ("nado",),
    "merge": ("merge",),
    "hard": ("hard", "control.direction=soft"),
}


STATED = {"state": ("merge", "control.state=true", "rollout.oracle=lexical"), "state table": ()}


def stated(base, kind):
    """A control that reads what a text still lacks of its prompt's words."""
    if kind == "state":
        model = controlled(base, *STATED[kind])
    else:
        guide = StateTable(base.model, StateReader(base.model.width, NEW))
        rates = -3 * np.random.default_rng(0).random((NEW + 1, progress.COUNT), np.float32)
        model = Controlled(base, guide, guide.init(rates))
    return dataclasses.replace(model, automata_of=LEXICAL.automata)


@pytest.mark.parametrize("kind", [*CONTROLS, *STATED])
@pytest.mark.parametrize("how", [{"do_sample": True, "top_k": 0}, {"num_beams": 3}], ids=str)
def test_scores_are_log_q(example, base, torch_base, compiled_quickly, kind, how):
    made = stated(base, kind) if kind in STATED else controlled(base, *CONTROLS[kind])
    model = made.tilted(strength=1.5, target_rate=0.7)
    processor = example.ControlProcessor(model, PROMPTS, NEW)
    seen = []

    class Noting(transformers.LogitsProcessor):
        def __call__(self, input_ids, scores):
            seen.append((input_ids.numpy().copy(), scores.numpy().copy()))
            return scores

    torch.manual_seed(0)
    torch_base.generate(
        **processor.inputs(), **how, logits_processor=[processor, Noting()], max_new_tokens=NEW,
        num_return_sequences=3, pad_token_id=processor.codec.eos_id,
        eos_token_id=len(processor.codec.tokenizer) - 1,
    )  # fmt: skip
    assert len(seen) == NEW
    model, known = model.for_prompts(PromptSet(PROMPTS))
    tokens = seen[-1][0][:, processor.width :]
    for number, (ids, scores) in enumerate(seen):
        np.testing.assert_allclose(np.exp(scores).sum(1), 1, atol=1e-4)
        # What follows each row is scored by another path: whole rows at once.
        asked = [processor.tokens[row // 3] for row in range(6)]
        begun, token = ids[:, processor.width :], 7 * np.arange(6) + number
        targets = np.concatenate([begun, token[:, None]], 1).tolist()
        rows = sequences(asked, targets, processor.codec.eos_id, 24)
        rows = dataclasses.replace(rows, condition=rows_of(known.condition, np.arange(6) // 3))
        found = score(model.policy, model.variables, rows, 8)[np.arange(6), rows.length - 2]
        given = scores[np.arange(6), token]
        np.testing.assert_allclose(given, found, atol=1e-4, err_msg=f"token {number}")
    assert len({tuple(row) for row in tokens.tolist()}) > 1


def test_it_runs_from_a_shell(finished_run):
    command = [sys.executable, FILE, finished_run, PROMPTS[0], "--samples", "2"]
    done = subprocess.run(
        [*map(str, command), "--max-new-tokens", "4"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 2
    command[2] = FILE.parent
    wrong = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "no run folder" in wrong.stderr
