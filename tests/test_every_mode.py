"""Every way to decode, under every control, against brute force in a world that can be enumerated.

Texts of at most three words of four, after three prompts of different lengths. C says whether a
text has the last word of its own prompt, so that every row has a constraint of its own. Of each
control q is written down in float64 for all next tokens of all texts; of a guide that holds the
exact R* it is p C / R0.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny, world
from support.refusal import error_of
from support.world import CONTINUATIONS, EOS, MODEL, N, V
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dinado_jax.automata import progress
from dinado_jax.automata.compiled import conjunctions
from dinado_jax.automata.conjunction import stack
from dinado_jax.constraints import contains
from dinado_jax.controls.state import AUTOMATA, StateReader
from dinado_jax.controls.state_table import StateTable
from dinado_jax.data.batch import rows_of
from dinado_jax.data.prompts import PromptSet, TokenizedPrompts
from dinado_jax.decoding.batching import restore_order
from dinado_jax.decoding.methods import Method
from dinado_jax.decoding.refill import iter_refilled
from dinado_jax.decoding.sampler import Sampler
from dinado_jax.guarantee import guarantee
from dinado_jax.guides.protocol import NextValues
from dinado_jax.language_model import Base, Composed, Controlled, compose
from dinado_jax.models.codec import Codec
from dinado_jax.ops import bernoulli

pytestmark = pytest.mark.usefixtures("compiled_quickly")

WORDS = ("<end>", "a", "b", "c", "d")
PROMPTS = ["c", "b d a", "d"]
IDS = [[EOS, *map(WORDS.index, prompt.split())] for prompt in PROMPTS]
WANTED = [ids[-1] for ids in IDS]
DRAWS, SETS, PARTICLES = 2000, 400, 8
# Of the noise in parameters: so large that q is not p, so small that few draws see every text.
SCALE = {"nado": 0.6, "soft-low_rank": 0.15, "merge": 0.1, "clamped-merge": 0.15}
RATES = [1.0, 0.1, 0.2, 0.4]  # of the table of the state, by tokens left
Text = tuple[int, ...]


class LastWord:
    """C, and its automata."""

    def __call__(self, prompts, texts):
        pairs = zip(prompts, texts, strict=True)
        return [float(prompt.split()[-1] in text.split()) for prompt, text in pairs]

    def automata(self, prompt):
        return _automata(prompt.split()[-1])


@functools.cache
def _automata(word):
    return contains(word).automata("")


@functools.cache
def base() -> Base:
    known = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="d"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = {"bos_token": WORDS[0], "eos_token": WORDS[0]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=known, **ends)
    return Base(MODEL, world.base_params(), None, Codec(tokenizer, (EOS,), EOS), N)


# By brute force. A table has what belongs to every next token of every row: [prompts, rows, N, V]


def text_of(row) -> Text:
    """Up to and with its end."""
    row = tuple(int(token) for token in row)
    return row[: row.index(EOS) + 1] if EOS in row else row


TEXTS = sorted({text_of(row) for row in CONTINUATIONS})


def row_of(text: Text) -> int:
    """The first that begins so."""
    return sum(token * V ** (N - 1 - i) for i, token in enumerate(text))


@functools.cache
def log_p() -> np.ndarray:
    parts = world.control("merge"), world.base_params(), params_of("merge")
    return np.stack([world.exact(*parts, prompt)[0] for prompt in IDS])


@functools.cache
def r_star(number: int, text: Text) -> float:
    """The probability under p that C holds of what a prompt's text becomes."""
    text = text_of(text)
    if len(text) == N or EOS in text:
        return float(WANTED[number] in text)
    p = np.exp(log_p()[number, row_of(text), len(text)])
    return sum(p[v] * r_star(number, (*text, v)) for v in range(V))


def rate_of_state(number: int, text: Text) -> float:
    """What a table says that knows whether the word is there, and if not, in how many tokens."""
    if WANTED[number] in text:
        return 1.0
    return np.exp(-100.0) if EOS in text or len(text) == N else RATES[N - len(text)]


def log_table(after: Callable[[int, Text], float]) -> np.ndarray:
    rows = [tuple(row) for row in CONTINUATIONS.tolist()]
    values = [
        [[[after(i, (*row[:t], v)) for v in range(V)] for t in range(N)] for row in rows]
        for i in range(len(PROMPTS))
    ]
    with np.errstate(divide="ignore"):
        return np.log(values)


def params_of(kind: str, seed: int = 0) -> dict:
    return world.params(kind, SCALE[kind], seed)


def added_by(kind: str, seed: int = 0, form: str = "", **tilt) -> np.ndarray:
    """What a control adds to log p; in another form than its own, if one is given."""
    control = world.control(kind)
    control = dataclasses.replace(control, form=form or control.form)
    parts = control, world.base_params(), params_of(kind, seed)
    of_prompts = [world.exact(*parts, prompt) for prompt in IDS]
    return np.stack([world.tilted(log_r, log_v, **tilt) for _, log_v, log_r in of_prompts])


@functools.partial(jax.jit, static_argnums=0)
def _log_policy(control, params, batch):
    return control.log_policy(world.base_params(), params, batch)


def of_whole_rows(control, params) -> np.ndarray:
    """By the parallel pass of training, which reads rows together with their automata."""
    automata = [LastWord().automata(prompt) for prompt in PROMPTS]
    known, table = stack(conjunctions(automata, base().codec, V)), np.zeros(log_p().shape)
    for number, prompt in enumerate(IDS):
        rows = world.batch(prompt)
        own = {AUTOMATA: rows_of(known, np.full(len(rows.tokens), number))}
        rows = dataclasses.replace(rows, condition=own)
        log_q = np.asarray(_log_policy(control, params, rows))[:, world.targets(prompt)]
        for row, of_row in zip(CONTINUATIONS.tolist(), log_q):
            for t in range(N):
                first = row_of(tuple(row[:t]))
                table[number, first : first + V ** (N - t), t, row[t]] = of_row[t]
    return table


# Controls, each with its log q up to a constant per prefix


class Exact(NamedTuple):
    """A guide that looks R* up."""

    single_pass: bool = False

    def decode_params(self, params):
        return params

    def prefill(self, params, base_params, base, prompts, samples, steps):
        first = jnp.asarray(prompts.condition["first"])
        state = {"row": first, "read": jnp.zeros_like(first)}
        rows = jax.tree.map(lambda x: jnp.repeat(x, samples, 0), state)
        return self._values(params, state), rows

    def step(self, params, base_params, base, tokens, state):
        scale = jnp.array([*(V ** (N - 1 - t) for t in range(N)), 0])[state["read"]]
        read = jnp.minimum(state["read"] + 1, N)
        state = {"row": state["row"] + tokens * scale, "read": read}
        return self._values(params, state), state

    def _values(self, log_r, state):
        after = log_r[state["row"], jnp.minimum(state["read"], N - 1)]
        value = jnp.zeros(len(after))
        return NextValues(value, after, bernoulli.logit(value), bernoulli.logit(after))


class Case(NamedTuple):
    model: Base | Controlled | Composed
    prompts: PromptSet
    scores: np.ndarray


def exact(strength: float = 1.0) -> Case:
    log_r = log_table(r_star)
    params = jnp.float32(log_r.reshape(-1, N, V))
    model = Controlled(base(), Exact(), params).tilted(strength=strength)
    first = {"first": np.arange(len(PROMPTS), dtype=np.int32) * len(CONTINUATIONS)}
    return Case(model, PromptSet(PROMPTS, condition=first), log_p() + strength * log_r)


def trained(kind: str, seed: int = 0, **tilt) -> Case:
    model = Controlled(base(), world.control(kind), params_of(kind, seed))
    model = model.tilted(**tilt) if tilt else model
    return Case(model, PromptSet(PROMPTS), log_p() + added_by(kind, seed, **tilt))


def composed() -> Case:
    some, other = trained("soft-low_rank", strength=0.5), trained("nado", seed=1)
    scores = some.scores + other.scores - log_p()
    return Case(compose(some.model, other.model), PromptSet(PROMPTS), scores)


def with_state() -> Case:
    control = world.control("merge")
    control = dataclasses.replace(control, state=StateReader(control.model.width, N))
    params = tiny.noisy(control.init(jax.random.key(1), world.base_params(), 0.3), 0.1)
    model = Controlled(base(), control, params, automata_of=LastWord().automata)
    return Case(model, PromptSet(PROMPTS), of_whole_rows(control, params))


def state_table() -> Case:
    guide = StateTable(MODEL, StateReader(MODEL.width, N))
    rates = np.ones((N + 1, progress.COUNT), np.float32)
    rates[:, 6] = RATES[: N + 1]  # where one word is missing
    arrays = guide.init(np.log(rates))
    model = Controlled(base(), guide, arrays, automata_of=LastWord().automata)
    return Case(model, PromptSet(PROMPTS), log_p() + log_table(rate_of_state))


def mask() -> np.ndarray:
    return log_table(lambda number, text: float(r_star(number, text) > 0))


def guaranteed() -> Case:
    model, prompts = guarantee(base(), PROMPTS, N, LastWord())
    return Case(model, prompts, log_p() + mask())


def guaranteed_control() -> Case:
    control, given = trained("clamped-merge", strength=0.5), guaranteed()
    both = compose(control.model, given.model)
    return Case(both, given.prompts, control.scores + mask())


CASES = {
    "base": lambda: Case(base(), PromptSet(PROMPTS), log_p()),
    "exact": exact,
    "exact, strength": lambda: exact(0.5),
    "nado": lambda: trained("nado"),
    "soft, target rate": lambda: trained("soft-low_rank", target_rate=0.4),
    "merge": lambda: trained("merge"),
    "merge, reject": lambda: trained("merge", strength=1.5, reject=0.8),
    "hard": lambda: trained("clamped-merge"),
    "composed": composed,
    "state": with_state,
    "state table": state_table,
    "guarantee": guaranteed,
    "control, guarantee": guaranteed_control,
}
IN_PARTICLES = [name for name in CASES if name not in ("base", "merge, reject")]
case = functools.cache(lambda name: CASES[name]())


@functools.cache
def log_probs(name: str) -> list[dict[Text, float]]:
    """log q of every text, of each prompt; those of probability 0 are left out."""
    out = []
    for table in case(name).scores:
        own = {}
        for text in TEXTS:
            steps = [table[row_of(text[:t]), t] for t in range(len(text))]
            below = [step - np.logaddexp.reduce(step) for step in steps if step.max() > -np.inf]
            value = sum(step[token] for step, token in zip(below, text))
            if value > -np.inf and len(below) == len(text):
                own[text] = float(value)
        assert sum(map(np.exp, own.values())) == pytest.approx(1, abs=1e-6)
        out.append(own)
    return out


@pytest.mark.parametrize("name", [name for name in CASES if name != "base"])
def test_a_control_is_not_the_base(name):
    for own, of_base in zip(log_probs(name), log_probs("base"), strict=True):
        moved = sum(abs(np.exp(own.get(text, -np.inf)) - np.exp(of_base[text])) for text in TEXTS)
        assert moved / 2 > 0.04
    ruled_out = {"exact", "exact, strength", "merge, reject", "guarantee", "control, guarantee"}
    assert (len(log_probs(name)[0]) < len(TEXTS)) == (name in ruled_out)


def assert_drawn_from(name: str, number: int, texts: list[Text]):
    probs = {text: np.exp(value) for text, value in log_probs(name)[number].items()}
    assert set(texts) <= probs.keys()
    assert world.p_value(texts, probs) > 1e-4


def text_in_words(text: Text) -> str:
    return " ".join(WORDS[token] for token in text if token != EOS)


def each_prompt(made: list) -> list[list]:
    size = len(made) // len(PROMPTS)
    return [made[i * size : (i + 1) * size] for i in range(len(PROMPTS))]


@pytest.mark.parametrize("name", CASES)
def test_scores(name):
    model, prompts, _ = case(name)
    each = prompts.repeated(len(TEXTS))
    found = model.score(each, [text_in_words(text) for text in TEXTS] * len(PROMPTS), batch=256)
    for number, own in enumerate(each_prompt(found)):
        log_q = log_probs(name)[number]
        for text, steps in zip(TEXTS, own, strict=True):
            value = steps[: len(text)].sum()
            if text in log_q:
                assert value == pytest.approx(log_q[text], abs=3e-4)
            else:
                assert not value > -50


@pytest.mark.parametrize("name", CASES)
def test_samples(name):
    model, prompts, _ = case(name)
    made = model.generate(prompts, max_new_tokens=N, samples=DRAWS, seed=5, batch=4096)
    for number, own in enumerate(each_prompt(made)):
        assert {one.prompt for one in own} == {PROMPTS[number]}
        texts = [tuple(one.tokens.tolist()) for one in own]
        assert_drawn_from(name, number, texts)
        log_q, log_base = log_probs(name)[number], log_probs("base")[number]
        for one, text in zip(own, texts):
            assert one.text == text_in_words(text)
            assert one.log_prob == pytest.approx(log_q[text], abs=3e-4)
            assert one.log_probs_base.sum() == pytest.approx(log_base[text], abs=3e-4)


@pytest.mark.parametrize("name", CASES)
def test_samples_of_rows_that_are_refilled(name):
    """As the stages of a run draw them."""
    model, prompts = case(name).model.for_prompts(case(name).prompts)
    tokens = TokenizedPrompts(IDS, prompts.condition)
    sampler = Sampler(model.policy, Method(), (EOS,), N, 500)
    parts = iter_refilled(sampler, model.variables, tokens, jax.random.key(7), 2048)
    drawn = restore_order(*zip(*(part[:2] for part in parts)))
    texts = [tuple(row[:n].tolist()) for row, n in zip(drawn.tokens, drawn.length)]
    for number, own in enumerate(each_prompt(texts)):
        assert_drawn_from(name, number, own)


@pytest.mark.parametrize("name", CASES)
def test_greedy(name):
    model, prompts, scores = case(name)
    made = model.generate(prompts, max_new_tokens=N, temperature=0)
    for one, table in zip(made, scores, strict=True):
        text = ()
        while len(text) < N and EOS not in text:
            text = (*text, int(table[row_of(text), len(text)].argmax()))
        assert tuple(one.tokens.tolist()) == text


# What controls add to log p of a text, at its last token. A search follows R of a split form from
# that of the prompt on (`Control.as_twist`), as the clamped form does, but under a target rate.
ADDED = {
    "nado": lambda: added_by("nado"),
    "soft, target rate": lambda: added_by("soft-low_rank", target_rate=0.4),
    "merge, reject": lambda: added_by("merge", form="clamped", strength=1.5, reject=0.8),
    "composed": lambda: (
        added_by("soft-low_rank", form="clamped", strength=0.5) + added_by("nado", seed=1)
    ),
    "control, guarantee": lambda: case("control, guarantee").scores - log_p(),
}
added = functools.cache(lambda name: ADDED[name]())


def of_last_token(name: str, number: int, text: Text) -> float:
    at = number, row_of(text[:-1]), len(text) - 1, text[-1]
    return log_probs("base")[number][text] + added(name)[at]


# What ranks beams, log p + log R of a whole text, tilted; q itself where R is consistent.
RANKED: dict[str, Callable[[int, Text], float]] = {
    **{name: functools.partial(of_last_token, name) for name in ADDED},
    **{
        name: lambda number, text, name=name: log_probs(name)[number][text]
        for name in ("base", "exact", "merge", "hard", "state")
    },
    **dict.fromkeys(
        ("exact, strength", "guarantee"), lambda number, text: log_probs("base")[number][text]
    ),
    "state table": lambda number, text: (
        log_probs("base")[number][text] + np.log(rate_of_state(number, text))
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_beams(name):
    """So many that none is lost: they are the first of all texts."""
    model, prompts, _ = case(name)
    how = {"beams": 128, "hypotheses": 6, "length_penalty": 0.0, "batch": 512}
    made = model.beam_search(prompts, max_new_tokens=N, **how)
    for number, own in enumerate(each_prompt(made)):
        log_q = log_probs(name)[number]
        for one in own:
            assert one.log_prob == pytest.approx(log_q[text_of(one.tokens)], abs=3e-4)
        by = {text: RANKED[name](number, text) for text in log_q}
        best = sorted(by, key=by.__getitem__, reverse=True)[:6]
        assert [tuple(one.tokens.tolist()) for one in own] == best


@pytest.mark.parametrize("name", IN_PARTICLES)
def test_particles(name):
    """R0 of a set times any feature of the chosen text has the mean of the feature under p C."""
    model, prompts, _ = case(name)
    how = {"particles": PARTICLES, "samples": SETS, "max_new_tokens": N, "batch": 4096}
    made = model.sample_by_particles(prompts, LastWord(), seed=2, **how)
    rng = np.random.default_rng(0)
    for number, own in enumerate(each_prompt(made)):
        p = np.exp([log_probs("base")[number][text] for text in TEXTS])
        p_c = p * [WANTED[number] in text for text in TEXTS]
        chosen = [TEXTS.index(tuple(one.tokens.tolist())) for one in own]
        success = np.array([one.label * np.exp(-one.excess) for one in own])
        features = rng.random((6, len(TEXTS))) < np.array([[1.0, 0.5, 0.5, 0.3, 0.3, 0.1]]).T
        estimates = success * features[:, chosen]
        error = estimates.std(1, ddof=1) / np.sqrt(SETS)
        assert (np.abs(estimates.mean(1) - features @ p_c) < 4.5 * error + 1e-4).all()
        if name == "exact":
            np.testing.assert_allclose(success, p_c.sum(), rtol=1e-3)
            q = {text: value / p_c.sum() for text, value in zip(TEXTS, p_c)}
            assert world.p_value([TEXTS[i] for i in chosen], q) > 1e-4


def test_what_a_mode_cannot_do_is_refused():
    model, prompts, _ = case("guarantee")
    told = error_of(lambda: model.generate(prompts, max_new_tokens=N - 1))
    assert told.startswith("max_new_tokens = 2: the guarantee was made for texts of 3 tokens")
    told = error_of(lambda: model.beam_search(prompts, max_new_tokens=1))
    assert told.startswith("max_new_tokens = 1: the guarantee was made")
    assert "these prompts have no constraints" in error_of(model.generate, PROMPTS)
    assert "target_rate = 0.5: every text under" in error_of(lambda: model.tilted(target_rate=0.5))
    other, _ = guarantee(base(), PROMPTS[:1], N, LastWord())
    assert "two guarantees at once" in error_of(compose, model, other)
    rejecting = case("merge, reject").model
    assert "reject = 0.8 rules out" in error_of(
        rejecting.sample_by_particles, prompts.texts, LastWord()
    )
    assert "merge control, untilted, is a base" in error_of(rejecting.as_base)
    state = case("state").model
    assert "control with state reads" in error_of(state.as_base)
