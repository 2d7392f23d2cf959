"""The promise, checked from the answers that came and the log that was written, and nothing else."""

import sqlite3
from pathlib import Path
from typing import Any

from tests.chaos.application import Application


def judge(application: Application, log: Path) -> dict[str, Any]:
    """Count what was lost, answered twice or logged twice."""
    questions = application.questions.values()
    answered = {request_id for question in questions for request_id, _, _ in question.answers}
    rows = read_rows(log)
    unique = set(rows)
    return {
        "requests": len(questions),
        "answered": sum(bool(question.answers) for question in questions),
        "lost_answers": sum(not question.answers for question in questions),
        "lost_rows": len(answered - unique),
        "answered_twice": sum(len(question.answers) > 1 for question in questions),
        "logged_twice": len(rows) - len(unique) + len(unique - answered),  # a row nobody was told of is a second one
        "degraded_without_reason": application.counts["degraded_without_reason"],
        "reasons": dict(application.reasons),
        "duplicates_seen": application.counts["duplicates_seen"],
        "asked_again": application.counts["asked_again"],
        "refused_inputs": application.counts["refused_inputs"],
    }


def read_rows(log: Path) -> list[str]:
    """Give the request ids of the log's rows."""
    if not log.exists():
        return []
    with sqlite3.connect(f"file:{log}?mode=ro", uri=True, timeout=30) as connection:
        return [
            row[0] for row in connection.execute("SELECT request_id FROM request_log WHERE device_id LIKE 'device%'")
        ]


def is_kept(verdict: dict[str, Any]) -> bool:
    """Say whether the promise was kept."""
    broken = ("lost_answers", "lost_rows", "answered_twice", "logged_twice", "degraded_without_reason")
    return not any(verdict[name] for name in broken)
