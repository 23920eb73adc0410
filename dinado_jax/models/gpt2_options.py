"""What a config.json may say beside GPT-2's sizes: what transformers would take for them, and what
would change the function computed. What is not applied here is refused, not ignored."""

from typing import Any

from dinado_jax.errors import InputError, quote

# transformers takes either name, and the alias where both are given.
_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
# Names of other models or older files, which transformers reads past; they may repeat our value.
_ECHOES = {
    "n_ctx": "n_positions",
    "num_key_value_heads": "n_head",
    "intermediate_size": "n_inner",
    "hidden_act": "activation_function",
    "activation": "activation_function",
    "layer_norm_eps": "layer_norm_epsilon",
    "norm_eps": "layer_norm_epsilon",
}
# By option, the values with which a model is a plain GPT-2; None is always one.
_PLAIN = {
    "quantization_config": ({},),
    "compression_config": ({},),
    "auto_map": ({},),
    "pruned_heads": ({},),
    "is_encoder_decoder": (False,),
    "position_embedding_type": ("absolute",),
    "rope_scaling": ({},),
    "rope_theta": (),
    "rope_parameters": ({},),
    "sliding_window": (),
}
# Settings of transformers' own generation that change which tokens a model gives.
_GENERATION = {
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "bad_words_ids": ([],),
    "sequence_bias": ({}, []),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "forced_decoder_ids": ([],),
    "exponential_decay_length_penalty": (),
    "repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "min_length": (0,),
    "min_new_tokens": (0,),
}
_HEADS = ("GPT2LMHeadModel", "GPT2Model")


def plain(hf: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The dict of a config.json with GPT-2's own names for all sizes.

    `defaults` are the values of absent options. InputError for two names of one value that
    differ, and for options that make it another model than a plain GPT-2.
    """
    hf = dict(hf)
    for alias, name in _ALIASES.items():
        if alias in hf and hf.setdefault(name, hf[alias]) != hf[alias]:
            raise _contradiction(hf, alias, name, hf[name])
    values = defaults | hf
    if values.get("n_inner") is None and type(values.get("n_embd")) is int:
        values["n_inner"] = 4 * values["n_embd"]
    for echo, name in _ECHOES.items():
        if hf.get(echo) is not None and hf[echo] != values.get(name):
            raise _contradiction(hf, echo, name, values.get(name))
    _refuse(hf, _PLAIN, "config.json", "choose a plain GPT-2 checkpoint")
    check_generation(hf, "config.json")
    heads = hf.get("architectures") or []
    heads = heads if isinstance(heads, list) else [heads]
    # TF and Flax prefixes are the same models in other frameworks.
    if any(str(head).removeprefix("TF").removeprefix("Flax") not in _HEADS for head in heads):
        raise InputError(
            f"config.json has architectures = {quote(heads)}: only a language model, "
            f"{_HEADS[0]}, is supported"
        )
    return hf


def check_generation(settings: dict[str, Any], where: str) -> None:
    """InputError for settings that would make transformers' generation differ from the model's own
    distribution, which is what is decoded here. Temperature and truncation are the decoder's."""
    _refuse(settings, _GENERATION, where, "the model's own distribution is decoded, remove it")


def _refuse(given: dict[str, Any], table: dict[str, tuple], where: str, fix: str) -> None:
    for name, values in table.items():
        if given.get(name) is not None and given[name] not in values:
            raise InputError(f"{where} has {name} = {quote(given[name])}: not supported, {fix}")


def _contradiction(hf, other: str, name: str, value: Any) -> InputError:
    return InputError(
        f"config.json has {other} = {quote(hf[other])} and {name} = {quote(value)}, which are one: "
        "correct or remove one of them"
    )
