"""What an exchange did, in numbers: keys, bytes to other ranks, seconds."""

from dataclasses import dataclass, fields


@dataclass
class Traffic:
    """Sums of one rank since the start. Bytes are those for other ranks: what a rank asks of itself costs none.

    Seconds hold the wait for slower ranks; on a GPU they are the processor's, which does not wait for the device.
    """

    fetches: int = 0
    asked: int = 0
    """Distinct keys that this rank asked for (U)."""
    served: int = 0
    """Distinct keys that this rank computed (V); the sum over ranks is the number of distinct keys of all."""
    sizes_bytes: int = 0
    """How many keys come: 8 bytes for each other rank, in each fetch."""
    keys_bytes: int = 0
    """8 for each distinct key whose owner is another rank."""
    vectors_bytes: int = 0
    """A vector for each distinct key of another rank."""
    gradients_bytes: int = 0
    """A gradient for each vector from another rank."""
    sizes_seconds: float = 0.0
    keys_seconds: float = 0.0
    lookup_seconds: float = 0.0
    """Looking up what the store has: nothing is sent."""
    compute_seconds: float = 0.0
    """Computing vectors: nothing is sent."""
    vectors_seconds: float = 0.0
    gradients_seconds: float = 0.0
    wait_seconds: float = 0.0
    """Of a step, for what was begun ahead of it: what sizes, keys and lookup took longer than the step before."""

    @property
    def bytes_sent(self) -> int:
        """All legs together."""
        return self.sizes_bytes + self.keys_bytes + self.vectors_bytes + self.gradients_bytes

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __sub__(self, earlier: "Traffic") -> "Traffic":
        return Traffic(*(getattr(self, each.name) - getattr(earlier, each.name) for each in fields(self)))
