"""`maglev0 status` as a process, on clusters in a real ZooKeeper."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.security import make_digest_acl

from tests.support.clusters import PATHS, SEED, Cluster
from tests.zookeeper.operator.site import VIP, Site, Terminal, command
from tests.zookeeper.site import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.zookeeper

COLOUR = re.compile(r"\x1b\[[0-9;]*[34]\d")


@pytest.fixture
def sound(site: Site) -> tuple[Site, Cluster]:
    """A cluster of three; the name of one host looks like markup."""
    cluster = Cluster.of(1, 2, 3)
    cluster.change(3, host="[red]web3[/red]")
    cluster.settle()
    site.publish(cluster)
    return site, cluster


def everything(site: Site, path: str) -> Iterator[tuple[str, Any]]:
    """All znodes below a path, with their data and versions."""
    data, stat = site.client.get(path)
    yield path, (data, stat.mzxid, stat.pzxid)
    for name in site.client.get_children(path):
        yield from everything(site, f"{path}/{name}")


def test_a_sound_cluster_in_a_pipe_then_one_with_an_overlap(sound: tuple[Site, Cluster]) -> None:
    site, cluster = sound
    before = dict(everything(site, site.chroot))
    done = site.run("status", site.zk, FORCE_COLOR="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{VIP}: view ")
    assert "every bucket has exactly one owner\n" in done.stdout
    assert "[red]web3[/red]" in done.stdout
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    found = json.loads(site.run("status", site.zk, "--json").stdout)
    assert found["sound"]
    assert [member["name"] for member in found["clusters"][0]["members"]] == [
        "backend-1",
        "backend-2",
        "backend-3",
    ]
    assert dict(everything(site, site.chroot)) == before

    bucket = min(cluster.share(2))
    site.hold(1, cluster.share(1) | {bucket})
    done = site.run("status", site.zk)
    assert (done.returncode, done.stderr) == (1, "")
    assert (
        f"ALARM: overlap: 1 bucket with more than one owner, such as {bucket} on backend-1 and"
        " backend-2\n" in done.stdout
    )
    done = site.run("status", site.zk, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["sound"], found["clusters"][0]["overlaps"]["count"]) == (
        1,
        False,
        1,
    )
    assert str(SEED) not in done.stdout


def test_a_terminal_has_colours_unless_they_are_not_wanted(sound: tuple[Site, Cluster]) -> None:
    site, _cluster = sound
    terminal = Terminal("status", site.zk)
    assert terminal.ends() == 0
    assert COLOUR.search(terminal.output)
    assert "[red]web3[/red]" in terminal.output
    terminal = Terminal("status", site.zk, NO_COLOR="1")
    assert terminal.ends() == 0
    assert "[red]web3[/red]" in terminal.output
    assert not COLOUR.search(terminal.output)
    terminal = Terminal("status", site.zk, TERM="dumb")
    assert terminal.ends() == 0
    assert "\x1b" not in terminal.output


def test_a_terminal_is_redrawn_until_ctrl_c(sound: tuple[Site, Cluster]) -> None:
    site, cluster = sound
    terminal = Terminal("status", site.zk, "--watch", "--interval=0.1")
    terminal.read_until("exactly one owner")
    site.hold(1, cluster.share(1) | {min(cluster.share(2))})
    terminal.read_until("ALARM")
    terminal.interrupt()
    assert terminal.ends() == 130
    assert "Traceback" not in terminal.output
    assert terminal.output.endswith("\x1b[?25h")  # the cursor is there again


def test_a_watch_in_a_pipe_prints_changes_and_outlives_zookeeper(
    sound: tuple[Site, Cluster],
) -> None:
    site, cluster = sound
    (server,) = site.server.servers
    watch = site.start("status", site.zk, "--watch", "--interval=0.1")
    assert watch.stdout is not None
    assert watch.stderr is not None
    lines = iter(watch.stdout.readline, "")
    assert (
        next(line for line in lines if "owner" in line) == "  every bucket has exactly one owner\n"
    )
    site.report(1, flows=77, lease_left_s=0.5)  # no news
    site.hold(1, cluster.share(1) | {min(cluster.share(2))})
    assert next(line for line in lines if "owner" in line).startswith("  ALARM: overlap")
    server.stop()
    assert next(
        line
        for line in lines
        if line.startswith("no answer from ZooKeeper: ") and line.endswith(" refuses connections\n")
    )
    server.start()
    server.wait_until_serving()
    assert next(line for line in lines if line.startswith(VIP))
    watch.send_signal(signal.SIGINT)
    assert watch.wait(DEADLINE_S) == 130
    assert watch.stderr.read() == ""
    watch.stdout.close()
    watch.stderr.close()


def test_a_watch_in_json_writes_a_line_for_each_look(sound: tuple[Site, Cluster]) -> None:
    site, _cluster = sound
    with site.start("status", site.zk, "--watch", "--interval=0.1", "--json") as watch:
        assert watch.stdout is not None
        found = [json.loads(watch.stdout.readline()) for _ in range(3)]
        assert [one["sound"] for one in found] == [True] * 3
        assert found[0]["time"] < found[1]["time"] < found[2]["time"]
        site.client.delete(site.path(PATHS.settings))
        one = next(one for line in watch.stdout if "error" in (one := json.loads(line)))
        assert one["error"].startswith("no cluster of --cluster-ip=198.51.100.1 at ")
        assert (one["sound"], one["clusters"]) == (False, [])
        watch.send_signal(signal.SIGINT)


def test_a_reader_that_goes_away_is_no_error(sound: tuple[Site, Cluster]) -> None:
    site, _cluster = sound
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command("status", site.zk),
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=DEADLINE_S,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_two_vips_are_printed_one_after_the_other(sound: tuple[Site, Cluster]) -> None:
    site, _cluster = sound
    done = site.run("status", site.zk, f"--cluster-ip={VIP},198.51.100.2")
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"clusters there: {VIP}; correct the flags, or start a daemon with them\n"
    )
    for path, (data, *_rest) in list(everything(site, f"{site.chroot}/maglev0/{VIP}")):
        site.client.create(path.replace(VIP, "198.51.100.2"), data)
    done = site.run("status", site.zk, f"--cluster-ip={VIP},198.51.100.2")
    assert done.returncode == 1
    assert f"{VIP}: view" in done.stdout
    assert "\n\n198.51.100.2: view" in done.stdout
    assert "ALARM: no members" in done.stdout
    assert "ignored members/1: it is not ephemeral, so no daemon holds it" in done.stdout


def test_with_an_identity_only_what_is_its_own_counts(
    sound: tuple[Site, Cluster], tmp_path: Path
) -> None:
    site, cluster = sound
    password = tmp_path / "password"
    password.write_text("hunter2\n")
    password.chmod(0o600)
    flag = f"--zk-auth=digest:operator:{password}"
    done = site.run("status", site.zk, flag)
    assert (done.returncode, done.stdout) == (1, "")
    assert "settings is not of your identity alone: give the cluster's --zk-auth" in done.stderr
    site.client.add_auth("digest", "operator:hunter2")
    site = Site(site.server, site.client, f"{site.chroot}/closed")
    site.publish(cluster, [make_digest_acl("operator", "hunter2", all=True)])
    done = site.run("status", site.zk, flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert "every bucket has exactly one owner\n" in done.stdout
    password.write_text("hunter3\n")
    done = site.run("status", site.zk, flag)
    assert (done.returncode, done.stdout) == (1, "")
    assert "settings is not of your identity alone: give the cluster's --zk-auth" in done.stderr
    assert "hunter" not in done.stderr


def test_every_trouble_is_one_line_that_says_what_to_do(site: Site) -> None:
    def refusal(*arguments: str) -> tuple[int, str]:
        done = site.run("status", *arguments)
        assert done.stdout == ""
        assert done.stderr.startswith("maglev0: ")
        assert done.stderr.count("\n") == 1
        return done.returncode, done.stderr

    chroot = site.chroot
    assert refusal(site.zk) == (
        1,
        f"maglev0: {site.zk}: {chroot} does not exist; correct it, or start a daemon with it\n",
    )
    site.client.ensure_path(f"{site.chroot}/maglev0/no address")
    status, error = refusal(site.zk)
    assert status == 1
    assert "there is no cluster there" in error
    site.client.create(site.path(PATHS.settings), b"{", makepath=True)
    status, error = refusal(site.zk)
    assert status == 1
    assert "settings cannot be read (not JSON)" in error
    site.client.set_acls(site.path(PATHS.settings), [make_digest_acl("somebody", "else", all=True)])
    status, error = refusal(site.zk)
    assert status == 1
    assert "an ACL keeps this node out" in error
    assert refusal("--zk=127.0.0.1:1") == (
        1,
        "maglev0: no ZooKeeper session within 5 s: 127.0.0.1:1 refuses connections\n",
    )
    assert refusal("--interval=0") == (
        2,
        "maglev0: --interval=0: must be 0.1 to 3600 seconds, such as 1 or 0.5\n",
    )
    assert refusal("--cluster-ip=198.51.100")[0] == 2
    status, error = refusal("--nonsense", "--zk-auth=digest:me:secret")
    assert status == 2
    assert "secret" not in error
