-- Questions that are asked often. None of them reads `samples` but `flips`.

-- All runs with their primary measure, whatever their status and however few questions they asked.
CREATE VIEW history AS
SELECT
    r.model, r.task, r.variant, r.primary_metric AS metric,
    m.value, m.stderr, m.ci_low, m.ci_high, m.n,
    r.status, r.cause, r.kind, r.limit_n, r.flags, r.run_id, r.protocol,
    r.engine, r.engine_version, r.dtype, r.device, r.gpus, r.seed, r.parent, r.task_version,
    r.model_revision, r.model_fingerprint, r.dataset_revision, r.git_commit, r.git_dirty,
    r.prompt_tokens, r.completion_tokens, r.seconds, r.started_at, r.finished_at, r.notes
FROM runs AS r
LEFT JOIN measures AS m
    ON m.run_id = r.run_id AND m.metric = r.primary_metric AND m.group_name = ''
ORDER BY r.started_at, r.run_id;

-- The latest complete run of each model, task, variant and protocol: every question of the real
-- benchmark, asked and answered. Rows of one task with different protocols must not be compared.
CREATE VIEW leaderboard AS
SELECT
    model, task, variant, metric, value, stderr, ci_low, ci_high, n, flags, run_id, protocol,
    engine, engine_version, dtype, device, seed, model_revision, model_fingerprint,
    dataset_revision, seconds, started_at, finished_at
FROM history
WHERE status = 'done'
    AND kind IN ('eval', 'import')
    AND limit_n IS NULL
    AND NOT list_has_any(coalesce(flags, []), ['offline_sample', 'steered'])
    AND value IS NOT NULL
QUALIFY row_number() OVER (
    PARTITION BY model, task, variant, protocol
    ORDER BY coalesce(finished_at, started_at) DESC, run_id DESC
) = 1
ORDER BY task, variant, protocol, value DESC, model;

-- Where each model comes from: base → training run → checkpoint → evaluations.
-- One row per evaluation, and one for a model without any. `path` begins with the base.
CREATE VIEW lineage AS
WITH RECURSIVE known AS (
    SELECT name, any_value(parent) AS parent, any_value(train_run) AS train_run
    FROM (
        SELECT name, parent, run_id AS train_run FROM models
        UNION ALL
        SELECT model, parent, NULL FROM runs WHERE kind IN ('eval', 'import')
        UNION ALL
        SELECT parent, NULL, NULL FROM models
        UNION ALL
        SELECT parent, NULL, NULL FROM runs
        UNION ALL
        SELECT model, NULL, NULL FROM runs WHERE kind NOT IN ('eval', 'import')
    )
    WHERE name IS NOT NULL AND name <> ''
    GROUP BY name
),
chain AS (
    SELECT name, parent, train_run, name AS base, 0 AS depth, [name] AS path
    FROM known
    WHERE parent IS NULL
    UNION ALL
    SELECT k.name, k.parent, k.train_run, c.base, c.depth + 1, list_append(c.path, k.name)
    FROM known AS k
    JOIN chain AS c ON k.parent = c.name
    WHERE NOT list_contains(c.path, k.name)
)
SELECT
    c.base, c.depth, c.path, c.name AS model, c.parent,
    c.train_run, t.status AS train_status, t.cause AS train_cause, t.recipe,
    h.run_id AS eval_run, h.status AS eval_status, h.task, h.variant, h.metric,
    h.value, h.ci_low, h.ci_high, h.n, h.limit_n, h.protocol, h.finished_at
FROM chain AS c
LEFT JOIN runs AS t ON t.run_id = c.train_run
LEFT JOIN history AS h ON h.model = c.name AND h.kind IN ('eval', 'import')
ORDER BY c.path, h.task, h.variant, h.finished_at;

-- Two models on the same protocol, question by question: which ones the second won and lost.
-- Name both runs (run_a, run_b) or both models when asking, or it pairs everything.
CREATE VIEW flips AS
SELECT
    a.run_id AS run_a, ra.model AS model_a, b.run_id AS run_b, rb.model AS model_b,
    ra.task, ra.variant, ra.protocol, a.sample_id, a.sample_index, a.group_name,
    CASE
        WHEN b.score > a.score THEN 'won'
        WHEN b.score < a.score THEN 'lost'
        WHEN a.score >= 0.5 THEN 'both_right'
        ELSE 'both_wrong'
    END AS flip,
    a.score AS score_a, b.score AS score_b, a.answer AS answer_a, b.answer AS answer_b,
    a.target, a.prompt, a.output AS output_a, b.output AS output_b
FROM runs AS ra
JOIN runs AS rb
    ON rb.protocol = ra.protocol AND rb.task = ra.task AND rb.variant = ra.variant
    AND rb.model <> ra.model AND rb.status = 'done'
JOIN samples AS a ON a.run_id = ra.run_id
JOIN samples AS b
    ON b.run_id = rb.run_id AND b.sample_id = a.sample_id AND b.sample_index = a.sample_index
WHERE ra.status = 'done' AND ra.protocol <> '' AND a.score IS NOT NULL AND b.score IS NOT NULL;

-- Runs that did not end well, newest first, with what is known about why.
CREATE VIEW failures AS
SELECT
    run_id, kind, status, cause, error, model, task, variant, engine, engine_version, dtype,
    device, gpus, recipe, seconds, started_at, finished_at, notes
FROM runs
WHERE status IN ('failed', 'interrupted')
ORDER BY started_at DESC, run_id DESC;

-- Published numbers.
CREATE VIEW reference AS
SELECT * FROM reference_results;

-- Points of steering sweeps. `prompts`: the group (axiom), '' for all of them.
CREATE VIEW sweeps AS
WITH placed AS (
    SELECT *, regexp_extract(group_name, '^([^/]+)/lambda=([^/]+)/?(.*)$', ['control', 'steer_lambda', 'prompts']) AS place
    FROM measures
    WHERE group_name LIKE '%/lambda=%'
)
SELECT
    r.run_id, r.model, r.variant, r.status, m.place.control AS control,
    CAST(m.place.steer_lambda AS DOUBLE) AS steer_lambda, m.place.prompts AS prompts,
    m.metric, m.value, m.stderr, m.ci_low, m.ci_high, m.n, r.flags, r.finished_at
FROM placed AS m
JOIN runs AS r ON r.run_id = m.run_id
WHERE r.kind = 'steer'
ORDER BY r.finished_at, r.run_id, control, steer_lambda, prompts, metric;

-- How far each ladder was climbed: a row for each rung, with the evidence of its decision.
CREATE VIEW ladders AS
SELECT
    r.recipe ->> '$.name' AS ladder, d.rung, d.name, d.criterion, d.holds, d.evidence, d.decision,
    d.decided_by, d.decided_at, d.hours, d.usd, d.next_rung, d.next_hours, d.next_usd,
    r.status, r.cause, d.run_id, d.run_ids
FROM decisions AS d
JOIN runs AS r ON r.run_id = d.run_id
ORDER BY r.started_at, d.run_id, d.rung;
