"""Views for other programs that read the log, as Datasette and Grafana; made anew with every schema version."""

import sqlalchemy as sa

_HOUR = {
    "sqlite": "strftime('%Y-%m-%d %H:00', created_at, 'unixepoch')",
    "postgresql": "to_char(to_timestamp(created_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:00')",
}
VIEWS = {
    "request_hourly": """
SELECT {hour} AS hour, exit_tier, count(*) AS answers,
 sum(CASE WHEN reason IN ('degraded', 'failed') THEN 1 ELSE 0 END) AS fallbacks,
 count(true_label) AS labelled, sum(CASE WHEN label = true_label THEN 1 ELSE 0 END) AS correct,
 avg(total_ms) AS mean_total_ms, sum(payload_bytes) AS payload_bytes, sum(cost) AS cost,
 count(signature) AS signatures, sum(CASE WHEN signature = 'refused' THEN 1 ELSE 0 END) AS refused_signatures
FROM request_log GROUP BY 1, 2""",
    "request_exits": """
SELECT model_revision, device_id, exit_layer, exit_tier, count(*) AS answers
FROM request_log WHERE reason IN ('confident', 'final') GROUP BY 1, 2, 3, 4""",
    "request_disagreements": """
SELECT request_id, created_at, device_id, exit_tier, exit_layer, confidence, label, true_label, loser_tier, loser_label
FROM request_log WHERE label <> true_label OR label <> loser_label""",
    "hop_times": """
SELECT tier, node, start_layer, end_layer, count(*) AS hops, avg(queue_ms) AS mean_queue_ms,
 avg(compute_ms) AS mean_compute_ms, avg(received_bytes) AS mean_received_bytes
FROM hop GROUP BY 1, 2, 3, 4""",
}


def make_views(connection: sa.Connection) -> None:
    """Replace all views by those of this release."""
    for name, select in VIEWS.items():
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
        body = select.format(hour=_HOUR[connection.dialect.name]).replace("%", "%%" if _has_format(connection) else "%")
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {body.strip()}")


def _has_format(connection: sa.Connection) -> bool:
    """Whether the driver takes a percent sign for the place of a parameter."""
    return connection.dialect.paramstyle in ("format", "pyformat")
