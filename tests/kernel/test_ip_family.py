"""The host's nft accepts the keywords of the IP families."""

from __future__ import annotations

import subprocess

import pytest

from maglev0.core.ip_family import IpFamily

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("family", IpFamily)
def test_nft_knows_the_words(family: IpFamily) -> None:
    errors = ", ".join(family.icmp_errors)
    ruleset = f"""table {family.nft_header} words {{
set clients {{ type {family.nft_address}; }}
chain words {{
{family.nft_header} saddr @clients meta l4proto {family.icmp} accept
{family.nft_icmp} type {{ {errors} }} accept
}}
}}
"""
    command = ["unshare", "--net", "nft", "--check", "--file", "-"]
    checked = subprocess.run(command, input=ruleset, capture_output=True, text=True, check=False)
    assert checked.stderr == ""
    assert checked.returncode == 0
