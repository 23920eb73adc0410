"""Prompt templates: what a template names is special tokens, what a prompt names is text."""

import json

import pytest
from support import tokenizer_folders
from support.tokenizer_folders import KINDS, LLAMA3

from dinado_jax.errors import InputError
from dinado_jax.models.tokenizer import load_codec, train_codec

TEMPLATES = ["{prompt}", "Q: {prompt}\nA:", "# {prompt}\n\n", "{prompt}<|eot|></s><|im_end|>\n"]
NAMES = "a <|eot|> </s> <|im_end|> dog"


@pytest.fixture(scope="module")
def codecs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    return {kind: load_codec(make(folder / kind)) for kind, make in KINDS.items()}


def plainly(codec, text):
    return codec.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_tokens_of_the_whole_text(codecs, kind, template):
    codec = codecs[kind].with_template(template)
    texts = ["the dogs", "run , [x] \u4e16"]
    for text, prompt, target in zip(texts, codec.prompts(texts), codec.targets(["a dog"] * 2)):
        whole = template.replace("{prompt}", text)
        assert prompt == [*codec.begin_ids, *plainly(codec, whole)]
        space = "" if whole[-1].isspace() else " "
        assert prompt + target[:-1] == [*codec.begin_ids, *plainly(codec, whole + space + "a dog")]


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_prompts_are_the_empty_one(codecs, kind):
    plain, codec = codecs[kind], codecs[kind].with_template("hidden")
    assert codec.prompts(["the dogs", NAMES, ""]) == plain.prompts([""] * 3)
    assert codec.targets(["a dog"]) == plain.targets(["a dog"])
    assert codec.stop_ids == plain.stop_ids and codec.template.text == "hidden"


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"unigram"}))
def test_names_in_a_prompt_are_text(codecs, kind):
    template = "<s><|head|><|im_start|> {prompt} </s><|eot|><|im_end|> a"
    codec = codecs[kind].with_template(template)
    (plain,), (named,), (empty,) = (codec.prompts([text]) for text in ("dog", NAMES, ""))

    def special(ids):
        return [id for id in ids if id in codec.special_ids]

    assert special(plain) == special(named) == special(empty) and len(special(plain)) >= 2
    assert codec.decode([named]) == codec.decode([plain])[0].replace("dog", NAMES).split("\0")
    (target,) = codec.targets([NAMES])
    assert codec.decode([target]) == [NAMES] and special(target[:-1]) == []
    assert codec.prompts(["dog", NAMES, ""]) == [plain, named, empty]


def test_names_that_a_tokenizer_cannot_spell(codecs):
    codec = codecs["unigram"].with_template("Q {prompt} </s>")
    with pytest.raises(InputError, match=r"text 'a </s>', .* special token '</s>'"):
        codec.prompts(["a </s>"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_begin_of_text_that_is_written_out_is_not_doubled(codecs, kind):
    codec = codecs[kind]
    begin = codec.tokenizer.convert_ids_to_tokens(list(codec.begin_ids))
    template = "".join(begin) + "Q {prompt}"
    assert codec.with_template(template).prompts(["a"]) == [plainly(codec, f"{''.join(begin)}Q a")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_chat_is_that_of_transformers(codecs, kind):
    codec = codecs[kind].with_template("chat")
    user = {"role": "user", "content": "the dogs"}
    asked = codec.tokenizer.apply_chat_template([user], add_generation_prompt=True)["input_ids"]
    (prompt,), (target,) = codec.prompts(["the dogs"]), codec.targets(["a dog"])
    assert prompt == asked
    answered = [user, {"role": "assistant", "content": "a dog"}]
    whole = codec.tokenizer.apply_chat_template(answered)["input_ids"]
    row = prompt + target  # a new line may follow the end of a turn
    assert whole[: len(row)] == row and len(whole) <= len(row) + 1


def test_targets_end_as_turns_do(codecs, tmp_path):
    llama3 = codecs["llama3"]
    assert llama3.with_template("chat").stop_ids == (3, 1, 2)
    assert llama3.with_template("{prompt}\n<|eot|>").stop_ids == (3, 1, 2)
    assert llama3.with_template("{prompt}<|head|>").stop_ids == (1, 2, 3)
    assert llama3.with_template("{prompt} ends: <|eot|>").stop_ids == (1, 2, 3)
    # Of a base that knows turns, but that no file says may end with one.
    base = load_codec(tokenizer_folders.qwen2(tmp_path, "<|endoftext|>"))
    assert base.stop_ids == (0,) and base.with_template("{prompt}<|im_end|>").stop_ids == (0,)
    chat = base.with_template("chat")
    assert chat.stop_ids == (2, 0) and chat.targets(["a"])[0][-1] == 2
    assert chat.excluded_ids(290) == ((1, 2),)


def test_without_a_template_nothing_changes(codecs):
    assert codecs["llama3"].with_template("") is codecs["llama3"]


def test_the_date_of_today_is_not_in_a_prompt(tmp_path):
    """A run that goes on tomorrow has the same prompts."""
    dated = "{{ strftime_now('%d %b %Y') }}" + LLAMA3
    codec = chatting(tmp_path, dated).with_template("chat")
    assert codec.decode(codec.prompts(["a"]))[0].startswith("26 Jul 2024")


def chatting(folder, template):
    tokenizer_folders.llama3(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"chat_template": template}
    path.write_text(json.dumps(settings))
    return load_codec(folder)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('only tools') }}", r"fails \(TemplateError: only tools\): write one"),
        ("{% for %}", r"fails \(TemplateSyntaxError: .*\): write one, or set prompt_template to"),
        ("{{ messages[0].content.a.b }}", r"fails \(UndefinedError: .*\): write"),
        ("{{ messages.append(1) }}", r"fails \(SecurityError: .*\): write"),
        ("{{ messages[0].content * 2 }}", "writes a message 2 times: set prompt_template to a"),
        ("Hello", "writes a message 0 times"),
        ("{{ messages[0].content }}", "writes a message 0 times"),  # no answer
    ],
)
def test_chat_templates_that_fail(tmp_path, template, said):
    codec = chatting(tmp_path, template)
    with pytest.raises(InputError, match=said) as caught:
        codec.with_template("chat")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("chat", "prompt_template = chat, and the tokenizer has no chat template: choose"),
        ("chatty", r"prompt_template = 'chatty': it has \{prompt\} 0 times, write a text"),
        ("{prompt} {prompt}", r"it has \{prompt\} 2 times"),
    ],
)
def test_templates_that_are_none(template, said):
    with pytest.raises(InputError, match=said):
        train_codec(["a dog"], 300).with_template(template)
