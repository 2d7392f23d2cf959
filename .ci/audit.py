"""Says what pip-audit's report on standard input means; ``make audit`` fails only when it names a weakness.

pip-audit itself calls packages that no advisory service knew free of weaknesses, and ends with a traceback without one.
"""

# ruff: noqa: INP001, T201 - a program, no package

import json
import sys
from typing import Any


def weaknesses(dependencies: list[dict[str, Any]]) -> list[str]:
    """Give a line for each advisory."""
    return [
        f"{package['name']} {package['version']}: {each['id']}, fixed in {', '.join(each['fix_versions']) or 'nothing'}"
        for package in dependencies
        for each in package.get("vulns", [])
    ]


def main() -> int:
    """Read the report, tell, and give the exit status."""
    report = sys.stdin.read()
    dependencies = json.loads(report)["dependencies"] if report.strip() else []
    audited = [package for package in dependencies if "skip_reason" not in package]
    if not audited:
        print("audit: no advisory service is in reach, so NOTHING was audited; run 'make audit' where there is one")
        return 0
    found = weaknesses(audited)
    print(f"audit: {len(audited)} of {len(dependencies)} packages were looked up, {len(found)} advisories")
    print("\n".join(found), file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
