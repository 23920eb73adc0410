"""Templates around prompts: a string with {prompt} in it, the chat template of a tokenizer, or none
of the prompt at all.

Names of special tokens in a template are those tokens, in a prompt they are text. What is shown,
judged and saved as the prompt is the prompt alone.
"""

import dataclasses
from typing import Any

from dinado_jax.config.checks import CHAT, HIDDEN, PROMPT, template_faults
from dinado_jax.errors import InputError, one_line

_PROMPT, _ANSWER = "the 1st prompt", "the 1st answer"  # marks, which templates leave as they are
# Templates may ask for today's date, and a run that goes on tomorrow would have other prompts. They
# get the date that Llama 3 writes where it cannot know any.
_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}\n"


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
    """The text around a prompt, and what ends the answer to it."""

    before: str
    after: str
    chat: bool = False  # a chat template is complete: no begin-of-text token is added
    answer_end: str = ""  # what follows an answer; of chat templates
    hidden: bool = False  # a text follows nothing, whatever its prompt

    @property
    def text(self) -> str:
        """As `parse_template` reads it."""
        if self.hidden:
            return HIDDEN
        return CHAT if self.chat else f"{self.before}{PROMPT}{self.after}"


def parse_template(text: str, tokenizer: Any) -> PromptTemplate:
    """Makes a template.

    Args:
      text: with {prompt} in it; or "chat" for the chat template of the tokenizer, in which the
        prompt is the first message of a user and the assistant is to answer; or "hidden".
      tokenizer: of transformers.

    Raises:
      InputError: for a string without {prompt} or with two; for a tokenizer without a chat
        template, or one that fails, or that does not hold the message once.
    """
    for fault in template_faults("prompt_template", text):
        raise InputError(fault)
    if text == HIDDEN:
        return PromptTemplate("", "", hidden=True)
    if text != CHAT:
        before, after = text.split(PROMPT)
        return PromptTemplate(before, after)
    if not tokenizer.chat_template:
        raise InputError(
            f"prompt_template = {CHAT}, and the tokenizer has no chat template: choose an instruct "
            f"model, or write a template with {PROMPT} in it"
        )
    question = {"role": "user", "content": _PROMPT}
    before, after = _split(_render(tokenizer, [question], True), _PROMPT)
    answer = {"role": "assistant", "content": _ANSWER}
    _, answer_end = _split(_render(tokenizer, [question, answer], False), _ANSWER)
    return PromptTemplate(before, after, True, answer_end)


def _render(tokenizer: Any, messages: list[dict[str, str]], answering: bool) -> str:
    """Runs the chat template, in transformers' sandbox."""
    try:
        return tokenizer.apply_chat_template(
            messages,
            chat_template=_DATE + tokenizer.get_chat_template(),
            add_generation_prompt=answering,
            tokenize=False,
        )
    except Exception as error:  # whatever the template raises
        hint = "pip install jinja2" if isinstance(error, ImportError) else "write one"
        raise InputError(
            f"the tokenizer's chat template fails ({one_line(error)[:200]}): {hint}, or set "
            f"prompt_template to a text with {PROMPT} in it"
        ) from None


def _split(text: str, mark: str) -> tuple[str, str]:
    if text.count(mark) != 1:
        raise InputError(
            f"the tokenizer's chat template writes a message {text.count(mark)} times: set "
            f"prompt_template to a text with {PROMPT} in it"
        )
    before, after = text.split(mark)
    return before, after
