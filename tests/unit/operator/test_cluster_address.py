from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from maglev0.config import arguments
from maglev0.config import file as configfile
from maglev0.config.configuration import ZooKeeperAddress
from maglev0.config.zookeeper_access import ZooKeeperAccess
from maglev0.errors import ConfigError, ZooKeeperError
from maglev0.operator import cluster_address
from maglev0.operator.cluster_address import OPTIONS, ClusterAddress, cluster, read, vip
from tests.simulation.tree import Tree
from tests.support.clusters import PATHS, VIP, Cluster
from tests.support.direct import DirectZooKeeper, put, run

TEXT = f"""A command.

Usage:
  maglev0 ask [options]

Options:
{OPTIONS}  -h, --help              show this text
"""
OTHER = IPv4Address("203.0.113.9")


def parsed(*words: str) -> dict[str, Any]:
    return arguments.parse(TEXT, words, "ask")


@pytest.fixture(autouse=True)
def no_default_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the default configuration file, which does not exist yet."""
    path = tmp_path / "default.toml"
    monkeypatch.setattr(configfile, "DEFAULT_PATH", str(path))
    return path


def test_without_flags_and_file_it_is_the_daemons_defaults() -> None:
    assert read(parsed()) == ClusterAddress(
        ZooKeeperAddress("localhost:2181", ""), ZooKeeperAccess(), (VIP,)
    )


def test_flags_give_the_address() -> None:
    found = read(
        parsed(
            "--zk=a,b:1/c",
            f"--cluster-ip={VIP},{OTHER}",
            "--zk-auth=digest:me:/secret",
            "--zk-ca=/ca",
        )
    )
    assert found.zk == ZooKeeperAddress("a:2181,b:1", "/c")
    assert found.vips == (VIP, OTHER)
    assert found.access == ZooKeeperAccess("digest", "me", "/secret", ca="/ca")
    assert found.paths(OTHER).base == f"/c/maglev0/{OTHER}"


def test_flags_win_over_the_file_and_the_file_over_the_defaults(
    tmp_path: Path, no_default_file: Path
) -> None:
    no_default_file.write_text(
        f'zk = "default/chroot"\ncluster-ip = ["{VIP}", "{OTHER}"]\ntotal-nodes = 64\n'
    )
    assert read(parsed()).zk.chroot == "/chroot"
    assert read(parsed()).vips == (VIP, OTHER)
    assert read(parsed("--zk=mine")).zk.chroot == ""
    assert read(parsed("--zk=mine")).vips == (VIP, OTHER)
    (tmp_path / "other.toml").write_text('zk = "other"\n')
    assert read(parsed(f"--config={tmp_path}/other.toml")) == ClusterAddress(
        ZooKeeperAddress("other:2181", ""), ZooKeeperAccess(), (VIP,)
    )


@pytest.mark.parametrize(
    ("flag", "what"),
    [
        ("--zk=a b", "--zk=a b: "),
        ("--zk=", "--zk=: "),
        ("--cluster-ip=198.51.100", "--cluster-ip=198.51.100: must be an IPv4 address, as "),
        ("--config=/nowhere/at.all", "--config=/nowhere/at.all: cannot be read"),
        ("--zk-key=/key", "--zk-key"),
    ],
)
def test_what_is_wrong_is_named(flag: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(parsed(flag))
    assert str(caught.value).startswith(what)


def test_a_password_in_the_place_of_its_file_is_not_repeated() -> None:
    for words in (
        ["--zk-auth=hunter2"],
        ["--zk-auth", "hunter2"],
        ["--zk-a=hunter2", "--nonsense"],
    ):
        with pytest.raises(ConfigError) as caught:
            read(parsed(*words))
        assert "hunter2" not in str(caught.value)


def test_a_command_line_that_makes_no_sense_is_shown_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parsed("--zk", "a", "what\x1b")
    assert (
        str(caught.value) == "a word is missing, or there is one too many; "
        "cannot read the command line: 'ask --zk a what\\x1b';"
        " maglev0 ask --help shows what is allowed"
    )
    with pytest.raises(ConfigError, match="--zk requires a value; cannot read"):
        parsed("--zk")


def test_the_one_vip_of_a_command_about_one() -> None:
    assert vip(read(parsed(f"--cluster-ip={OTHER}"))) == OTHER
    with pytest.raises(
        ConfigError,
        match=f"one VIP, and 2 are configured .{VIP}, {OTHER}.: choose one with --cluster-ip",
    ):
        vip(read(parsed(f"--cluster-ip={VIP},{OTHER}")))


def found(tree: Tree, which: IPv4Address = VIP, chroot: str = "/lab") -> str:
    address = ClusterAddress(ZooKeeperAddress("zk:2181", chroot), ZooKeeperAccess(), (which,))
    try:
        return run(cluster(DirectZooKeeper(tree, 1), address, which)).base
    except ZooKeeperError as error:
        return str(error)


def test_a_cluster_is_found_or_it_is_said_what_is_missing() -> None:
    tree = Cluster.of(1).tree
    assert found(tree) == PATHS.base
    assert (
        found(Tree())
        == "--zk=zk:2181/lab: /lab does not exist; correct it, or start a daemon with it"
    )
    nothing = (
        "no cluster of --cluster-ip=198.51.100.1 at zk:2181; there is no cluster there;"
        " correct the flags, or start a daemon with them"
    )
    assert found(Tree(), chroot="") == nothing
    assert (
        found(tree, OTHER)
        == f"no cluster of --cluster-ip={OTHER} at zk:2181/lab; clusters there: {VIP};"
        " correct the flags, or start a daemon with them"
    )
    for number in range(20):
        put(tree, f"/lab/maglev0/192.0.2.{number}")
    put(tree, "/lab/maglev0/\x1b[31m")
    assert found(tree, OTHER).partition("clusters there: ")[2].startswith("192.0.2.0, 192.0.2.1, ")
    assert " and more; " in found(tree, OTHER)
    assert found(tree, OTHER).isprintable()


def test_every_flag_of_the_options_is_read_or_the_commands_own() -> None:
    assert {*parsed()} == {*cluster_address.FLAGS, "--config", "--json", "--help", "ask"}
