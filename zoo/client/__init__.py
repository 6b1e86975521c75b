"""A zoo behind a URL."""

from zoo.client.client import AsyncZooClient, ZooClient

__all__ = ["AsyncZooClient", "ZooClient"]
