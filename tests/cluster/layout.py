"""Where the cluster of the tests lives on this machine: its addresses and its directories."""

from __future__ import annotations

import os
from pathlib import Path

NODE = "node-1"
NODE_ADDRESS = "10.44.0.1"
"""Address of the machine on a bridge of its own: of the node, the API server, the name server and the S3 server."""
POD_NETWORK = "10.45.0.0/24"
SERVICE_NETWORK = "10.46.0.0/24"
API_SERVER = f"https://{NODE_ADDRESS}:6443"
REGISTRY = "127.0.0.1:5050"
"""containerd speaks plain HTTP with a registry on loopback."""
S3_PORT = 9000
PROMETHEUS_PORT = 9090

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "finetune-operator", "cluster")
"""What is slow to make and outlives a cluster: images, and the store of the tool that builds them."""
RUN = CACHE / "run"
"""Everything of the running cluster; it goes with it."""
SOCKETS = Path("/run/finetune-cluster")
"""Short enough for a socket's path."""
ROOT = Path(__file__).parents[2]
"""The checkout."""
