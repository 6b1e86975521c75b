"""A zoo behind a URL."""

from zoo.client.async_client import AsyncZooClient
from zoo.client.client import ZooClient

__all__ = ["AsyncZooClient", "ZooClient"]
