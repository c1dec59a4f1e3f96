"""What all nodes of a cluster must agree on, and how a node's flags are compared with it.

Pure: imports no I/O. The first node writes the settings to ZooKeeper. Every other node adopts what
its flags leave out, and refuses to start where its flags contradict the settings.
"""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass, field, fields
from ipaddress import IPv4Address
from typing import Any, TypeVar

from maglev0.core import table
from maglev0.core.ip_family import Vip
from maglev0.core.service import Delivery, HashFamily, HashMode, Service
from maglev0.errors import ConfigError

FORMAT = 3
"""Version of the layout and the data under ``/maglev0/<vip>``.

Nodes of two formats never share a VIP.
"""

ONE_FORMAT = "stop the members of the other version first, or run their version here"

MAX_TOTAL_NODES = {
    # CLUSTERIP_MAX_NODES, include/uapi/linux/netfilter_ipv4/ipt_CLUSTERIP.h
    HashFamily.CLUSTERIP: 16,
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
    """The agreed values.

    `lease_ms` is how long a node's kernel may accept new flows after the node sent a renewal.
    """

    total_nodes: int
    hash_mode: HashMode
    hash_seed: int = field(repr=False)  # secret: a client that knows it can aim at one node
    hash_family: HashFamily
    cluster_mac: str
    lease_ms: int
    delivery: Delivery = Delivery.FLOOD
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
    """What this node's flags ask of the settings; `None` is a flag left out.

    `families` are the hash families that this node can run, the preferred one first.
    """

    total_nodes: int | None
    hash_mode: HashMode | None
    hash_seed: int | None = field(repr=False)
    cluster_mac: str | None
    families: tuple[HashFamily, ...]


def derived_mac(vip: Vip) -> str:
    """The cluster MAC of a VIP where no flag names one.

    It is locally administered and multicast; its last four bytes are those of the VIP. Network
    engineers know the prefix 03:bf from Windows NLB's multicast mode. It lies outside 01:00:5e, so
    a switch that snoops IGMP has no group to prune it by.
    """
    return ":".join(f"{byte:02x}" for byte in (0x03, 0xBF, *vip.packed[-4:]))


def first_settings(wishes: Wishes, vip: Vip, session_timeout_s: float, seed: int) -> Settings:
    """The settings that the first node of a cluster writes; it has that session timeout.

    `seed` is used where no flag gives one. Raises ConfigError when no dataplane that this node can
    run serves that many buckets.
    """
    total_nodes = DEFAULT_TOTAL_NODES if wishes.total_nodes is None else wishes.total_nodes
    able = [family for family in wishes.families if total_nodes <= MAX_TOTAL_NODES[family]]
    if not able:
        most = max(MAX_TOTAL_NODES[family] for family in wishes.families)
        raise ConfigError(
            f"--total-nodes={total_nodes}: allowed are 1 to {most} with {wishes.families[0]}, "
            "the only dataplane that can run here"
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
    """The length of a lease in a cluster whose first node has that session timeout."""
    length_ms = int(1000 * LEASE_SHARE * session_timeout_s)
    if family is HashFamily.CLUSTERIP:
        return max(1, length_ms // CLUSTERIP_LEASE_MS) * CLUSTERIP_LEASE_MS
    return max(1, length_ms)


def check_id(my_id: int, settings: Settings) -> None:
    """Raise ConfigError when the settings allow no node of that id."""
    if my_id > settings.total_nodes:
        raise ConfigError(
            f"--my-id={my_id}: allowed are the whole numbers from 1 to {settings.total_nodes}, "
            "the cluster's total-nodes"
        )


def contradictions(wishes: Wishes, settings: Settings) -> tuple[str, ...]:
    """Each flag that contradicts the cluster, as "--flag=given (the cluster has value)".

    Empty when this node may take part. The texts never contain a hash seed.
    """
    asked = {
        "--total-nodes": (wishes.total_nodes, settings.total_nodes),
        "--hash-mode": (wishes.hash_mode, settings.hash_mode),
        "--hash-seed": (wishes.hash_seed, settings.hash_seed),
        "--cluster-mac": (wishes.cluster_mac, settings.cluster_mac),
    }
    found = [
        f"{flag}={_compared(flag, given, agreed)}"
        for flag, (given, agreed) in asked.items()
        if given is not None and given != agreed
    ]
    if settings.hash_family not in wishes.families:
        found.append(
            f"--dataplane={wishes.families[0]} (the cluster has {settings.hash_family}, "
            "which hashes packets differently)"
        )
    return tuple(found)


def _compared(flag: str, given: object, agreed: object) -> str:
    return (
        "… (the cluster has another one)"
        if flag == "--hash-seed"
        else f"{given} (the cluster has {agreed})"
    )


def differences(running: Settings, found: Settings) -> tuple[str, ...]:
    """Each setting that differs, as "name was a, is b"; the texts never contain a hash seed."""
    pairs = (
        (of.name, getattr(running, of.name), getattr(found, of.name)) for of in fields(Settings)
    )
    return tuple(
        f"{name} is another one" if name == "hash_seed" else f"{name} was {was}, is {now}"
        for name, was, now in pairs
        if was != now
    )


def decode(data: bytes) -> Settings:
    """Read the data of a settings znode; it may come from anybody.

    Raises ValueError, saying what is wrong, where a value is missing, of another type or out of
    bounds. Other keys are ignored.
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
        delivery=_read_delivery(record),
    )


def _read_delivery(record: dict[str, Any]) -> Delivery:
    delivery = read_choice(record, "delivery", Delivery)
    if delivery is not Delivery.FLOOD:
        raise ValueError(
            f"delivery is {delivery}, this version of maglev0 delivers by {Delivery.FLOOD} only"
        )
    return delivery


def parse_cluster_mac(text: str) -> str:
    """A multicast MAC in its canonical form; the text of the ValueError says what is allowed."""
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
        raise ValueError("switches do not forward 01:80:c2:00:00:00 to 0f (IEEE 802.1D)")
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
        raise ValueError("not a JSON object")  # noqa: TRY004  callers expect ValueError for bad data
    return record


def read_format(record: dict[str, Any], remedy: str = ONE_FORMAT) -> None:
    """Check that a record is of this format; the text of the ValueError ends with the remedy."""
    found = read_int(record, "format", 0, SEED_LIMIT)
    if found != FORMAT:
        raise ValueError(f"format {found}, this version of maglev0 uses format {FORMAT}: {remedy}")


def read_choice(record: dict[str, Any], key: str, kind: type[_Choice]) -> _Choice:
    """One of the values of `kind`, from a record; ValueError otherwise."""
    try:
        return kind(read_text(record, key))
    except ValueError as error:
        raise ValueError(f"{key} is none of {', '.join(kind)}") from error


def read_int(record: dict[str, Any], key: str, least: int, most: int) -> int:
    """A whole number of a record within its bounds; ValueError otherwise.

    JSON's true and 1.0 are not whole numbers.
    """
    value = record.get(key)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{key} is not a whole number from {least} to {most}")
    return value


def read_bool(record: dict[str, Any], key: str) -> bool:
    """A truth value of a record; ValueError otherwise."""
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
