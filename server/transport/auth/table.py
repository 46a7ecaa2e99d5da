"""The one table of who may call what. What is not in it, nobody may call; a test holds it to the running server.

A route is METHOD and its path as it is declared, a call of gRPC its full name.
"""

from __future__ import annotations

from server.transport.auth.access import Access, Standing
from server.transport.auth.keys import Role

INFERENCE_SERVICE = "/dyno.inference.v1.InferenceService"
ADMIN_SERVICE = "/dyno.admin.v1.AdminService"

ACCESS: dict[str, Access] = {
    # whether the process lives and is ready: for whatever keeps it running
    "GET /livez": Standing.OPEN,
    "HEAD /livez": Standing.OPEN,
    "GET /readyz": Standing.OPEN,
    "HEAD /readyz": Standing.OPEN,
    "GET /health": Standing.OPEN,
    "HEAD /health": Standing.OPEN,
    "GET /ready": Standing.OPEN,
    "HEAD /ready": Standing.OPEN,
    "/grpc.health.v1.Health/Check": Standing.OPEN,
    "/grpc.health.v1.Health/Watch": Standing.OPEN,
    # what it is
    "GET /version": Standing.KEY,
    "/grpc.health.v1.Health/List": Standing.KEY,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Standing.KEY,
    # asking models
    "POST /v1/completions": Role.INFERENCE,
    "POST /v1/chat/completions": Role.INFERENCE,
    "POST /tokenize": Role.INFERENCE,
    "POST /detokenize": Role.INFERENCE,
    "GET /v1/models": Role.INFERENCE,
    "GET /v1/models/{name:path}": Role.INFERENCE,
    f"{INFERENCE_SERVICE}/Generate": Role.INFERENCE,
    f"{INFERENCE_SERVICE}/StreamGenerate": Role.INFERENCE,
    f"{INFERENCE_SERVICE}/GenerateMany": Role.INFERENCE,
    f"{INFERENCE_SERVICE}/Score": Role.INFERENCE,
    f"{INFERENCE_SERVICE}/Tokenize": Role.INFERENCE,
    f"{INFERENCE_SERVICE}/Detokenize": Role.INFERENCE,
    f"{INFERENCE_SERVICE}/ListModels": Role.INFERENCE,
    f"{INFERENCE_SERVICE}/GetModel": Role.INFERENCE,
    # what it counts
    "GET /metrics": Role.METRICS,
    "HEAD /metrics": Role.METRICS,
    "GET /v1/routing": Role.METRICS,
    f"{INFERENCE_SERVICE}/WatchRouting": Role.METRICS,
    # running it
    "GET /debug/state": Role.ADMIN,
    "GET /admin/v1/models": Role.ADMIN,
    "POST /admin/v1/models/load": Role.ADMIN,
    "POST /admin/v1/models/unload": Role.ADMIN,
    "GET /admin/v1/requests": Role.ADMIN,
    "POST /admin/v1/requests/cancel": Role.ADMIN,
    "POST /admin/v1/prefix-cache/reset": Role.ADMIN,
    "POST /admin/v1/drain": Role.ADMIN,
    f"{ADMIN_SERVICE}/ListModels": Role.ADMIN,
    f"{ADMIN_SERVICE}/LoadModel": Role.ADMIN,
    f"{ADMIN_SERVICE}/UnloadModel": Role.ADMIN,
    f"{ADMIN_SERVICE}/ListRequests": Role.ADMIN,
    f"{ADMIN_SERVICE}/CancelRequest": Role.ADMIN,
    f"{ADMIN_SERVICE}/ResetPrefixCache": Role.ADMIN,
    f"{ADMIN_SERVICE}/Drain": Role.ADMIN,
}
