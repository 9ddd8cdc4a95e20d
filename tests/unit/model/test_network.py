"""Network policies: how they are written, and what they close."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.network import PRIVATE, RESERVED, NetworkPolicy, closed_networks


@pytest.mark.parametrize(
    "written", ["internet", "none", "lan:192.168.1.0/24", "lan:10.0.0.0/8,192.168.7.7/32"]
)
def test_a_policy_is_written_as_it_was_read(written: str) -> None:
    policy = NetworkPolicy.parse(written)
    assert str(policy) == written
    assert len(policy.bridge) <= 15


@pytest.mark.parametrize(
    "written", ["", "all", "lan:", "lan:8.8.8.0/24", "lan:0.0.0.0/0", "lan:10.0.0.1/8"]
)  # fmt: skip
def test_other_words_are_refused(written: str) -> None:
    with pytest.raises(InvalidInput):
        NetworkPolicy.parse(written)


def test_order_and_repetition_make_no_other_bridge() -> None:
    one = NetworkPolicy.parse("lan:192.168.1.0/24,10.1.0.0/16")
    assert one == NetworkPolicy.parse("lan:10.1.0.0/16,192.168.1.0/24,10.1.0.0/16")


def test_internet_closes_every_private_and_reserved_network() -> None:
    closed = closed_networks(NetworkPolicy.parse("internet"))
    assert closed == tuple(sorted((*PRIVATE, *RESERVED)))
    for address in ("224.0.0.251", "239.255.255.250", "255.255.255.255", "198.19.0.1", "0.0.0.0"):
        assert any(IPv4Address(address) in one for one in closed), address


@pytest.mark.parametrize("group", ["224.0.0.0/4", "239.255.255.250/32", "198.18.0.0/24"])
def test_what_is_reserved_cannot_be_opened(group: str) -> None:
    with pytest.raises(InvalidInput):
        NetworkPolicy.parse(f"lan:{group}")


def test_an_open_network_is_cut_out_and_the_host_in_it_stays_closed() -> None:
    policy = NetworkPolicy.parse("lan:192.168.1.0/24")
    closed = closed_networks(policy, [IPv4Address("192.168.1.9")])

    def is_closed(address: str) -> bool:
        return any(IPv4Address(address) in one for one in closed)

    assert not is_closed("192.168.1.10")
    assert is_closed("192.168.1.9")
    assert is_closed("192.168.2.10")
    assert is_closed("10.0.0.1")
    assert IPv4Network("192.168.0.0/16") not in closed
