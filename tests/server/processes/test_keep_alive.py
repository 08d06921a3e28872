"""Who closes an idle connection first: the balancer, never the server, which would lose the request that is just under way."""

import argparse
import re

import pytest
from support import ROOT

from isoform.server.commands.serve import add_arguments_serve

pytestmark = pytest.mark.trust


def test_the_server_keeps_connections_longer_than_the_balancer() -> None:
    """By default longer than the 60 s that most balancers keep theirs, and than the example's nginx does."""
    parser = argparse.ArgumentParser()
    add_arguments_serve(parser)
    seconds = parser.parse_args(["bundle"]).keep_alive
    upstream = re.search(r"upstream replicas \{.*?\n    \}", (ROOT / "docs/examples/nginx.conf").read_text(), re.DOTALL)
    assert upstream is not None
    (kept,) = re.findall(r"keepalive_timeout (\d+)s;", upstream[0])
    assert int(kept) <= 60 < seconds
