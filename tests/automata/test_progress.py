"""The class of every next token, against the definition on all texts of a few tokens."""

import itertools

import jax
import jax.numpy as jnp

from dinado_jax.automata import progress
from dinado_jax.automata.automaton import explore
from dinado_jax.automata.conjunction import conjunction, stack
from dinado_jax.automata.sentence_end import SENTENCE_END
from dinado_jax.automata.tokens import Vocabulary, token_automaton

TEXTS = ["", "a", "b", "ab", "c", "ba", ".", 'b."', '"']  # the first one ends a text


def containing(word: str):
    """Texts that contain a word."""

    def step(state: str, symbol: str) -> str:
        return state if word in state else (state + symbol)[-max(1, len(word)) :]

    return explore("", step, lambda state: word in state, "abcd")


# No token brings both words of the second one nearer.
PROMPTS = [("ab",), ("aa", "c"), ("ca", "b", "aba")]
EXACT = [True, True, False]
AUTOMATA = [[containing(word) for word in words] for words in PROMPTS]
VOCABULARY = Vocabulary.of(TEXTS)
ENDS = token_automaton(SENTENCE_END, VOCABULARY)
ROWS = stack(
    [
        conjunction([token_automaton(each, VOCABULARY) for each in own], [0], ENDS)
        for own in AUTOMATA
    ]
)


def least(words: tuple[str, ...], text: str) -> int:
    """Tokens until a text contains all words."""
    count, texts = 0, {text}
    while not any(all(word in each for word in words) for each in texts):
        count, texts = count + 1, {each + token for each in texts for token in TEXTS[1:]}
    return count


def check(found: int, words: tuple[str, ...], text: str, left: int, exact: bool) -> None:
    possible = least(words, text) <= left
    if found == progress.IMPOSSIBLE:
        assert not possible
        return
    assert possible or not exact
    distances = [least((word,), text) for word in words]
    assert max(distances) <= left
    begun = any(0 < now < least((word,), "") for word, now in zip(words, distances))
    closed = text.rstrip('"').endswith(".")
    assert found == 2 + 4 * sum(now > 0 for now in distances) + 2 * begun + closed


def test_classes_of_prefixes_and_of_next_tokens():
    read = list(itertools.product(range(1, len(TEXTS)), repeat=2))
    count = len(PROMPTS)
    for tokens in [(), *read]:
        states = progress.start_states(ROWS)
        for token in tokens:
            states = progress.next_states(ROWS, states, jnp.full(count, token))
        text = "".join(TEXTS[token] for token in tokens)
        for most in range(4):
            left = jnp.full((count, 1), most)
            now = jax.jit(progress.of_prefixes)(ROWS, states[:, None], left)
            after = jax.jit(progress.of_next_tokens)(ROWS, states[:, None], left)
            assert now.shape == (count, 1) and after.shape == (count, 1, len(TEXTS))
            for prompt, (words, exact) in enumerate(zip(PROMPTS, EXACT)):
                check(int(now[prompt, 0]), words, text, most, exact)
                satisfied = all(word in text for word in words)
                assert after[prompt, 0, 0] == (progress.ENDS if satisfied else progress.IMPOSSIBLE)
                for token, found in zip(TEXTS[1:], after[prompt, 0, 1:].tolist()):
                    check(found, words, text + token, most - 1, exact)


def test_classes_are_as_many_as_said():
    """However many automata a prompt has."""
    many = [token_automaton(containing(word), VOCABULARY) for word in ("a", "b", "c")] * 5
    rows = stack([conjunction(many, [0], ENDS)])
    after = progress.of_next_tokens(rows, progress.start_states(rows)[:, None], jnp.full((1, 1), 9))
    assert after.max() < progress.COUNT


def test_without_a_look_at_sentences_none_ends():
    rows = stack([conjunction([token_automaton(containing("a"), VOCABULARY)], [0])])
    after = progress.of_next_tokens(rows, progress.start_states(rows)[:, None], jnp.full((1, 1), 9))
    assert set(after[0, 0, 1:].tolist()) == {2, 6}
