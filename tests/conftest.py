"""One thread for all tests: small networks run faster so, and two test runs beside each other do not fight."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
