"""Our agent on the cluster's nodes as a host service, and our controller beside the cluster: the harness of both."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagecache.testing.cluster.accounts import identity
from imagecache.testing.cluster.agent import AgentHost
from imagecache.testing.cluster.cluster import Cluster
from imagecache.testing.cluster.controller import ACCOUNT, ControllerHost
from imagecache.testing.cluster.pods import PodSpec, messages, run_pods
from imagecache.testing.images import busybox_image, tar_of
from imagecache.testing.peers.programs import checkout
from imagecache.testing.peers.registry import Registry
