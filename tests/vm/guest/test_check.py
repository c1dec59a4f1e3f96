"""Where the dataplane cannot run, it says what is missing and what mends it."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest

from maglev0.dataplane.clusterip import dataplane as clusterip
from maglev0.errors import UnavailableError

ANSWER_TIMEOUT_S = 60.0


def test_this_kernel_can_in_a_namespace_that_never_saw_a_rule() -> None:
    clusterip.check()


def test_without_rights_they_are_named() -> None:
    assert (
        _said_in_a_child(lambda: os.setuid(65534))
        == "clusterip needs CAP_NET_ADMIN and CAP_NET_RAW: run maglev0 as root"
    )


def test_without_the_library_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "iptc", None
    )  # the import system's own way to say that there is none
    with pytest.raises(UnavailableError, match=r"python-iptables .* apt install iptables"):
        clusterip.check()


def _said_in_a_child(prepare: Callable[[], None]) -> str:
    """What `check` raises in a process of its own."""
    ours, childs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(
        target=_check_and_tell, args=(prepare, childs)
    )
    child.start()
    try:
        assert ours.poll(ANSWER_TIMEOUT_S), "no answer"
        return str(ours.recv())
    finally:
        child.join()
        ours.close()
        childs.close()


def _check_and_tell(prepare: Callable[[], None], to: Connection) -> None:
    prepare()
    try:
        clusterip.check()
    except UnavailableError as error:
        to.send(str(error))
    else:
        to.send("nothing")
