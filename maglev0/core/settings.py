"""What all nodes of a cluster must agree on, and how a node's flags meet it.

Pure: imports no I/O. The first node writes the settings to ZooKeeper; every other one adopts what its flags leave out and refuses to
start on what they contradict.
"""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass, field, fields
from ipaddress import IPv4Address
from typing import Any, TypeVar

from maglev0.core import table
from maglev0.core.service import HashFamily, HashMode, Service
from maglev0.errors import ConfigError

FORMAT = 3
"""Version of the layout and the data under ``/maglev0/<vip>``; nodes of two formats never share a VIP."""

MAX_TOTAL_NODES = {
    HashFamily.CLUSTERIP: 16,  # CLUSTERIP_MAX_NODES, include/uapi/linux/netfilter_ipv4/ipt_CLUSTERIP.h
    HashFamily.NFTABLES: table.MAX_SIZE,
}
MAX_SETTINGS_BYTES = 4096
MAX_LEASE_MS = 3_600_000
DEFAULT_TOTAL_NODES = 5
LEASE_SHARE = 2 / 3  # of the session timeout of the node that founds the cluster
CLUSTERIP_LEASE_MS = 1000  # its lease is timed by xt_recent, in whole seconds
SEED_LIMIT = 1 << 32

_Choice = TypeVar("_Choice", bound=enum.StrEnum)


@dataclass(frozen=True)
class Settings:
    """The agreed values. `lease_ms` is how long a node's kernel may accept new flows on ZooKeeper's last word."""

    total_nodes: int
    hash_mode: HashMode
    hash_seed: int = field(repr=False)  # secret: who knows it can aim at one node
    hash_family: HashFamily
    cluster_mac: str
    lease_ms: int
    format: int = FORMAT

    def encode(self) -> bytes:
        """The znode's data: JSON with sorted keys, so that equal settings are equal bytes."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    def service(self, vip: IPv4Address, interface: str) -> Service:
        """The service that a node of this cluster carries out on that interface."""
        return Service(
            vip=vip,
            interface=interface,
            cluster_mac=self.cluster_mac,
            total_nodes=self.total_nodes,
            hash_mode=self.hash_mode,
            hash_seed=self.hash_seed,
        )


@dataclass(frozen=True)
class Wishes:
    """What this node's flags ask of the settings; `None` is a flag left out. `families` are the hash families it can run, the best first."""

    total_nodes: int | None
    hash_mode: HashMode | None
    hash_seed: int | None = field(repr=False)
    cluster_mac: str | None
    families: tuple[HashFamily, ...]


def derived_mac(vip: IPv4Address) -> str:
    """The cluster MAC of a VIP where no flag names one: locally administered and multicast, with the VIP in its last four bytes.

    03:bf is the prefix that network engineers know from Windows NLB's multicast mode. It lies outside 01:00:5e, so a switch that snoops
    IGMP has no group to prune it by.
    """
    return ":".join(f"{byte:02x}" for byte in (0x03, 0xBF, *vip.packed))


def first_settings(
    wishes: Wishes, vip: IPv4Address, session_timeout_s: float, seed: int
) -> Settings:
    """The settings that the first node of a cluster writes, which has that session timeout; `seed` serves where no flag gave one.

    Raises ConfigError when no dataplane that this node can run serves that many node numbers.
    """
    total_nodes = DEFAULT_TOTAL_NODES if wishes.total_nodes is None else wishes.total_nodes
    able = [family for family in wishes.families if total_nodes <= MAX_TOTAL_NODES[family]]
    if not able:
        most = max(MAX_TOTAL_NODES[family] for family in wishes.families)
        raise ConfigError(
            f"--total-nodes={total_nodes}: allowed are 1 to {most} with {wishes.families[0]}, the only dataplane that can run here"
        )
    return Settings(
        total_nodes=total_nodes,
        hash_mode=wishes.hash_mode or HashMode.SOURCE_IP,
        hash_seed=seed if wishes.hash_seed is None else wishes.hash_seed,
        hash_family=able[0],
        cluster_mac=wishes.cluster_mac or derived_mac(vip),
        lease_ms=lease_length_ms(able[0], session_timeout_s),
    )


def lease_length_ms(family: HashFamily, session_timeout_s: float) -> int:
    """How long a lease is in a cluster founded by a node with that session timeout."""
    length_ms = int(1000 * LEASE_SHARE * session_timeout_s)
    if family is HashFamily.CLUSTERIP:
        return max(1, length_ms // CLUSTERIP_LEASE_MS) * CLUSTERIP_LEASE_MS
    return max(1, length_ms)


def check_id(my_id: int, settings: Settings) -> None:
    """Raise ConfigError when a node of that id has no place in a cluster with these settings."""
    if my_id > settings.total_nodes:
        raise ConfigError(
            f"--my-id={my_id}: allowed are the whole numbers from 1 to {settings.total_nodes}, the cluster's total-nodes"
        )


def contradictions(wishes: Wishes, settings: Settings) -> tuple[str, ...]:
    """Each flag that contradicts the cluster, as "--flag=given (the cluster has value)"; empty when this node may take part. No seed is told."""
    asked = {
        "--total-nodes": (wishes.total_nodes, settings.total_nodes),
        "--hash-mode": (wishes.hash_mode, settings.hash_mode),
        "--hash-seed": (wishes.hash_seed, settings.hash_seed),
        "--cluster-mac": (wishes.cluster_mac, settings.cluster_mac),
    }
    found = [
        f"{flag}={_told(flag, given, agreed)}"
        for flag, (given, agreed) in asked.items()
        if given is not None and given != agreed
    ]
    if settings.hash_family not in wishes.families:
        found.append(
            f"--dataplane={wishes.families[0]} (the cluster has {settings.hash_family}, which hashes packets differently)"
        )
    return tuple(found)


def _told(flag: str, given: object, agreed: object) -> str:
    return (
        "… (the cluster has another one)"
        if flag == "--hash-seed"
        else f"{given} (the cluster has {agreed})"
    )


def differences(running: Settings, found: Settings) -> tuple[str, ...]:
    """The names of the settings in which two values differ, each as "name was a, is b", but for the seed, which is told to nobody."""
    pairs = (
        (of.name, getattr(running, of.name), getattr(found, of.name)) for of in fields(Settings)
    )
    return tuple(
        f"{name} is another one" if name == "hash_seed" else f"{name} was {was}, is {now}"
        for name, was, now in pairs
        if was != now
    )


def decode(data: bytes) -> Settings:
    """Read a settings znode, whoever wrote it.

    Raises ValueError, saying what is wrong, where a value is missing, of another type or out of bounds; other keys are passed over.
    """
    if len(data) > MAX_SETTINGS_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_SETTINGS_BYTES} are allowed")
    record = read_object(data)
    read_format(record)
    family = read_choice(record, "hash_family", HashFamily)
    return Settings(
        total_nodes=read_int(record, "total_nodes", 1, MAX_TOTAL_NODES[family]),
        hash_mode=read_choice(record, "hash_mode", HashMode),
        hash_seed=read_int(record, "hash_seed", 0, SEED_LIMIT - 1),
        hash_family=family,
        cluster_mac=parse_cluster_mac(read_text(record, "cluster_mac")),
        lease_ms=read_int(record, "lease_ms", 1, MAX_LEASE_MS),
    )


def parse_cluster_mac(text: str) -> str:
    """A multicast MAC in its canonical form; ValueError says what is allowed."""
    parts = text.replace("-", ":").lower().split(":")
    if len(parts) != 6 or not all(
        len(part) == 2 and set(part) <= set("0123456789abcdef") for part in parts
    ):
        raise ValueError("a MAC address is six bytes in hexadecimal, as 03:bf:c6:33:64:01")
    if not int(parts[0], 16) & 1:
        raise ValueError(
            "the cluster MAC must be multicast: its first byte must be odd, as in 03:bf:c6:33:64:01"
        )
    if parts[:5] == ["01", "80", "c2", "00", "00"] and parts[5][0] == "0":
        raise ValueError("switches keep 01:80:c2:00:00:00 to 0f to themselves (IEEE 802.1D)")
    if set(parts) == {"ff"}:
        raise ValueError("the broadcast address is not a multicast group")
    return ":".join(parts)


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object in a znode's data; ValueError for anything else."""
    try:
        record = json.loads(data)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    except ValueError as error:
        raise ValueError("not JSON") from error
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  callers know one kind of bad data
    return record


def read_format(record: dict[str, Any]) -> None:
    """See that a record is of this format; ValueError otherwise."""
    found = read_int(record, "format", 0, SEED_LIMIT)
    if found != FORMAT:
        raise ValueError(f"format {found}, this version of maglev0 knows format {FORMAT}")


def read_choice(record: dict[str, Any], key: str, kind: type[_Choice]) -> _Choice:
    """One of the values of `kind`, from a record; ValueError otherwise."""
    try:
        return kind(read_text(record, key))
    except ValueError as error:
        raise ValueError(f"{key} is none of {', '.join(kind)}") from error


def read_int(record: dict[str, Any], key: str, least: int, most: int) -> int:
    """A whole number of a record within its bounds; ValueError otherwise (true and 1.0 are no whole numbers)."""
    value = record.get(key)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{key} is not a whole number from {least} to {most}")
    return value


def read_bool(record: dict[str, Any], key: str) -> bool:
    """True or false of a record; ValueError otherwise."""
    value = record.get(key)
    if type(value) is not bool:
        raise ValueError(f"{key} is neither true nor false")
    return value


def read_text(record: dict[str, Any], key: str, limit: int = 255) -> str:
    """A text of a record, printable and of at most `limit` characters; ValueError otherwise."""
    value = record.get(key)
    if not isinstance(value, str) or len(value) > limit or not value.isprintable():
        raise ValueError(f"{key} is not a printable text of at most {limit} characters")
    return value
