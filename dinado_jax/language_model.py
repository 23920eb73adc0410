"""Language models to decode from: the base, frozen, and the base under controls.

All have `base`, `policy` and `variables`, which is all that decoding needs, and `for_prompts`,
which adds what a control reads of the prompts at hand.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dinado_jax.adapters.peft import ADAPTER_FILES, merge_adapter
from dinado_jax.adapters.protocol import Adapter
from dinado_jax.automata.compiled import AutomataOf, conjunctions
from dinado_jax.automata.conjunction import stack
from dinado_jax.controls.control import Control
from dinado_jax.controls.merge import Merge
from dinado_jax.controls.state import AUTOMATA
from dinado_jax.data.prompts import PromptSet, TokenizedPrompts
from dinado_jax.decoding.batching import check_prompts
from dinado_jax.decoding.policy import ModelPolicy, Policy
from dinado_jax.errors import InputError, quote
from dinado_jax.guides.guided import guided_policy, guided_variables
from dinado_jax.guides.prompt_values import prompt_values
from dinado_jax.guides.protocol import Guide
from dinado_jax.guides.tilt import NEUTRAL, Tilt
from dinado_jax.models.architectures import load_model, load_params, save_model
from dinado_jax.models.codec import Codec
from dinado_jax.models.hf_folder import locate
from dinado_jax.models.prompt_template import PromptTemplate
from dinado_jax.models.protocol import BaseModel
from dinado_jax.models.tokenizer import load_codec


@dataclasses.dataclass(frozen=True, repr=False)
class Base:
    """A frozen language model p, with its tokenizer.

    `base.model.apply({"params": base.params}, tokens).logits` are the checkpoint's logits; p is
    their softmax over ids with text, without the model's `excluded_ids`.
    """

    model: BaseModel
    params: dict
    folder: Path
    known: Codec | None = None  # the tokenizer, where it has been loaded already
    max_new_tokens: int = 32  # the most that is drawn where nothing else is asked for

    @functools.cached_property
    def codec(self) -> Codec:
        """The tokenizer, loaded when first asked for. InputError if it does not fit the model."""
        return self.known or load_codec(self.folder, self.model.vocab_size)

    def __repr__(self) -> str:
        return f"Base({self.model}; {_size(self.params)}; folder {self.folder})"

    @property
    def base(self) -> "Base":
        return self

    def for_prompts(self, prompts: PromptSet) -> "tuple[Base, PromptSet]":
        """See `Controlled.for_prompts`: the base reads nothing of them."""
        return self, prompts

    def save(self, folder: str | Path) -> None:
        """Writes a folder that `load` and transformers both load."""
        save_base(Path(folder), self.model, self.params, self.codec)

    @property
    def policy(self) -> ModelPolicy:
        return ModelPolicy(self.model)

    @property
    def variables(self) -> dict:
        return {"params": self.params}


@dataclasses.dataclass(frozen=True, repr=False)
class Controlled:
    """A base under a trained control or another guide: its policy decodes the composed q."""

    base: Base
    control: Control | Guide
    params: Any
    tilt: Tilt = NEUTRAL  # how much of it is wanted
    automata_of: AutomataOf | None = None  # of a prompt, for a control that reads their states

    @property
    def policy(self) -> Policy:
        return Composed((self,)).policy

    @functools.cached_property
    def variables(self) -> dict:
        return Composed((self,)).variables

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
        """The same control with another `Tilt`: strength, target_rate, reject. InputError for any
        other name.
        """
        known = [field.name for field in dataclasses.fields(Tilt)]
        for name in changes:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
                raise InputError(f"no such tilt, {quote(name)}: {hint}")
        return dataclasses.replace(self, tilt=dataclasses.replace(self.tilt, **changes))

    def for_prompts(self, prompts: PromptSet) -> "tuple[Controlled, PromptSet]":
        """The model with the automata of these prompts, and the prompts with their numbers, for a
        control that reads the state of its oracle; others as they are.
        """
        (part,), prompts = _for_prompts((self,), prompts)
        return part, prompts

    @property
    def _reads_state(self) -> bool:
        return isinstance(self.control, Control) and self.control.state is not None

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
        return dataclasses.replace(self.base, params=params)


@dataclasses.dataclass(frozen=True, repr=False)
class Composed:
    """A base under several controls at once: q proportional to p prod_k f_k(R_k)."""

    parts: tuple[Controlled, ...]

    def __repr__(self) -> str:
        return f"Composed({' + '.join(part._control for part in self.parts)}, {self.base!r})"

    @property
    def base(self) -> Base:
        return self.parts[0].base

    @property
    def policy(self) -> Policy:
        return guided_policy(self.base.model, self._guides, self._tilts)

    @functools.cached_property
    def variables(self) -> dict:
        params = [part.params for part in self.parts]
        return guided_variables(self.base.params, self._guides, params, self._tilts)

    def for_prompts(self, prompts: PromptSet) -> "tuple[Composed, PromptSet]":
        """See `Controlled.for_prompts`."""
        parts, prompts = _for_prompts(self.parts, prompts)
        return Composed(parts), prompts

    @property
    def _guides(self) -> list[Guide]:
        return [part.control for part in self.parts]

    @property
    def _tilts(self) -> list[Tilt]:
        return [part.tilt for part in self.parts]


LanguageModel = Base | Controlled | Composed


def _for_prompts(
    parts: tuple[Controlled, ...], prompts: PromptSet
) -> tuple[tuple[Controlled, ...], PromptSet]:
    """See `Controlled.for_prompts`. Prompts alike for all parts share a number."""
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


def compose(*parts: Controlled) -> Composed:
    """Several controls of one base at once, each with the strength of its tilt; approximate where
    the oracles depend on each other under p (`Controlled.as_base` is the exact way).

    InputError if there are none, or if their bases or prompt templates differ.
    """
    if not parts or not all(isinstance(part, Controlled) for part in parts):
        raise InputError("compose needs controlled models, one or more: give what load_run returns")
    first = parts[0].base
    for other in (part.base for part in parts[1:]):
        same = _same_function(other.model, first.model) and all(
            bool((a == b).all())
            for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(other.params))
        )
        if not same:
            raise InputError("these controls have different bases: train them on the same one")
        if _template(other) != _template(first):
            raise InputError(
                "these controls have different prompt templates: train them with the same one"
            )
    return Composed(parts)


def _template(base: Base) -> PromptTemplate | None:
    return base.known.template if base.known else None


def _same_function(a: BaseModel, b: BaseModel) -> bool:
    """Whether two models compute the same from the same parameters."""
    return a.replace(remat=False) == b.replace(remat=False)


def load(
    path_or_name: str | Path,
    *,
    adapter: str | Path = "",
    dtype: str = "float32",
    param_dtype: str = "float32",
    remat: bool = False,
    prompt_template: str = "",
    place: Callable[[dict], dict] = jax.device_put,
) -> Base:
    """Loads a base from a Hugging Face folder or hub name; safetensors only.

    Ids without text by the folder's tokenizer, if it has a readable one, are left out of p: see
    `Model.excluded_ids`.

    Args:
      path_or_name: a folder with config.json and model.safetensors (single or sharded), or a hub
        name such as "gpt2". Its architecture is one of `ARCHITECTURES`.
      adapter: a folder or hub name of a LoRA adapter that PEFT or `dinado export` has written,
        merged into the base in float32; see `merge_adapter`.
      dtype: of activations; logits and control arithmetic are float32 whatever it is.
      param_dtype: of the parameters in memory.
      remat: gradients compute each block's activations again instead of keeping them.
      prompt_template: around every prompt: a text with {prompt} in it, in which names of special
        tokens are those tokens, or "chat" for the tokenizer's own chat template.
      place: puts the parameters, arrays on the host, on devices.

    Raises:
      InputError: in one line for anything missing, unused, misshapen, damaged or pickled; for a
        tokenizer once it is asked for, or now if there is a prompt template.
    """
    folder = locate(str(path_or_name))
    model = load_model(folder).replace(dtype=dtype, param_dtype=param_dtype, remat=remat)
    params = load_params(folder, model)
    if adapter:
        params = merge_adapter(locate(str(adapter), ADAPTER_FILES), model, params)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, jnp.dtype(param_dtype)), params)
    try:
        codec = load_codec(folder, model.vocab_size)
    except InputError:
        if prompt_template:
            raise
        codec = None  # raised again where text is needed
    else:
        codec = codec.with_template(prompt_template)
        model = model.replace(excluded_ids=codec.excluded_ids(model.vocab_size))
    return Base(model, place(params), folder, codec)


def save_base(folder: Path, model: BaseModel, params: dict, codec: Codec) -> None:
    """Writes a folder that `load` and transformers both load."""
    folder.mkdir(parents=True, exist_ok=True)
    codec.save(folder)
    save_model(folder, model, jax.device_get(params), codec.ends())
