-- a log as schema version 5 made it; never change this file, later versions are tested against it
CREATE TABLE hop (
    request_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    tier TEXT NOT NULL,
    node TEXT NOT NULL,
    start_layer INTEGER NOT NULL,
    end_layer INTEGER NOT NULL,
    queue_ms REAL NOT NULL,
    compute_ms REAL NOT NULL,
    received_bytes INTEGER NOT NULL,
    confidence REAL NOT NULL,
    predictions TEXT NOT NULL,
    variant TEXT DEFAULT '' NOT NULL,
    codec TEXT,
    received_tokens INTEGER,
    received_width INTEGER,
    PRIMARY KEY (request_id, position),
    FOREIGN KEY(request_id) REFERENCES request_log (request_id) ON DELETE CASCADE
)
 WITHOUT ROWID,
 STRICT;
CREATE TABLE request_log (
    request_id TEXT NOT NULL,
    created_at REAL NOT NULL,
    recorded_at REAL NOT NULL,
    device_id TEXT NOT NULL,
    exit_tier TEXT NOT NULL,
    reason TEXT NOT NULL,
    label TEXT,
    true_label TEXT,
    total_ms REAL NOT NULL,
    payload_bytes INTEGER NOT NULL,
    cost REAL NOT NULL,
    confidence REAL NOT NULL,
    threshold REAL,
    exit_layer INTEGER NOT NULL,
    entry_tier TEXT NOT NULL,
    pool TEXT,
    distance_easy REAL,
    distance_moderate REAL,
    distance_hard REAL,
    queue_ms REAL NOT NULL,
    compute_ms REAL NOT NULL,
    network_ms REAL NOT NULL,
    tokens INTEGER NOT NULL,
    is_truncated INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    cost_model TEXT NOT NULL,
    model_revision TEXT NOT NULL,
    detail TEXT NOT NULL,
    text TEXT,
    race_winner TEXT,
    loser_tier TEXT,
    loser_label TEXT,
    loser_confidence REAL,
    PRIMARY KEY (request_id)
)
 STRICT;
CREATE TABLE schema_version (
    version INTEGER NOT NULL,
    PRIMARY KEY (version)
)
 STRICT;
CREATE INDEX request_log_created ON request_log (created_at);
CREATE INDEX request_log_device ON request_log (device_id, created_at);
CREATE INDEX request_log_exits ON request_log (model_revision, exit_layer, reason, created_at, exit_tier, device_id);
CREATE INDEX request_log_figures ON request_log (exit_tier, total_ms, created_at, device_id, reason, label, true_label, payload_bytes, cost);
CREATE INDEX request_log_label ON request_log (label, created_at);
CREATE INDEX request_log_labelled ON request_log (exit_tier, device_id, confidence, label, true_label, created_at) WHERE true_label IS NOT NULL;
CREATE INDEX request_log_raced ON request_log (race_winner, loser_label, label, exit_tier, device_id, reason, created_at) WHERE race_winner IS NOT NULL;
CREATE INDEX request_log_reason ON request_log (reason, created_at);
CREATE INDEX request_log_recorded ON request_log (recorded_at, request_id);
CREATE INDEX request_log_tier ON request_log (exit_tier, created_at);
CREATE VIEW request_hourly AS SELECT strftime('%Y-%m-%d %H:00', created_at, 'unixepoch') AS hour, exit_tier, count(*) AS answers,
 sum(CASE WHEN reason IN ('degraded', 'failed') THEN 1 ELSE 0 END) AS fallbacks,
 count(true_label) AS labelled, sum(CASE WHEN label = true_label THEN 1 ELSE 0 END) AS correct,
 avg(total_ms) AS mean_total_ms, sum(payload_bytes) AS payload_bytes, sum(cost) AS cost
FROM request_log GROUP BY 1, 2;
CREATE VIEW request_exits AS SELECT model_revision, device_id, exit_layer, exit_tier, count(*) AS answers
FROM request_log WHERE reason IN ('confident', 'final') GROUP BY 1, 2, 3, 4;
CREATE VIEW request_disagreements AS SELECT request_id, created_at, device_id, exit_tier, exit_layer, confidence, label, true_label, loser_tier, loser_label
FROM request_log WHERE label <> true_label OR label <> loser_label;
CREATE VIEW hop_times AS SELECT tier, node, start_layer, end_layer, count(*) AS hops, avg(queue_ms) AS mean_queue_ms,
 avg(compute_ms) AS mean_compute_ms, avg(received_bytes) AS mean_received_bytes
FROM hop GROUP BY 1, 2, 3, 4;
INSERT INTO schema_version VALUES (5);
INSERT INTO request_log VALUES ('old-1', 1750000000.5, 1750000001.25, 'pi-1', 'edge', 'confident', 'positive', 'negative', 12.5, 9000, 4.25,
    0.97, 0.9, 4, 'device', 'moderate', 1.5, 0.25, 2.0, 1.5, 5.0, 6.0, 7, 0, 1, 'paper', 'abc', '', 'a fine film', NULL, NULL, NULL, NULL);
INSERT INTO hop VALUES ('old-1', 0, 'device', 'pi-1', 0, 2, 0.5, 2.0, 0, 0.6, '[1]', '', NULL, NULL, NULL);
INSERT INTO hop VALUES ('old-1', 1, 'edge', 'edge-1', 2, 4, 1.0, 3.0, 9000, 0.97, '[1,0]', '', 'int8', 7, 384);
