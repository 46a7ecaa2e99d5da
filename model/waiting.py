"""How this process's threads wait for each other. Import it before torch, which reads this once. No torch here.

A thread that waits for the others spins for so many rounds before it sleeps. The usual 300,000 starve whoever shares
the cores, the other thread of the same step included: measured 10 to 20 times slower on busy cores (docs/LOG.md).
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")
