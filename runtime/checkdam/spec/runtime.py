"""Settings of the runtime that few jobs change: `spec.runtime`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from checkdam.core.durations import parse_duration_ms
from checkdam.spec.fields import Model, PositiveDuration, Quantity, quantity_bytes


class RuntimeSettings(Model):
    """Advanced settings. The defaults suit most jobs; measure before and after a change."""

    channel_credit: Quantity = "512Ki"
    """Bytes that may be under way between two subtasks. A worker's share of memory for the exchange is this times its channels. Less
    shortens alignment under backpressure, more hides the latency of the network."""

    batch_size: Annotated[int, Field(ge=1, le=65536)] = 4096
    """Most records in one batch from a source. Batches shrink by themselves where a call takes long; more than some thousand gain
    nothing and make every call longer."""

    heartbeat_timeout: PositiveDuration = "10s"
    """A worker or coordinator that was not heard of for so long counts as lost. Broken connections are noticed at once; this is for
    machines that vanish without a word."""

    deploy_timeout: PositiveDuration = "10m"
    """How long it may take until all workers of an attempt have restored their state and are ready. When it is over, the attempt counts
    as failed. Set it to more where reading the state back takes longer."""

    @property
    def channel_credit_bytes(self) -> int:
        """`channelCredit` in bytes."""
        return quantity_bytes(self.channel_credit)

    @property
    def heartbeat_timeout_ms(self) -> int:
        """`heartbeatTimeout` in ms."""
        return parse_duration_ms(self.heartbeat_timeout)

    @property
    def deploy_timeout_ms(self) -> int:
        """`deployTimeout` in ms."""
        return parse_duration_ms(self.deploy_timeout)
