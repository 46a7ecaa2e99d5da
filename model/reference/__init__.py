"""The yardstick: one sequence, no cache, nothing fused, every formula written out as its paper has it.

Slow on purpose. It reads the weights of a Transformer by name and shares no arithmetic with the code it judges: heads
one by one, keys that a query does not see left out instead of masked, latent attention expanded, experts token by
token. Decoder-only architectures.
"""

from model.reference.experts import Routed
from model.reference.forward import logits_of

__all__ = ["Routed", "logits_of"]
