"""`python -m services.common.rpc.health HOST:PORT`: exit status 0 if the gRPC server is SERVING.

Used by container probes, because the gRPC probe of Kubernetes cannot present a certificate.
"""

import sys
from typing import Final

from services.common.rpc.client import probe

_TIMEOUT_S: Final = 3.0

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m services.common.rpc.health HOST:PORT")
    sys.exit(0 if probe(sys.argv[1], _TIMEOUT_S) else f"{sys.argv[1]} is not SERVING")
