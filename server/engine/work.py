"""What was computed and moved, as counts that cost little to add up. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from model.costs import Costs
from model.operations import Operations
from server.engine.stats import Compute


@dataclass(slots=True, eq=False)
class Work:
    """The work of one request so far, or of one step; the work of all requests adds up to that of all steps.

    Counts are exact. What a forward pass does once for all its rows is borne by them in proportion to their tokens,
    sources that are read included: a row of 1 token in a pass of 4 bears a quarter of the weights that were read, of
    the pass and of its seconds.
    """

    tokens: int = 0  # that went through the model, wrong drafts included
    logits: int = 0  # positions whose logits were computed
    scores: int = 0  # operations
    read: int = 0  # cache bytes
    kept: int = 0  # bytes of states that were written
    states: int = 0  # of sources that an encoder read
    encoding: Operations = Operations()  # its operations
    weights: float = 0.0  # bytes
    passes: float = 0.0
    seconds: float = 0.0
    memory_bound: float = 0.0  # seconds
    compute_bound: float = 0.0

    def add(
        self, tokens: int, logits: int, scores: int, read: int, weights: float, passes: float, seconds: float
    ) -> None:
        self.tokens += tokens
        self.logits += logits
        self.scores += scores
        self.read += read
        self.weights += weights
        self.passes += passes
        self.seconds += seconds

    def join(self, other: Work) -> None:
        """Add all of another's."""
        self.add(other.tokens, other.logits, other.scores, other.read, other.weights, other.passes, other.seconds)
        self.kept += other.kept
        self.encoded(other.states, other.encoding, 0)
        self.memory_bound += other.memory_bound
        self.compute_bound += other.compute_bound

    def encoded(self, states: int, operations: Operations, weights: int) -> None:
        """A source was read, which is nobody else's."""
        self.states += states
        self.encoding += operations
        self.weights += weights

    def bill(self, costs: Costs, parameters: int = 0) -> Compute:
        """The same as operations and bytes."""
        operations = costs.operations(self.tokens, self.logits, self.scores)
        return Compute(
            operations=operations + self.encoding if self.states else operations,
            weight_bytes=self.weights,
            cache_read_bytes=self.read,
            cache_written_bytes=self.tokens * costs.entry + self.kept + self.states * costs.state,
            tokens=self.tokens,
            passes=self.passes,
            seconds=self.seconds,
            parameters=parameters,
            memory_bound_seconds=self.memory_bound,
            compute_bound_seconds=self.compute_bound,
        )
