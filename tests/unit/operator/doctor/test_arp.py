"""The doctor's ARP questions, and its judgement of the answers and of missing ones."""

from __future__ import annotations

from ipaddress import IPv4Address

from maglev0.operator.doctor.arp import judge as arp
from maglev0.operator.doctor.arp.judge import BROADCAST, ArpTally, Heard, Peer, Question
from maglev0.operator.doctor.finding import Finding, Severity

VIP, CLUSTER, OWN = IPv4Address("198.51.100.1"), "03:bf:c6:33:64:01", "02:4d:47:00:00:01"
PEERS = tuple(
    Peer(f"backend-{number}", IPv4Address(f"198.18.0.{number}"), f"02:4d:47:00:00:0{number}", True)
    for number in (2, 3, 4, 5, 6)
)
TWO = PEERS[:2]


def answer(
    peer: Peer, asked: str, address: IPv4Address | None = None, mac: str | None = None
) -> Heard:
    return Heard(asked, peer.mac, mac or peer.mac, address or peer.address, asked, is_reply=True)


def tally(peers: tuple[Peer, ...], rounds: int = 3, **counts: dict[int, int]) -> ArpTally:
    """The counts of sound rounds, but for `counts`: answers by question and the peer's index."""
    made = ArpTally(rounds)
    for peer in peers:
        made.take(answer(peer, OWN, VIP, CLUSTER), Question.CONTROL, VIP, OWN, CLUSTER)
    for kind in Question:
        for place, peer in enumerate(peers):
            for _round in range(counts.get(kind.value, {}).get(place, rounds)):
                made.take(
                    answer(peer, CLUSTER if kind is Question.HERE else OWN), kind, VIP, OWN, CLUSTER
                )
    return made


def alarms(made: ArpTally, peers: tuple[Peer, ...] = TWO) -> list[Finding]:
    return [
        finding
        for finding in arp.judge(made, peers, VIP, CLUSTER)
        if finding.severity is not Severity.SOUND
    ]


def test_questions_are_read_back_as_they_were_made() -> None:
    peer = PEERS[0].address
    frames = {kind: arp.parse_arp(arp.question(kind, peer, OWN, CLUSTER)) for kind in Question}
    assert frames[Question.CONTROL] == Heard(
        BROADCAST, OWN, OWN, arp.NOBODY, "00:00:00:00:00:00", is_reply=False
    )
    assert frames[Question.THERE] == Heard(
        CLUSTER, OWN, OWN, arp.NOBODY, "00:00:00:00:00:00", is_reply=False
    )
    assert frames[Question.HERE] == Heard(
        BROADCAST, OWN, CLUSTER, arp.NOBODY, "00:00:00:00:00:00", is_reply=False
    )


def test_other_frames_are_none() -> None:
    frame = arp.question(Question.CONTROL, PEERS[0].address, OWN, CLUSTER)
    assert arp.parse_arp(frame + bytes(18)) is not None  # padded to the minimum length of a frame
    for other in (
        frame[:41],
        frame[:12] + b"\x08\x00" + frame[14:],
        frame[:15] + b"\6" + frame[16:],
        frame[:20] + b"\0\3" + frame[22:],
    ):
        assert arp.parse_arp(other) is None


def test_a_sound_network() -> None:
    assert alarms(tally(TWO)) == []
    assert {finding.what for finding in arp.judge(tally(TWO), TWO, VIP, CLUSTER)} >= {
        f"2 other hosts answer for {VIP}, all with {CLUSTER}"
    }


def test_nobody_to_ask() -> None:
    assert {(finding.severity, finding.check) for finding in alarms(ArpTally(3), ())} == {
        (Severity.LEFT_OUT, check) for check in (arp.NEIGHBOURS, arp.HERE, arp.THERE)
    }


def test_others_requests_and_answers_to_others_do_not_count() -> None:
    made = ArpTally(1)
    made.take(answer(TWO[0], OWN)._replace(is_reply=False), Question.CONTROL, VIP, OWN, CLUSTER)
    made.take(answer(TWO[0], OWN), Question.HERE, VIP, OWN, CLUSTER)
    made.take(answer(TWO[0], CLUSTER), Question.THERE, VIP, OWN, CLUSTER)
    assert not made.answers


def test_impostors_are_named() -> None:
    made = tally(TWO)
    stranger = "02:00:00:00:00:99"
    made.take(
        Heard(OWN, stranger, stranger, VIP, OWN, is_reply=True), Question.CONTROL, VIP, OWN, CLUSTER
    )
    made.take(
        Heard(BROADCAST, TWO[0].mac, TWO[0].mac, VIP, BROADCAST, is_reply=False),
        Question.THERE,
        VIP,
        OWN,
        CLUSTER,
    )
    words = [finding.what for finding in alarms(made)]
    assert words == [
        f"a host that is not a member ({stranger}) answers ARP for {VIP} with {stranger}",
        f"backend-2 answers ARP for {VIP} with {TWO[0].mac}",
    ]


def test_members_that_do_not_answer_for_the_vip() -> None:
    made = tally(TWO)
    made.speakers.pop(TWO[1].mac)
    (finding,) = alarms(made)
    assert (finding.severity, finding.check) == (Severity.FAULT, arp.VIP_MAC)
    assert finding.what.startswith("backend-3 (198.18.0.3) does not answer ARP")
    assert alarms(made, (TWO[0], TWO[1]._replace(answers=False))) == []
    made.speakers.clear()
    assert "backend-2 (198.18.0.2), backend-3 (198.18.0.3) do not" in alarms(made)[0].what


def test_members_that_are_not_on_this_network() -> None:
    (finding,) = alarms(tally(TWO, control={0: 0}, there={0: 0}, here={0: 0}))
    assert (finding.severity, finding.check) == (Severity.WARNING, arp.NEIGHBOURS)
    nobody = {0: 0, 1: 0}
    checks = [finding.check for finding in alarms(tally(TWO, control=nobody))]
    assert checks == [arp.NEIGHBOURS, arp.THERE, arp.HERE]


def test_frames_that_never_arrive_and_frames_that_arrive_sometimes() -> None:
    (finding,) = alarms(tally(PEERS, there=dict.fromkeys(range(5), 0)), PEERS)
    assert (finding.severity, finding.check) == (Severity.FAULT, arp.THERE)
    assert (
        "backend-2 (198.18.0.2), backend-3 (198.18.0.3), backend-4 (198.18.0.4) and 2 more"
        in finding.what
    )
    lost, some = alarms(tally(TWO, here={0: 0, 1: 2}))
    assert (lost.severity, some.severity) == (Severity.FAULT, Severity.WARNING)
    assert "backend-3 2 of 3" in some.what
    (some,) = alarms(tally(TWO, there={0: 1}))
    assert (some.severity, some.check) == (Severity.WARNING, arp.THERE)
    # A host that misses whole rounds is busy; the switch is not the cause.
    assert alarms(tally(TWO, control={0: 1}, there={0: 1}, here={0: 1})) == []
