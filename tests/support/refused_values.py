"""Values that flags refuse, and the text of each refusal."""

from __future__ import annotations

from maglev0.config.flag_values import MAX_VIPS

ID_RANGE = "must be a whole number from 1 to 1048576"
PORT_RANGE = "must be a whole number from 1 to 65535"
SEED_RANGE = "must be a whole number from 0 to 4294967295, or hexadecimal as 0x1234"
TIMEOUT_RANGE = "must be 0.1 to 3600 seconds, as 4 or 1.5"
ADDRESSES = "must be an IPv4 address, as 198.51.100.1 or 198.51.100.1,198.51.100.2"
UNICAST = "must be a unicast IPv4 address, neither loopback nor link-local"
MANY = ",".join(f"198.51.100.{number}" for number in range(1, MAX_VIPS + 2))
LISTENER = (
    "must be an IP address of this machine and a port, as 127.0.0.1:9105, 0.0.0.0:9105 or [::]:9105"
)
PROGRAM = "must be the full path of a program, without arguments, as /usr/local/bin/notify-us"
SIX_BYTES = "a MAC address is six bytes in hexadecimal, as 03:bf:c6:33:64:01"
INTERFACE = (
    "must be the name of a network interface: "
    "1 to 15 bytes without slash, colon, quote, star, backslash or space"
)
CHROOT = (
    "the chroot after the hosts must be a printable path as /production/web, "
    "without empty parts, '.' or '..'"
)
HOST = (
    " is not host[:port]; the servers must be a list as zk1:2181,zk2:2181,[2001:db8::1]:2181/chroot"
)

REFUSED = [
    *(
        ("--my-id", value, ID_RANGE)
        for value in (
            "",
            "0",
            "-1",
            "1048577",
            "1.5",
            "one",
            "1_0",
            " 1",
            "+1",
            "0x1",
            "٣",
            "9" * 11,
            "9" * 5000,
            "nan",
        )
    ),
    *(
        ("--total-nodes", value, ID_RANGE)
        for value in ("", "0", "-5", "1048577", "5.0", "1e3", "9" * 5000)
    ),
    *(
        ("--cluster-ip", value, ADDRESSES)
        for value in (
            "",
            "198.51.100",
            "198.51.100.256",
            "198.51.100.01",
            "2001:db8::1",
            "vip",
            "198.51.100.1/32",
        )
    ),
    *(
        ("--cluster-ip", value, UNICAST)
        for value in (
            "224.0.0.1",
            "239.1.2.3",
            "127.0.0.1",
            "0.0.0.0",  # noqa: S104
            "169.254.1.1",
            "255.255.255.255",
        )
    ),
    ("--cluster-ip", "198.51.100.1,", "'' " + ADDRESSES),
    ("--cluster-ip", "198.51.100.1,127.0.0.1", "'127.0.0.1' " + UNICAST),
    (
        "--cluster-ip",
        "198.51.100.1,198.51.100.2,198.51.100.1",
        "must name each address once, but 198.51.100.1 is there twice",
    ),
    ("--cluster-ip", MANY, "must be at most 64 addresses, not 65"),
    *(
        ("--metrics", value, LISTENER)
        for value in (
            "",
            "9105",
            ":9105",
            "localhost:9105",
            "::1:9105",
            "[127.0.0.1]:1",
            "0.0.0.0:0",
            "0.0.0.0:",
        )
    ),
    *(
        ("--notify", value, PROGRAM)
        for value in ("", "notify", "/bin/", "/bin/\x1b", "/" + "a" * 4095)
    ),
    *(
        (flag, value, "must be the path of a file")
        for flag in ("--zk-ca", "--zk-cert", "--zk-key")
        for value in ("", "a\n")
    ),
    ("--check", "tcp:0", "the port must be from 1 to 65535, as tcp:80 or http://:8080/health"),
    ("--check-timing", "1", "must be INTERVAL,TIMEOUT,RISE,FALL, as 2,1,2,3"),
    *(
        ("--interface", value, INTERFACE)
        for value in (
            "",
            ".",
            "..",
            "a/b",
            "eth0:1",
            "eth 0",
            'e"',
            "eth*",
            "e\\",
            "e\n",
            "\x1b[1m",
            "a" * 16,
        )
    ),
    *(("--interface", value, INTERFACE) for value in ("ü" * 8, "e\u202e", "e\udcff", "e\x7f")),
    ("--interface", "lo", "must be an interface that other machines reach, not the loopback"),
    *(
        ("--dataplane", value, "must be auto, clusterip or nftables")
        for value in ("", "xdp", "NFTABLES", "nft")
    ),
    *(
        ("--cluster-mac", value, SIX_BYTES)
        for value in (
            "",
            "03:bf",
            "03:bf:c6:33:64:01:02",
            "03bf.c633.6401",
            "03:bf:c6:33:64:1",
            "0３:bf:c6:33:64:01",
        )
    ),
    *(("--cluster-mac", value, SIX_BYTES) for value in ("03:bf:c6:33:64:0g", "+3:bf:c6:33:64:01")),
    (
        "--cluster-mac",
        "02:bf:c6:33:64:01",
        "the cluster MAC must be multicast: its first byte must be odd, as in 03:bf:c6:33:64:01",
    ),
    (
        "--cluster-mac",
        "01:80:C2:00:00:00",
        "switches do not forward 01:80:c2:00:00:00 to 0f (IEEE 802.1D)",
    ),
    ("--cluster-mac", "ff:ff:ff:ff:ff:ff", "the broadcast address is not a multicast group"),
    *(
        (
            "--hash-mode",
            value,
            "must be sourceip, sourceip-sourceport or sourceip-sourceport-destport",
        )
        for value in ("", "destip", "SOURCEIP", "sourceip-")
    ),
    *(
        ("--hash-seed", value, SEED_RANGE)
        for value in (
            "",
            "-1",
            "4294967296",
            "0x",
            "0x100000000",
            "1_0",
            "deadbeef",
            "9" * 5000,
            "1.0",
        )
    ),
    *(
        ("--session-timeout", value, TIMEOUT_RANGE)
        for value in (
            "",
            "0",
            "0.09",
            "3600.1",
            "-4",
            "nan",
            "inf",
            "1e3",
            "4s",
            "1.",
            ".5",
            "9" * 400,
        )
    ),
    *(
        ("--weight", value, "must be a whole number from 0 to 1000")
        for value in ("", "-1", "1001", "1.5", "heavy")
    ),
    *(
        ("--drain-timeout", value, "must be 0 to 86400 seconds, as 30 or 0.5")
        for value in ("", "-1", "86401", "forever", "1m")
    ),
    *(("--xdp", value, "must be auto, native, generic or off") for value in ("", "on", "Native")),
    *(("--zk-loss", value, "must be release or hold") for value in ("", "Hold", "drop")),
    *(
        ("--zk", value, repr(value) + HOST)
        for value in (
            "",
            "zk 1",
            "-zk",
            "zk-",
            "a..b",
            "10.0.0.256",
            "10.0.0",
            "1",
            "10.0.0.1.",
            "::1",
            "[::1",
        )
    ),
    *(
        ("--zk", value, repr(value) + HOST)
        for value in ("[:::]", "[1.2.3.4]", "[fe80::1%eth0]", "[]", "a" * 64, "zk\udcff")
    ),
    ("--zk", "zk1,", "''" + HOST),
    ("--zk", "zk1,,zk2", "''" + HOST),
    ("--zk", "http://zk1", CHROOT),
    ("--zk", "zk1:", "port '' of zk1: " + PORT_RANGE),
    ("--zk", "zk1:0", "port '0' of zk1: " + PORT_RANGE),
    ("--zk", "zk1:65536", "port '65536' of zk1: " + PORT_RANGE),
    ("--zk", "zk1:x", "port 'x' of zk1: " + PORT_RANGE),
    ("--zk", "[::1]:-1", "port '-1' of [::1]: " + PORT_RANGE),
    *(
        ("--zk", "zk1" + chroot, CHROOT)
        for chroot in (
            "//a",
            "/a//b",
            "/.",
            "/a/../b",
            "/a\n",
            "/a\u2028b",
            "/\udcff",
            "/\ue000",
            "/\ufffd",
            "/😀",
        )
    ),
    ("--zk", "zk1/zookeeper", "the chroot /zookeeper is ZooKeeper's own"),
    ("--zk", "zk1/zookeeper/quota", "the chroot /zookeeper is ZooKeeper's own"),
]
