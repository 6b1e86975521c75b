"""One admission gate for the process, in front of everything: what may be held, read and worked on at a time.

    socket ─► connections  how many, how long a head may take and be, how slow a body may come, who goes first
           ─► overflow     who waits, or is refused, because a queue is full
           ─► bodies       how large a body may be for its route, how many bytes all of them hold together
           ─► work         how much memory decoding, parsing and running networks take together

Each limit is a setting. docs/serving.md adds them up to what a process can take.
"""

from __future__ import annotations

from app.admission.body_budget import BodyBudget
from app.admission.connections import Connections
from app.admission.overflow import Overflow
from app.admission.work import Work
from app.monitoring.metrics import Metrics
from app.settings import Settings


class Gate:
    """Lives as long as the app and belongs to its event loop."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.work = Work(settings.max_work_bytes, settings.max_queue, metrics)
        self.connections = Connections(settings, metrics)
        self.overflow = Overflow()
        self.connections.on_closing(self.overflow.close)
        self.connections.on_closing(self.work.close_soon)
        self.bodies = BodyBudget(settings.max_held_body_bytes, self.connections.evict_slow_body)

    def close(self) -> None:
        self.connections.close()
        self.work.close()
