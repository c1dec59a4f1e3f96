"""When the dataplane cannot run, its error names what is missing and what fixes it."""

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
        _error_in_a_child(lambda: os.setuid(65534))
        == "clusterip needs CAP_NET_ADMIN and CAP_NET_RAW: run maglev0 as root"
    )


def test_without_the_library_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "iptc", None)  # the import system then finds no such module
    with pytest.raises(UnavailableError, match=r"python-iptables .* apt install iptables"):
        clusterip.check()


def _error_in_a_child(prepare: Callable[[], None]) -> str:
    """Return the error text of `check` in a process of its own."""
    ours, childs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(
        target=_check_and_send, args=(prepare, childs)
    )
    child.start()
    try:
        assert ours.poll(ANSWER_TIMEOUT_S), "no answer"
        return str(ours.recv())
    finally:
        child.join()
        ours.close()
        childs.close()


def _check_and_send(prepare: Callable[[], None], to: Connection) -> None:
    prepare()
    try:
        clusterip.check()
    except UnavailableError as error:
        to.send(str(error))
    else:
        to.send("nothing")
