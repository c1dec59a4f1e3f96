"""maglev0 completion: print the completion of flags, values and commands for a shell.

Usage:
  maglev0 completion (bash | zsh | fish)
  maglev0 completion (-h | --help)

Options:
  -h, --help    show this text

Where each shell reads it:
  bash  maglev0 completion bash >/usr/local/share/bash-completion/completions/maglev0
  zsh   maglev0 completion zsh >/usr/local/share/zsh/site-functions/_maglev0
  fish  maglev0 completion fish >/etc/fish/completions/maglev0.fish
For the running bash only:  source <(maglev0 completion bash)

Exit status: 0 printed, 2 a word on the command line is wrong.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from maglev0.config.configuration import AUTO, ZooKeeperLoss
from maglev0.core.service import HashFamily, HashMode, Xdp
from maglev0.operator import command
from maglev0.operator.shell import help_text, man, manual
from maglev0.operator.shell.help_text import Help, Option

SHELLS = ("bash", "zsh", "fish")
LAB = (
    *("status", "explain", "doctor", "drain", "undrain", "weight", "probe"),
    *("shell", "kill", "start", "cut", "heal", "logs", "end"),
)
CHOICES: Mapping[str, tuple[str, ...]] = {
    "--dataplane": (AUTO, *HashFamily),
    "--hash-mode": tuple(HashMode),
    "--xdp": tuple(Xdp),
    "--zk-loss": tuple(ZooKeeperLoss),
    "--zk-auth": ("digest:", "sasl:"),
    "--check": ("tcp:", "http://", "https://", "exec:/", "file:/"),
}
_FILES = ("FILE", "PROGRAM")
_INTERFACE = "IF"
_INTERFACES = "/sys/class/net"


def words(command_name: str) -> tuple[str, ...]:
    """The words that may follow a subcommand, as far as they are known."""
    if command_name == "man":
        return (*manual.topics(), man.COMMAND)
    return {"completion": SHELLS, "lab": LAB}.get(command_name, ())


def main(arguments: list[str]) -> int:
    """Run `maglev0 completion` with the words after `completion`; returns the exit status."""
    return command.run(__doc__, "completion", arguments, _print)


def _print(arguments: dict[str, Any]) -> int:
    write = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    (shell,) = (name for name in SHELLS if arguments[name])
    sys.stdout.writelines(
        f"{line}\n" for line in write[shell](help_text.daemon(), help_text.commands())
    )
    return 0


# bash. Readline splits at "=" and ":", so "--xdp=na" arrives as three words.

_BASH = """\
_maglev0() {
    local word=${COMP_WORDS[COMP_CWORD]} command='' flag='' words='' files=''
    if ((COMP_CWORD > 1)); then command=${COMP_WORDS[1]}; fi
    if [[ $word == = ]]; then flag=${COMP_WORDS[COMP_CWORD-1]} word=''
    elif ((COMP_CWORD > 2)) && [[ ${COMP_WORDS[COMP_CWORD-1]} == = ]]; then
        flag=${COMP_WORDS[COMP_CWORD-2]}
    elif ((COMP_CWORD > 1)) && [[ ${COMP_WORDS[COMP_CWORD-1]} == --* ]]; then
        flag=${COMP_WORDS[COMP_CWORD-1]}
    fi
    COMPREPLY=()
    case $flag in
"""
_BASH_MIDDLE = """\
        *) flag='' ;;
    esac
    if [[ $files ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
    fi
    if [[ ! $flag ]]; then
        case $command in
"""
_BASH_END = """\
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
    if ((${#COMPREPLY[@]} == 1)) && [[ ${COMPREPLY[0]} == *[=:/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _maglev0 maglev0"""


def _bash(daemon: Help, commands: Mapping[str, Help]) -> Iterator[str]:
    yield "# Completion of maglev0 for bash, made by: maglev0 completion bash"
    yield _BASH.rstrip("\n")
    for action, flags in _bash_values((*commands.values(), daemon)).items():
        yield f"        {' | '.join(flags)}) {action} ;;"
    yield _BASH_MIDDLE.rstrip("\n")
    for name, help_ in commands.items():
        yield f"            {name}) words='{' '.join((*words(name), *_flags(help_)))}' ;;"
    yield f"            -*) words='{' '.join(_flags(daemon))}' ;;"
    yield f"            *) words='{' '.join((*commands, *_flags(daemon)))}' ;;"
    yield _BASH_END


def _bash_values(helps: Iterable[Help]) -> dict[str, list[str]]:
    """The shell code that sets the possible values of flags, and the flags it is for."""
    flags: dict[str, list[str]] = {}
    valued = {
        option.names[-1]: option for help_ in helps for option in help_.options if option.value
    }
    for name, option in valued.items():
        action = f"words='{' '.join(CHOICES.get(name, ()))}'"
        if option.value in _FILES:
            action = "files=yes"
        elif option.value == _INTERFACE:
            action = f"words=$(cd {_INTERFACES} && echo *)"
        flags.setdefault(action, []).append(name)
    return flags


def _flags(help_: Help) -> Iterator[str]:
    for option in help_.options:
        for name in option.names:
            yield f"{name}=" if option.value and name.startswith("--") else name


# zsh: what _arguments takes, see zshcompsys(1).


def _zsh(daemon: Help, commands: Mapping[str, Help]) -> Iterator[str]:
    yield "#compdef maglev0"
    yield "# Completion of maglev0 for zsh, made by: maglev0 completion zsh"
    yield "_maglev0() {"
    yield "  local -a commands=("
    for name, help_ in commands.items():
        yield f"    {shlex.quote(f'{name}:{_short(help_.summary)}')}"
    yield "  )"
    yield "  case ${words[2]} in"
    for name, help_ in commands.items():
        yield f"    {name})"
        yield "      shift words; ((CURRENT--))"
        yield from _zsh_arguments(
            help_, f":word:({' '.join(words(name))})" if words(name) else None
        )
        yield "      ;;"
    yield "    *)"
    yield "      ((CURRENT == 2)) && _describe command commands"
    yield from _zsh_arguments(daemon, None)
    yield "      ;;"
    yield "  esac"
    yield "}"
    yield '_maglev0 "$@"'


def _zsh_arguments(help_: Help, words: str | None) -> Iterator[str]:
    yield "      _arguments \\"
    if words:
        yield f"        {shlex.quote(words)} \\"
    for option in help_.options:
        text = re.sub(r"([\[\]\\:])", r"\\\1", _short(option.text))
        others = " ".join(option.names)
        for name in option.names:
            end = _zsh_value(name, option) if option.value else ""
            repeated = "*" if "several times" in option.text else f"({others})"
            yield f"        {shlex.quote(repeated + name + '=' * bool(end) + f'[{text}]{end}')} \\"
    yield ""


def _zsh_value(name: str, option: Option) -> str:
    value = (option.value or "").replace(":", r"\:")
    if option.value in _FILES:
        return f":{value}:_files"
    if option.value == _INTERFACE:
        return f":{value}:_net_interfaces"
    choices = " ".join(CHOICES.get(name, ())).replace(":", r"\:")
    return f":{value}:({choices})" if choices else f":{value}: "


# fish: one call of `complete` for each flag.


def _fish(daemon: Help, commands: Mapping[str, Help]) -> Iterator[str]:
    yield "# Completion of maglev0 for fish, made by: maglev0 completion fish"
    yield "complete -c maglev0 -f"
    for name, help_ in commands.items():
        summary = shlex.quote(_short(help_.summary))
        yield f"complete -c maglev0 -n __fish_is_first_token -a {name} -d {summary}"
    seen = " ".join(commands)
    yield from _fish_options(daemon, f"not __fish_seen_subcommand_from {seen}")
    for name, help_ in commands.items():
        condition = f"__fish_seen_subcommand_from {name}"
        if words(name):
            offered = shlex.quote(" ".join(words(name)))
            yield f"complete -c maglev0 -n {shlex.quote(condition)} -a {offered}"
        yield from _fish_options(help_, condition)


def _fish_options(help_: Help, condition: str) -> Iterator[str]:
    for option in help_.options:
        names = " ".join(
            f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
        )
        where, text = shlex.quote(condition), shlex.quote(_short(option.text))
        yield f"complete -c maglev0 -n {where} {names}{_fish_value(option)} -d {text}"


def _fish_value(option: Option) -> str:
    if not option.value:
        return ""
    if option.value in _FILES:
        return " -r -F"
    if option.value == _INTERFACE:
        return f" -x -a '(path basename {_INTERFACES}/*)'"
    choices = " ".join(CHOICES.get(option.names[-1], ()))
    return f" -x -a {shlex.quote(choices)}" if choices else " -x"


def _short(text: str) -> str:
    """The text up to its first remark, without the default, as a note beside a flag."""
    return re.split(r" \[default|; | \(|: ", text)[0].rstrip(".")
