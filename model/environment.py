"""What torch reads from the environment, once, when it is imported: import this before it. No torch here.

Measured in docs/LOG.md; whoever sets the variables decides.
"""

import os

# A thread of torch's that waits for the others spins for so many rounds before it sleeps. The usual 300,000 starve
# whoever shares the cores, the other thread of the same step included: 10 to 20 times slower on busy cores. Our own
# kernels find out how long to spin (kernels/native/team.h).
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Weights and cache in pages of 2 MiB, where the system gives them to those who ask: a step reads hundreds of megabytes
# from one end to the other, and asks for the place of every page.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
