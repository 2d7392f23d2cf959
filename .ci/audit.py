"""Runs the pip-audit that its arguments name, and says what came of it.

An advisory fails, and so does a pip-audit that broke. Without a service in reach nothing was audited, which is said and
is no failure: pip-audit then ends with a traceback, or calls every package unknown where a mirror stands in between.
"""

# ruff: noqa: INP001, T201, S603 - a program, no package; it runs what the Makefile says

import json
import re
import subprocess
import sys
from typing import Any

_OUT_OF_REACH = re.compile(
    r"^requests\.exceptions\.(\w*Timeout|ConnectionError|ProxyError|SSLError|ChunkedEncodingError)\b"
    r"|^requests\.exceptions\.HTTPError: (403|407|429|5\d\d) "
    r"|Could not connect to PyPI's vulnerability feed|PyPI is not redirecting properly",
    re.MULTILINE,
)


def weaknesses(dependencies: list[dict[str, Any]]) -> list[str]:
    """Give a line for each advisory."""
    return [
        f"{package['name']} {package['version']}: {each['id']}, fixed in {', '.join(each['fix_versions']) or 'nothing'}"
        for package in dependencies
        for each in package.get("vulns", [])
    ]


def judge(finished: "subprocess.CompletedProcess[str]") -> int:
    """Tell what pip-audit found, and give the exit status."""
    if not finished.stdout.strip():
        return _out_of_reach() if _OUT_OF_REACH.search(finished.stderr) else _broken(finished)
    try:
        dependencies = json.loads(finished.stdout)["dependencies"]
        audited = [package for package in dependencies if "skip_reason" not in package]
        found = weaknesses(audited)
    except (KeyError, TypeError, ValueError):
        return _broken(finished)
    if not dependencies or (finished.returncode and not found):
        return _broken(finished)
    if not audited:
        return _out_of_reach()
    print(f"audit: {len(audited)} of {len(dependencies)} packages were looked up, {len(found)} advisories")
    print("\n".join(found), file=sys.stderr)
    return 1 if found else 0


def _out_of_reach() -> int:
    print("audit: no advisory service is in reach, so NOTHING was audited; run 'make audit' where there is one")
    return 0


def _broken(finished: "subprocess.CompletedProcess[str]") -> int:
    print(finished.stderr, file=sys.stderr)
    print(f"audit: pip-audit ended with status {finished.returncode} and no report to go by", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(judge(subprocess.run(sys.argv[1:], capture_output=True, text=True, check=False)))
