"""What changes without a new program: how much control, the seed, the number of samples."""

import jax
import pytest
from support import tiny_run

import dinado_jax

PROMPTS = ["dog chase kite ="]


@pytest.fixture(scope="module")
def model(finished_run, tmp_path_factory):
    with tiny_run.quick_compilation(tmp_path_factory):
        yield dinado_jax.load_run(finished_run)


@pytest.fixture
def compiled():
    """The number of programs compiled so far, or read from the cache of the tests, as it grows."""
    programs = []

    def note(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            programs.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield lambda: len(programs)
    jax.monitoring.unregister_event_duration_listener(note)


TILTS = {
    "strength": [{"strength": each} for each in (0.3, 0.0, 0.7, 1.0, 2.0, 5.0)],
    "target_rate": [{"target_rate": each} for each in (0.0, 0.4, 0.9)],
    "reject": [{"reject": each} for each in (0.01, 0.3)],
    "all": [{"strength": x, "target_rate": x, "reject": x / 9} for x in (0.2, 0.6, 0.8)],
}


@pytest.mark.parametrize("tilts", TILTS.values(), ids=TILTS)
def test_another_value_of_a_tilt(model, compiled, tilts):
    first, *others = (model.tilted(**tilt) for tilt in tilts)
    made = [dinado_jax.generate(first, PROMPTS, samples=4)]
    before = compiled()
    assert before  # the counter counts
    made += [dinado_jax.generate(other, PROMPTS, samples=4) for other in others]
    assert compiled() == before
    scores = [sum(one.log_probs.sum() for one in each) for each in made]
    assert len(set(scores)) == len(scores)  # each is another distribution


def test_parts_of_a_product_may_differ(model, compiled):
    def generate(first, second):
        parts = model.tilted(strength=first), model.tilted(strength=second)
        return dinado_jax.generate(dinado_jax.compose(*parts), PROMPTS)

    generate(0.5, 2.0)
    before = compiled()
    generate(0.7, 1.5)
    generate(1.0, 1.0)
    assert compiled() == before


@pytest.mark.parametrize("tilt", [None, 0.5], ids=["one pass", "base beside"])
def test_another_seed_and_other_numbers_of_samples(model, compiled, tilt):
    tilted = model.tilted(strength=tilt) if tilt else model
    one, *_ = dinado_jax.generate(tilted, PROMPTS)
    before, texts = compiled(), {one.text}
    for seed in range(1, 9):
        texts |= {each.text for each in dinado_jax.generate(tilted, PROMPTS, seed=seed)}
    for samples in (2, 3, 5, 8):
        made = dinado_jax.generate(tilted, PROMPTS, samples=samples)
        assert made[0].text == one.text and len(made) == samples
    for count in (1, 2, 4):
        dinado_jax.generate(tilted, [*PROMPTS, "cat ="] * count)
    assert compiled() == before and len(texts) > 4


def test_other_strengths_of_beams_and_scores(model, compiled):
    def found(strength):
        tilted = model.tilted(strength=strength)
        dinado_jax.beam_search(tilted, PROMPTS, beams=2)
        return dinado_jax.score(tilted, PROMPTS, ["the dog ."])

    found(0.5)
    before = compiled()
    found(0.7)
    found(1.0)
    assert compiled() == before
