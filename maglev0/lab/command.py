"""maglev0 lab: a cluster in a box, on this machine alone.

Usage:
  maglev0 lab [--nodes=N] [--total-nodes=N] [--dataplane=NAME] [--session-timeout=S]
              [--zookeepers=N] [--keep]
  maglev0 lab (status | explain | doctor | drain | undrain | weight) [--lab=NAME] [--node=N]
              [ARGUMENT...]
  maglev0 lab probe [--lab=NAME] [ARGUMENT...]
  maglev0 lab shell WHERE [--lab=NAME] [COMMAND...]
  maglev0 lab (kill | start | heal) NODE [--lab=NAME]
  maglev0 lab cut NODE [traffic | management] [--lab=NAME]
  maglev0 lab logs [NODE] [--follow] [--lab=NAME]
  maglev0 lab end [--lab=NAME | --all]
  maglev0 lab (-h | --help)

Options:
  --nodes=N             servers in the box, 2 to 50 [default: 4]
  --total-nodes=N       buckets that they share [default: 64]
  --dataplane=NAME      auto, clusterip or nftables [default: auto]
  --session-timeout=S   ZooKeeper session timeout in seconds, 0.4 to 4 [default: 1]
  --zookeepers=N        ZooKeeper servers, 1 or 3 [default: 1]
  --keep                build the cluster and leave it running, without the demonstration
  --lab=NAME            the lab to use; needed only where several are running
  --node=N              the node that asks; left out: the first that is connected
  --follow              go on with what the daemons log next, until Ctrl-C
  --all                 end all labs without a process, also those whose process was killed
  -h, --help            show this text

Without a command the lab demonstrates what maglev0 does, and ends. With --keep it stays, and these
commands control it:
  status, explain, doctor, drain, undrain, weight
             run 'maglev0 COMMAND' on a node of the lab; its arguments are the same
  probe      ask the cluster as clients do, and count the answers; --help shows its arguments
  shell      run COMMAND, or a shell, on node WHERE or on 'client'
  kill       kill the node's daemon by SIGKILL; its machine stays
  start      start the node's daemon
  cut        pull the node's cable for traffic or for management; without either word, both
  heal       plug the node's cables in again
  logs       print what the node's daemon logged; without NODE, all daemons by time
  end        remove the lab

It needs root. It makes network namespaces and one directory under /run, and removes them at the
end, also after Ctrl-C.
Exit status: 0 all is as it should be, 1 it is not or the lab cannot run here, 2 a word or a flag is
wrong, 130 and 143 ended by a signal. Commands that run a program exit as that program does.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from maglev0.config.arguments import parse
from maglev0.core.service import HashFamily
from maglev0.errors import ConfigError, MaglevError
from maglev0.lab import control
from maglev0.lab.demo import guide
from maglev0.lab.demo.narration import Narrator
from maglev0.lab.demo.story import Demo
from maglev0.lab.errors import LabError
from maglev0.lab.testbed import claim, namespace, prerequisites, supervisor
from maglev0.lab.testbed.cluster import Lab, LabSettings
from maglev0.lab.testbed.process import environment_with, python_module
from maglev0.operator.command import INTERRUPTED, reader_gone

# A daemon takes some 40 MB: this bounds memory and patience, not what the lab can do.
MOST_NODES = 50
# The nftables dataplane takes as many.
MOST_TOTAL_NODES = 2**20
# ZooKeeper grants sessions of 2 to 20 ticks, and the lab's tick is 200 ms.
SESSION_TIMEOUTS_S = (0.4, 4.0)
OPERATOR = ("status", "explain", "doctor", "drain", "undrain", "weight")
CLIENT = "client"


def main(argv: list[str]) -> int:
    """Run `maglev0 lab`; `argv` is what follows `lab`. Returns the exit status."""
    # A terminal without block characters shows bars of ?.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except MaglevError as error:
        sys.stderr.write(f"maglev0: {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return reader_gone()


def _run(argv: list[str]) -> int:
    forwarded: Mapping[str, Callable[[str, list[str]], int]] = {
        **dict.fromkeys(OPERATOR, _ask),
        "probe": _probe,
        "shell": _shell,
    }
    if argv and argv[0] in forwarded:
        # Their arguments are those of another program, which docopt would refuse.
        return forwarded[argv[0]](argv[0], argv[1:])
    arguments = parse(__doc__, argv, "lab")
    commands: dict[str, Callable[[dict[str, Any]], int]] = {
        "kill": _change,
        "start": _change,
        "cut": _change,
        "heal": _change,
        "logs": _logs,
        "end": _end,
    }
    return next((run for name, run in commands.items() if arguments[name]), _build)(arguments)


# Building a lab.


def _build(arguments: dict[str, Any]) -> int:
    settings = settings_of(arguments)
    prerequisites.check(None if settings.dataplane == "auto" else HashFamily(settings.dataplane))
    work = _keep if arguments["--keep"] else _demonstrate
    return supervisor.run(lambda mine: work(Lab(settings, mine)), keep=arguments["--keep"])


def settings_of(arguments: dict[str, Any]) -> LabSettings:
    """The lab asked for; raises ConfigError naming flag, value and what is allowed."""
    nodes = _whole(arguments, "--nodes", 2, MOST_NODES)
    dataplane = arguments["--dataplane"]
    if dataplane not in {"auto", *HashFamily}:
        raise ConfigError(f"--dataplane={dataplane}: must be auto, clusterip or nftables")
    return LabSettings(
        nodes=nodes,
        total_nodes=_whole(arguments, "--total-nodes", nodes, MOST_TOTAL_NODES),
        dataplane=dataplane,
        session_timeout_s=_seconds(arguments, "--session-timeout"),
        zookeepers=_whole(arguments, "--zookeepers", 1, 3),
    )


def _whole(arguments: dict[str, Any], flag: str, least: int, most: int) -> int:
    text = arguments[flag]
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise ConfigError(f"{flag}={text}: must be a whole number from {least} to {most}")
    return int(text)


def _seconds(arguments: dict[str, Any], flag: str) -> float:
    least, most = SESSION_TIMEOUTS_S
    text = arguments[flag]
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not least <= value <= most:
        raise ConfigError(f"{flag}={text}: must be a number of seconds from {least:g} to {most:g}")
    return value


def _demonstrate(cluster: Lab) -> int:
    narrator = Narrator()
    narrator.chapter(
        "maglev0: a cluster in a box. Its servers are network namespaces; packets, daemons and "
        "ZooKeeper are real"
    )
    narrator.drawing(cluster.settings)
    cluster.build()
    return Demo(cluster, narrator).show()


def _keep(cluster: Lab) -> int:
    cluster.build()
    cluster.start()
    control.save(cluster)
    sys.stdout.write(guide.text(cluster, alone=len(control.kept_labs()) == 1))
    return 0


# Commands that run another program in a namespace of the lab.


def _ask(name: str, words: list[str]) -> int:
    given, arguments = own_flags(words, ("--lab", "--node"))
    command = python_module("maglev0", name, *arguments)
    if {"-h", "--help"} & set(arguments):
        _become(command, {})
    cluster = _find(given.get("--lab"))
    number = given.get("--node")
    node = control.asking_node(cluster) if number is None else control.node_called(cluster, number)
    cluster_address = [
        f"--zk={cluster.zookeeper.connect_string}",
        f"--cluster-ip={cluster.settings.vip}",
    ]
    _enter(node.machine.namespace, [*command, *cluster_address], node.machine.environment)


def _probe(_name: str, words: list[str]) -> int:
    given, arguments = own_flags(words, ("--lab",))
    command = python_module("maglev0.lab.traffic.probe", *arguments)
    if {"-h", "--help"} & set(arguments):
        _become(command, {})
    cluster = _find(given.get("--lab"))
    _enter(cluster.client, [*command, f"--vip={cluster.settings.vip}"], {})


def _shell(_name: str, words: list[str]) -> int:
    given, rest = own_flags(words, ("--lab",), plain=1)
    where, command = rest[:1], rest[1:]
    if not where or where[0].startswith("-"):
        parse(__doc__, ["shell", *where], "lab")
        raise ConfigError("shell: name a node or client, as in maglev0 lab shell 1")
    cluster = _find(given.get("--lab"))
    if where[0] == CLIENT:
        name, entered, environment = CLIENT, cluster.client, {}
    else:
        machine = control.node_called(cluster, where[0]).machine
        name, entered, environment = machine.name, machine.namespace, machine.environment
    prompt = {"PS1": f"{cluster.claim.name} {name}# "}
    shell = ["bash", "--norc"] if shutil.which("bash") else ["sh"]
    _enter(entered, command[command[:1] == ["--"] :] or shell, environment | prompt)


def own_flags(
    words: list[str], names: tuple[str, ...], plain: int | None = None
) -> tuple[dict[str, str], list[str]]:
    """Take the lab's own flags out of the words for another program.

    Returns the flags' values by name, and the other words. After `plain` other words the program's
    own command begins, from which nothing is taken; None: flags may stand anywhere. Raises
    ConfigError for a flag without a value.
    """
    given: dict[str, str] = {}
    rest: list[str] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        name, equals, value = word.partition("=")
        if name in names:
            if not (equals or remaining):
                raise ConfigError(f"{name} needs a value; maglev0 lab --help shows which")
            given[name] = value if equals else remaining.pop(0)
        elif plain is not None and len(rest) == plain:
            return given, [*rest, word, *remaining]
        else:
            rest.append(word)
    return given, rest


def _enter(name: str, command: list[str], environment: dict[str, str]) -> NoReturn:
    """Become the command, in the namespace."""
    _become(["nsenter", f"--net={namespace.path_of(name)}", "--", *command], environment)


def _become(command: list[str], environment: dict[str, str]) -> NoReturn:
    """Replace this process by the command, which gets the terminal and the signals."""
    sys.stdout.flush()
    # Python ignores SIGPIPE, and a program would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment_with(environment))  # noqa: S606  no shell
    except OSError as error:
        raise LabError(f"running {command[0]}: {error.strerror}") from error


# Commands that act on a lab.


def _find(name: str | None) -> Lab:
    prerequisites.check_root()
    return control.kept_lab(name)


def _change(arguments: dict[str, Any]) -> int:
    cluster = _find(arguments["--lab"])
    node = control.node_called(cluster, arguments["NODE"])
    with control.locked(cluster):
        if arguments["kill"]:
            done = control.kill_daemon(cluster, node)
        elif arguments["start"]:
            done = control.start_daemon(node)
        elif arguments["cut"]:
            chosen = control.cables(
                node, traffic=arguments["traffic"], management=arguments["management"]
            )
            done = control.cut(cluster, node, chosen)
        else:
            done = control.heal(cluster, node)
    sys.stdout.write(f"{done}\n")
    return 0


def _logs(arguments: dict[str, Any]) -> int:
    cluster = _find(arguments["--lab"])
    number = arguments["NODE"]
    nodes = (
        list(cluster.nodes.values()) if number is None else [control.node_called(cluster, number)]
    )
    if arguments["--follow"]:
        _become(["tail", "-n", "20", "-F", *(str(node.machine.log) for node in nodes)], {})
    sys.stdout.writelines(f"{line}\n" for line in control.logged(nodes))
    return 0


def _end(arguments: dict[str, Any]) -> int:
    prerequisites.check_root()
    name, found = arguments["--lab"], claim.left_over()
    if name is None and len(found) > 1 and not arguments["--all"]:
        listed = ", ".join(found)
        raise LabError(f"several labs can end, choose one by --lab=NAME or --all: {listed}")
    for ending in found if name is None else [name]:
        if claim.has_owner(ending):
            raise LabError(f"lab {ending} belongs to a running process: stop that process")
        claim.remove(ending)
        sys.stdout.write(f"removed lab {ending}\n")
    if name is None and not found:
        raise LabError("no lab is running: maglev0 lab --keep starts one")
    return 0
