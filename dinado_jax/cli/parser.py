"""How arguments are parsed: every slip is one line, with the nearest word that would be right."""

import argparse
import difflib
import re
from collections.abc import Callable, Iterable
from typing import NoReturn

from dinado_jax.errors import InputError, escape, quote

Commands = argparse._SubParsersAction  # where commands are added; has no public name


class Parser(argparse.ArgumentParser):
    """Reports errors in one line, like all other errors of the package."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        message = message.removeprefix("argument ")
        see = f"see `{self.prog} --help`"
        if found := re.fullmatch(r"(.*): invalid choice: '?(.*?)'? \(choose from (.*)\)", message):
            what, word, choices = found.groups()
            see = _near(word, re.findall(r"[\w.-]+", choices))
            message = f"{what}: invalid choice: {quote(word)}"
        elif found := re.fullmatch(r"the following arguments are required: ([^,]*).*", message):
            message = f"`{self.prog}`, {found[1]} is missing"
        raise InputError(f"{message}: {see}")


def add_command(
    commands: Commands,
    name: str,
    function: Callable[[argparse.Namespace], None],
    text: str,
    parents: Iterable[argparse.ArgumentParser] = (),
) -> argparse.ArgumentParser:
    """Adds a command that calls `function` with its arguments, and returns its parser.

    Args:
      commands: what it is added to.
      name: of the command.
      function: does what it is for.
      text: says in the help what that is.
      parents: parsers whose options it has too.
    """
    command = commands.add_parser(name, help=text, description=text, parents=list(parents))
    command.set_defaults(function=function)
    return command


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parses arguments. InputError for unknown commands, options or values."""
    args, rest = parser.parse_known_args(argv)
    for flag in (word for word in rest if word.startswith("-")):
        near = _near(flag.partition("=")[0], _options(parser, args))
        if hasattr(args, "overrides") and "." in flag:
            near = f"a setting has no dashes, write {escape(flag.lstrip('-').partition('=')[0])}=.."
        raise InputError(f"unrecognized arguments: {escape(flag)}: {near}")
    if args.command is None:
        raise InputError(f"no command given: one of {', '.join(_choices(parser))}")
    if not hasattr(args, "overrides"):
        if rest:
            raise InputError(f"{quote(rest[0])} is one argument too many: leave it out")
        return args
    # argparse leaves over what follows an option, because it has filled `overrides` by then.
    args.overrides = [*args.overrides, *rest]
    return args


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[str]:
    """The options of the command that was given."""
    for name in (args.command, getattr(args, "what", None)):
        parser = _choices(parser).get(name or "", parser)
    return [option for option in parser._option_string_actions if option.startswith("--")]


def _near(word: str, words: Iterable[str]) -> str:
    """Suggests the closest of the words, or all of them."""
    words = list(words)
    close = difflib.get_close_matches(word, words, 1)
    return f"did you mean {close[0]}?" if close else f"one of {', '.join(words)}"
