"""Exits with 0 when the server in this container answers `/readyz` (or the path given) with 200."""

import os
import sys
import urllib.request

path = sys.argv[1] if len(sys.argv) > 1 else "/readyz"
url = f"http://127.0.0.1:{os.environ.get('PORT', '8000')}{path}"
try:
    with urllib.request.urlopen(url, timeout=5) as answer:
        sys.exit(answer.status != 200)
except OSError:
    sys.exit(1)
