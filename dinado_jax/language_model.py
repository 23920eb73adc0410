"""Language models to decode from: the base, frozen, and the base under controls.

All have `base`, `policy` and `variables`, which is all that decoding needs, and `for_prompts`,
which adds what a control reads of the prompts at hand: they are `Decodable`s of generation.py.
"""

import dataclasses
import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax import generation, scoring
from dinado_jax.adapters.protocol import Adapter
from dinado_jax.automata.compiled import AutomataOf, conjunctions
from dinado_jax.automata.conjunction import stack
from dinado_jax.controls.control import Control
from dinado_jax.controls.control_file import Origin, write_control
from dinado_jax.controls.merge import Merge
from dinado_jax.controls.state import AUTOMATA
from dinado_jax.controls.state_table import StateTable
from dinado_jax.data.prompts import PromptSet, TokenizedPrompts
from dinado_jax.decoding.batching import check_prompts
from dinado_jax.decoding.policy import ModelPolicy, Policy
from dinado_jax.errors import InputError, quote
from dinado_jax.evaluation.of_model import evaluate
from dinado_jax.guides.constraint import Constraint
from dinado_jax.guides.guided import guided_policy, guided_variables
from dinado_jax.guides.hmm import HmmGuide
from dinado_jax.guides.prompt_values import prompt_values
from dinado_jax.guides.protocol import Guide
from dinado_jax.guides.tilt import NEUTRAL, Tilt
from dinado_jax.models.architectures import load_params, save_model
from dinado_jax.models.codec import Codec
from dinado_jax.models.hf_folder import fingerprint, locate
from dinado_jax.models.hub import push
from dinado_jax.models.protocol import BaseModel, PrefixModel
from dinado_jax.models.tokenizer import load_codec
from dinado_jax.scoring import PrefixValues
from dinado_jax.search.beams import beam_search
from dinado_jax.search.particles import sample_by_particles
from dinado_jax.utils.files import new_folder


class _Methods:
    """What every model can do: functions of other modules, of which it is the first argument."""

    generate = generation.generate
    beam_search = beam_search
    score = scoring.score
    evaluate = evaluate


@dataclasses.dataclass(frozen=True, repr=False)
class Base(_Methods):
    """A frozen language model p, with its tokenizer.

    `base.model.apply({"params": base.params}, tokens).logits` are the checkpoint's logits; p is
    their softmax over ids with text, without the model's `excluded_ids`.
    """

    model: BaseModel
    params: dict
    folder: Path
    known: Codec | None = None  # the tokenizer, where it has been loaded already
    max_new_tokens: int = 32  # the most that is drawn where nothing else is asked for
    name: str = ""  # on the hub or in a package; "" for one that was loaded by its path

    @property
    def codec(self) -> Codec:
        """The tokenizer, loaded when first asked for. InputError if it does not fit the model."""
        return self.known or self._loaded_codec

    @functools.cached_property
    def _loaded_codec(self) -> Codec:
        return load_codec(self.folder, self.model.vocab_size)

    def __repr__(self) -> str:
        return f"Base({self.model}; {_size(self.params)}; folder {self.folder})"

    @property
    def base(self) -> "Base":
        return self

    @property
    def prompt_template(self) -> str:
        """What `load_base` was given; "" for none."""
        template = self.known.template if self.known else None
        return template.text if template else ""

    @property
    def least_new_tokens(self) -> int:
        """How many a text may need: 1."""
        return 1

    def for_prompts(self, prompts: PromptSet) -> "tuple[Base, PromptSet]":
        """See `Controlled.for_prompts`: the base reads nothing of them."""
        return self, prompts

    def save(self, folder: str | Path) -> None:
        """Writes a folder that `load` and transformers both load."""
        save_base(Path(folder), self.model, self.params, self.codec)

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Saves it on the hub, see `models.hub.push`; `load(repo_id)` loads it."""
        return push(self.save, repo_id, private, token)

    def saved_folder(self) -> Path:
        """Returns its folder. InputError if its parameters are others than those there."""
        folder, dtype = locate(str(self.folder)), jnp.dtype(self.model.param_dtype)
        stored, tree = jax.tree.flatten(load_params(folder, self.model))
        own, own_tree = jax.tree.flatten(self.params)
        pairs = zip(stored, own)
        if tree != own_tree or not all(np.array_equal(np.asarray(a, dtype), b) for a, b in pairs):
            raise InputError(
                f"base has other parameters than its folder {folder}: save it, base.save(FOLDER), "
                "and give that folder"
            )
        return folder

    def for_search(self) -> "Base":
        """See `Controlled.for_search`."""
        return self

    @property
    def policy(self) -> ModelPolicy:
        return ModelPolicy(self.model)

    @property
    def variables(self) -> dict:
        return {"params": self.params}


@dataclasses.dataclass(frozen=True, repr=False)
class Controlled(_Methods):
    """A base under a trained control or another guide: its policy decodes the composed q."""

    base: Base
    control: Control | Guide
    params: Any
    tilt: Tilt = NEUTRAL  # how much of it is wanted
    automata_of: AutomataOf | None = None  # of a prompt, for a control that reads their states
    origin: Origin | None = None  # of a trained control
    beside_base: bool = False  # see `Composed`

    @property
    def policy(self) -> Policy:
        return self._alone.policy

    @functools.cached_property
    def variables(self) -> dict:
        return self._alone.variables

    @property
    def _alone(self) -> "Composed":
        return Composed((self,), self.beside_base)

    def __repr__(self) -> str:
        return f"Controlled({self._control}, {self.base!r})"

    @property
    def _control(self) -> str:
        name = type(self.control).__name__
        if isinstance(self.control, Control):
            direction = type(self.control.direction).__name__.lower()
            name = f"{direction} control, {self.control.form}"
        return f"{name}: {_size(self.params)}; {self.tilt}"

    def tilted(self, **changes: float) -> "Controlled":
        """The same control with another `Tilt`: strength, target_rate, reject.

        It is decoded beside its base whatever the values, so that one program serves all strengths,
        1 among them, for which the model itself may need one pass per token instead of two.

        Raises:
          InputError: for any other name, and for a target rate of a guarantee, which is 1.
        """
        known = [field.name for field in dataclasses.fields(Tilt)]
        for name in changes:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
                raise InputError(f"no such tilt, {quote(name)}: {hint}")
        tilt = dataclasses.replace(self.tilt, **changes)
        if isinstance(self.control, _GUARANTEES) and tilt.target_rate < 1:
            raise InputError(
                f"target_rate = {tilt.target_rate}: every text under a guarantee satisfies it, aim "
                "at a rate with a trained control"
            )
        return dataclasses.replace(self, tilt=tilt, beside_base=True)

    @property
    def least_new_tokens(self) -> int:
        """See `Composed.least_new_tokens`."""
        return self._alone.least_new_tokens

    def for_prompts(self, prompts: PromptSet) -> tuple[Self, PromptSet]:
        """The model with the automata of these prompts, and the prompts with their numbers, for a
        control that reads the state of its oracle; others as they are. InputError for prompts
        without the condition that a guarantee reads.
        """
        (part,), prompts = _for_prompts((self,), prompts)
        return part, prompts

    def for_search(self) -> "Composed":
        """The same distribution, decoded so that beams are ranked by log p + log R of their
        prefixes (decoding/beam.py). InputError for an HMM with a weight, which has no such R.
        """
        return self._alone.for_search()

    sample_by_particles = sample_by_particles

    def for_particles(self) -> "Composed":
        """The same distribution, decoded with the base beside it and with `Control.as_twist`, as
        particles need it. InputError for a tilt with `reject`, under which their weights would be
        wrong.
        """
        return self._alone.for_particles()

    @property
    def _reads_state(self) -> bool:
        control = self.control
        return isinstance(control, StateTable) or (
            isinstance(control, Control) and control.state is not None
        )

    def prompt_values(self, prompts: Sequence[str], batch: int = 64) -> np.ndarray:
        """Computes V(prompt), the success rate of the base that the control predicts: [N].

        The tilt has no effect on it.

        Args:
          prompts: N texts, at least one.
          batch: of them read at once.
        """
        codec = self.base.codec
        model, conditioned = self.for_prompts(PromptSet(prompts))
        tokens = TokenizedPrompts(codec.prompts(prompts), conditioned.condition)
        check_prompts(self.policy, tokens, 1)
        parts = (self.base.model, self.control, self.base.params, model.params)
        return prompt_values(*parts, tokens, codec.stop_ids[0], batch)

    def values(self, prompt: str, text: str, *, finished: bool = True) -> PrefixValues:
        """Computes R after each token of a text, see `values_of` for many.

        Args:
          prompt: that the text continues.
          text: as the base's tokenizer splits it.
          finished: whether it ends there, so that the stop token is scored too.
        """
        (found,) = self.values_of([prompt], [text], finished=[finished])
        return found

    values_of = scoring.values
    alternatives = scoring.alternatives

    def save(self, folder: str | Path) -> None:
        """Writes the trained control, without its base: control.json and control.safetensors, for
        `load_control`. A new folder, or an empty one; whole or not at all.

        Raises:
          InputError: for a guide that was not trained here, for a base that is not the one in its
            folder, and for a folder with files.
        """
        if self.origin is None or not isinstance(self.control, Control):
            raise InputError("only a trained control is saved, what fit and load_run return")
        base, settings = self.base, self.origin.settings
        there = base.saved_folder()
        own = dataclasses.replace(
            settings.base,
            path=base.name or str(there.resolve()),
            dtype=base.model.dtype,
            param_dtype=base.model.param_dtype,
            prompt_template=base.prompt_template,
        )
        how = dataclasses.replace(
            settings.decode, max_new_tokens=base.max_new_tokens, **dataclasses.asdict(self.tilt)
        )
        origin = dataclasses.replace(
            self.origin, settings=dataclasses.replace(settings, base=own, decode=how)
        )
        with new_folder(Path(folder)) as partial:
            write_control(
                partial, self.control, self.params, base.params, origin, fingerprint(there)
            )

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Saves the control on the hub, see `models.hub.push`; `load(repo_id)` loads it. Its base
        has to be there already, or be given to `load_control`.
        """
        return push(self.save, repo_id, private, token)

    def delta(self) -> tuple[Adapter, Any]:
        """The adapter that changes the base into q, and its parameters.

        Raises:
          InputError: unless q is the base with its parameters changed.
        """
        direction = self.control.direction if isinstance(self.control, Control) else None
        if self._reads_state:
            raise InputError(
                "a control with state reads what a text still lacks, which no base does: train "
                "one with control.state=false"
            )
        changed = not self.control.single_pass or self.tilt != NEUTRAL
        if not isinstance(direction, Merge) or changed:
            raise InputError(
                "only a merge control, untilted, is a base of its own: train one with "
                "control.kind=merge"
            )
        return direction.adapter, self.params["direction"]

    def as_base(self) -> Base:
        """q as a base of its own, for a second control: what that one learns is exact for both
        oracles.

        Raises:
          InputError: unless q is the base with its parameters changed, in float32.
        """
        adapter, delta = self.delta()
        if self.base.model.param_dtype != "float32":
            raise InputError("the base's parameters are not float32: load the run in float32")
        params = adapter.merge(self.base.params, delta)
        if params is None:
            raise InputError("this control's adapter cannot be merged into a base: train another")
        model = cast(Merge, cast(Control, self.control).direction).model
        return dataclasses.replace(self.base, model=model, params=params)


@dataclasses.dataclass(frozen=True, repr=False)
class Composed(_Methods):
    """A base under several controls at once: q proportional to p prod_k f_k(R_k)."""

    parts: tuple[Controlled, ...]
    beside_base: bool = False  # also where q is a single pass of a model

    def __repr__(self) -> str:
        return f"Composed({' + '.join(part._control for part in self.parts)}, {self.base!r})"

    @property
    def base(self) -> Base:
        """That with room for every part."""
        return min((part.base for part in self.parts), key=lambda base: base.model.context_length)

    @property
    def policy(self) -> Policy:
        return guided_policy(self.base.model, self._guides, self._tilts, self.beside_base)

    @functools.cached_property
    def variables(self) -> dict:
        """What `policy` reads. InputError for a control that reads the state of its oracle, unless
        it comes from `for_prompts`.
        """
        if any(part._reads_state and AUTOMATA not in part.params for part in self.parts):
            raise InputError(
                "a control with state reads automata of its prompts: take the variables of the "
                "model that for_prompts returns"
            )
        params = [part.params for part in self.parts]
        return guided_variables(
            self.base.params, self._guides, params, self._tilts, self.beside_base
        )

    @property
    def least_new_tokens(self) -> int:
        """How many a text may need: those of a guarantee, or 1."""
        guides = (guide for guide in self._guides if isinstance(guide, _GUARANTEES))
        return max((guide.max_new_tokens for guide in guides), default=1)

    def for_prompts(self, prompts: PromptSet) -> "tuple[Composed, PromptSet]":
        """See `Controlled.for_prompts`."""
        parts, prompts = _for_prompts(self.parts, prompts)
        return Composed(parts, self.beside_base), prompts

    def for_search(self) -> "Composed":
        """See `Controlled.for_search`."""
        for guide in self._guides:
            if isinstance(guide, HmmGuide) and guide.weight is not None:
                raise InputError(
                    f"weight = {guide.weight:g} of an HMM makes no R of whole prefixes, by which "
                    "beams are ranked: leave it out"
                )
        return self._of_twists

    sample_by_particles = sample_by_particles

    def for_particles(self) -> "Composed":
        """See `Controlled.for_particles`."""
        for tilt in self._tilts:
            if tilt.reject:
                raise InputError(
                    f"reject = {tilt.reject} rules out texts that the oracle accepts: particles "
                    "need reject=0"
                )
        return dataclasses.replace(self._of_twists, beside_base=True)

    @property
    def _of_twists(self) -> "Composed":
        return Composed(tuple(map(_as_twist, self.parts)), self.beside_base)

    @property
    def _guides(self) -> list[Guide]:
        return [part.control for part in self.parts]

    @property
    def _tilts(self) -> list[Tilt]:
        return [part.tilt for part in self.parts]


LanguageModel = Base | Controlled | Composed
Part = TypeVar("Part", bound=Controlled)
_GUARANTEES = (Constraint, HmmGuide)


def _for_prompts(parts: tuple[Part, ...], prompts: PromptSet) -> tuple[tuple[Part, ...], PromptSet]:
    """See `Controlled.for_prompts`. Prompts alike for all parts share a number."""
    for part in parts:
        known = prompts.condition or {}
        if isinstance(part.control, _GUARANTEES) and part.control.key not in known:
            raise InputError(
                "these prompts have no constraints: give those that guarantee returned with the "
                "model"
            )
    readers = [part.automata_of for part in parts if part._reads_state and part.automata_of]
    if not readers:
        return parts, prompts
    number: dict[tuple, int] = {}
    own = [
        number.setdefault(tuple(tuple(read(text)) for read in readers), len(number))
        for text in prompts.texts
    ]
    codec, vocab_size = parts[0].base.codec, parts[0].base.model.vocab_size
    of_reader = iter(zip(*number))
    known = []
    for part in parts:
        if part._reads_state and part.automata_of:
            automata = stack(conjunctions(next(of_reader), codec, vocab_size))
            params = {**part.params, AUTOMATA: jax.device_put(automata)}
            part = dataclasses.replace(part, params=params)
        known.append(part)
    condition = {**(prompts.condition or {}), AUTOMATA: np.array(own, np.int32)}
    return tuple(known), dataclasses.replace(prompts, condition=condition)


def _size(params: dict) -> str:
    leaves = jax.tree.leaves(params)
    dtypes = sorted({str(leaf.dtype) for leaf in leaves})
    return f"{sum(leaf.size for leaf in leaves):,} parameters in {', '.join(dtypes)}"


def _as_twist(part: Controlled) -> Controlled:
    """See `Control.as_twist`. A target rate reads the level of R, which it changes."""
    if not isinstance(part.control, Control) or part.tilt.target_rate < 1:
        return part
    return dataclasses.replace(part, control=part.control.as_twist)


def require_base(value: Any) -> None:
    """InputError for what is not a `Base`."""
    if not isinstance(value, Base):
        of_control = ", its .base" if isinstance(value, Controlled | Composed) else ""
        raise InputError(f"base = {quote(value)}: give a loaded base{of_control}")


def compose(*parts: Controlled) -> Composed:
    """Several controls of one base at once, each with the strength of its tilt; approximate where
    the oracles depend on each other under p (`Controlled.as_base` is the exact way).

    InputError if there are none, if their bases or prompt templates differ, and for two
    guarantees.
    """
    if not parts or not all(isinstance(part, Controlled) for part in parts):
        raise InputError("compose needs controlled models, one or more: give what load_run returns")
    # Their conditions may have the same name.
    if len({id(part.params) for part in parts if isinstance(part.control, _GUARANTEES)}) > 1:
        raise InputError(
            "two guarantees at once: make one of dinado_jax.constraints.AllOf(one, other)"
        )
    first = parts[0].base
    for other in (part.base for part in parts[1:]):
        same = _same_function(other.model, first.model) and all(
            bool((a == b).all())
            for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(other.params))
        )
        if not same:
            raise InputError("these controls have different bases: train them on the same one")
        if other.prompt_template != first.prompt_template:
            raise InputError(
                "these controls have different prompt templates: train them with the same one"
            )
    return Composed(parts)


def _same_function(a: BaseModel, b: BaseModel) -> bool:
    """Whether two models compute the same from the same parameters."""
    a, b = (model.replace(remat=False) for model in (a, b))
    if isinstance(a, PrefixModel) and isinstance(b, PrefixModel):
        return a.replace(reserved=0) == b.replace(reserved=0)
    return a == b


def save_base(folder: Path, model: BaseModel, params: dict, codec: Codec) -> None:
    """Writes a folder that `load` and transformers both load."""
    folder.mkdir(parents=True, exist_ok=True)
    codec.save(folder)
    save_model(folder, model, jax.device_get(params), codec.ends())
