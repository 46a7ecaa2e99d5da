"""Nothing here asks the network: the reference library and the hub's client only see what the tests wrote."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, which is after this
