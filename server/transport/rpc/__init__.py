"""The gRPC transport."""

import os

# Before the library is imported: clients could make it write to stderr as often as they like, a line for each handshake
# that fails or message that is compressed, and none of its lines is a record of our log.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
