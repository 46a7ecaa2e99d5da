"""What an architecture costs, by closed formulas on its values and without building it: the one door to four rooms.

model/parameters.py: parameters, all and active. model/operations.py: floating-point operations by part.
model/footprint.py: cache bytes. model/roofline.py: what a machine can make of them.
"""

from model.footprint import BYTES, cache_bytes, cache_bytes_per_token, memory_bytes, read_bytes
from model.operations import Operations, encoding_flops, flops, flops_per_token
from model.parameters import Parameters, Weights, parameters, without_memory
from model.roofline import (
    Machine,
    Roofline,
    distinct_experts,
    largest_batch,
    largest_context,
    prefill_roofline,
    roofline,
    weight_bytes_per_step,
)

__all__ = [
    "BYTES",
    "Machine",
    "Operations",
    "Parameters",
    "Roofline",
    "Weights",
    "cache_bytes",
    "cache_bytes_per_token",
    "distinct_experts",
    "encoding_flops",
    "flops",
    "flops_per_token",
    "largest_batch",
    "largest_context",
    "memory_bytes",
    "parameters",
    "prefill_roofline",
    "read_bytes",
    "roofline",
    "weight_bytes_per_step",
    "without_memory",
]
