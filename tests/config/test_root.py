"""What the root command does for all others."""

import os
import subprocess
import sys

TOLD = """
import os, sys
from common.cli.root import main
try:
    main(["--version"])
finally:
    print("numpy" in sys.modules, os.environ["OPENBLAS_NUM_THREADS"])
"""


def test_numpy_is_kept_to_one_thread_before_it_is_loaded_and_where_nobody_says_otherwise() -> None:
    bare = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}

    said = [
        subprocess.run([sys.executable, "-c", TOLD], env=bare | own, check=True, capture_output=True, text=True).stdout
        for own in ({}, {"OPENBLAS_NUM_THREADS": "3"})
    ]

    assert [text.splitlines()[-1] for text in said] == ["False 1", "False 3"]
