"""The gRPC transport."""

import os

# Before the library is imported: clients could make it write to stderr as often as they like, a line for each handshake
# that fails.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
