-- The history: one row per run, measure, sample, grade, training step, trial, model.
-- Table and column names are a public contract. Everything but `models` is built from the run
-- folders, so a change here needs no migration: raise SCHEMA_VERSION in harness/database.py and each
-- home is rebuilt on its next command.
--
-- No keys and no indexes: a run is deleted and inserted whole in one transaction, rows of a run lie
-- together so that min-max statistics find them, and an index would cost more than the insert.

CREATE TABLE runs (
    run_id VARCHAR NOT NULL,        -- name of the run folder
    kind VARCHAR NOT NULL,          -- eval, train, tune, steer, ladder, import
    status VARCHAR NOT NULL,        -- running, done, failed, interrupted
    cause VARCHAR,                  -- label of a failure: out_of_memory, killed, import_error, …
    error VARCHAR,                  -- the sentence that the failure was reported with
    model VARCHAR,                  -- as asked for: registry name, hub id or folder
    model_path VARCHAR,             -- what was loaded: hub id or folder
    model_revision VARCHAR,         -- hub commit, null for a folder
    model_fingerprint VARCHAR,      -- hub commit, or a hash over the folder's weights
    parent VARCHAR,                 -- model that this one was trained from
    task VARCHAR,                   -- benchmark, '' for a training run
    variant VARCHAR,                -- protocol of the benchmark, '' is the default one
    task_version INTEGER,           -- raised when prompt, scorer or metric of the task change
    dataset VARCHAR,                -- hub id, or file
    dataset_revision VARCHAR,       -- hub commit
    protocol VARCHAR,               -- fingerprint: only equal ones may be compared
    n_samples INTEGER,              -- questions asked
    limit_n INTEGER,                -- the --limit that cut them, null for the whole benchmark
    engine VARCHAR,                 -- hf, vllm, openai, ray, mock
    engine_version VARCHAR,
    dtype VARCHAR,                  -- as computed in: float32, bfloat16, float16
    sampling JSON,                  -- temperature, top_p, max_tokens, n, stop, seed
    recipe JSON,                    -- of a training run
    seed INTEGER,
    started_at TIMESTAMP,           -- UTC
    seconds DOUBLE,                 -- wall clock, all attempts of a resumed run together
    device VARCHAR,                 -- name of the CPU or GPU
    gpus INTEGER,                   -- GPUs in use, 0 on a CPU
    prompt_tokens BIGINT,           -- over all requests
    completion_tokens BIGINT,       -- over all completions
    git_commit VARCHAR,             -- of the folder that the command ran in
    git_dirty BOOLEAN,              -- whether it held changes that were not committed
    packages JSON,                  -- package → version, as seen by the worker
    argv JSON,                      -- the command line
    outputs_sha256 VARCHAR,         -- over all completions: equal runs have equal ones
    flags VARCHAR[],                -- what to know before trusting the numbers: offline_sample, …
    notes VARCHAR,
    primary_metric VARCHAR,         -- the metric that a leaderboard shows
    finished_at TIMESTAMP,          -- UTC
    engine_settings JSON,           -- as given with --set
    engine_stats JSON,              -- what the engine counted: distinct tokens, batches, …
    protocol_parts JSON,            -- the values that `protocol` was made from
    key VARCHAR,                    -- equal for the same question to the same weights
    task_file VARCHAR               -- the user's file that the task is in, '' for a known one
);

CREATE TABLE measures (
    run_id VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,        -- acc, exact_match, truncation_rate, parse_failure_rate, …
    group_name VARCHAR NOT NULL,    -- MMLU subject, harm area, …; '' = all
    value DOUBLE,
    stderr DOUBLE,                  -- standard error of `value`
    ci_low DOUBLE,                  -- 95 % interval
    ci_high DOUBLE,
    n INTEGER                       -- samples behind it
);

CREATE TABLE samples (
    run_id VARCHAR NOT NULL,
    sample_id VARCHAR NOT NULL,     -- the same question has the same id in every run of a task
    sample_index INTEGER NOT NULL,  -- 0, or 0 to n - 1 where n completions were drawn
    group_name VARCHAR,             -- as in measures
    prompt VARCHAR,                 -- the exact text that the model read
    output VARCHAR,                 -- the exact text that it wrote; for choices the one it took
    target VARCHAR,                 -- the reference answer
    answer VARCHAR,                 -- read from the output; null: nothing could be read
    score DOUBLE,                   -- by the primary grader of the task
    parsed BOOLEAN,                 -- whether an answer could be read
    truncated BOOLEAN,              -- whether the output hit the token limit
    finish_reason VARCHAR,          -- stop, length, scored
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    choice_logprobs DOUBLE[],       -- of each choice, summed over its tokens, in nats
    grader VARCHAR,                 -- name@version
    explanation VARCHAR             -- why the grader gave that score
);

-- Grades of the same completions by graders other than the primary one.
CREATE TABLE grades (
    run_id VARCHAR NOT NULL,
    sample_id VARCHAR NOT NULL,
    sample_index INTEGER NOT NULL,
    grader VARCHAR NOT NULL,
    version INTEGER,                -- of the grader
    metric VARCHAR,                 -- what the mean of its scores is called
    score DOUBLE,
    answer VARCHAR,                 -- as in samples
    parsed BOOLEAN,
    explanation VARCHAR
);

CREATE TABLE steps (
    run_id VARCHAR NOT NULL,        -- a training run
    step BIGINT,                    -- optimiser steps done
    epoch DOUBLE,
    metric VARCHAR,                 -- loss, grad_norm, learning_rate, tokens_per_second, …
    value DOUBLE
);

CREATE TABLE overlap (
    run_id VARCHAR NOT NULL,        -- a training run
    task VARCHAR,                   -- benchmark that the model will be judged on, with variant
    sample_id VARCHAR,              -- its question that stands in the training data
    kind VARCHAR,                   -- exact: the whole question, ngram: thirteen words in a row
    share DOUBLE,                   -- of the question's 13-word windows that were found
    example BIGINT                  -- first training example that holds it, from 0
);

CREATE TABLE trials (
    run_id VARCHAR NOT NULL,        -- a tuning run
    trial INTEGER,                  -- number within it
    state VARCHAR,                  -- complete, pruned, failed, running
    params JSON,                    -- what was tried
    value DOUBLE,                   -- objective, at its best evaluation
    last_step BIGINT,               -- at which it ended or was pruned
    child_run_id VARCHAR,           -- the training run of the trial
    cause VARCHAR,                  -- label of a failure, as in runs
    error VARCHAR,                  -- its sentence
    best_step BIGINT,               -- at which `value` was measured
    correct INTEGER,                -- answers there that are right
    wrong INTEGER,                  -- that could be read and are not
    format_failure INTEGER,         -- in which no answer could be read
    seconds DOUBLE,                 -- of the whole trial
    training_start_s DOUBLE,        -- from its beginning to the first training step
    engine_start_s DOUBLE           -- from asking its first evaluation to a model ready to answer
);

-- Between the rungs of a ladder: what was decided, and on which evidence.
CREATE TABLE decisions (
    run_id VARCHAR NOT NULL,        -- the run of the ladder
    rung INTEGER,                   -- counted from 1
    name VARCHAR,                   -- of the rung
    criterion VARCHAR,              -- what had to hold, as it was written
    holds BOOLEAN,
    evidence JSON,                  -- each term of the criterion with its value
    decision VARCHAR,               -- escalate, stop, wait (for consent), declined, top
    decided_by VARCHAR,             -- criterion, --yes, asked
    decided_at VARCHAR,             -- UTC, ISO 8601
    hours DOUBLE,                   -- that this rung was expected to take
    usd DOUBLE,
    next_rung VARCHAR,              -- that was decided on, '' where there is none
    next_hours DOUBLE,
    next_usd DOUBLE,
    run_ids VARCHAR[]               -- evaluations, trainings and sweeps of the rung
);

-- A copy of the registry, so that lineage can be asked for in SQL.
CREATE TABLE models (
    name VARCHAR NOT NULL,
    path VARCHAR,                   -- hub id or folder
    revision VARCHAR,               -- hub commit
    parent VARCHAR,                 -- model that it was trained from
    run_id VARCHAR,                 -- training run that made it
    note VARCHAR
);

-- Numbers that others published, from leaderboards/reference/*.csv.
CREATE TABLE reference_results (
    source VARCHAR,                 -- paper table, repository file or project
    experiment VARCHAR,             -- name of the run there
    model VARCHAR,
    method VARCHAR,                 -- sft, dft, asft, dpo, grpo, ppo, d-steer, none
    engine VARCHAR,
    precision VARCHAR,
    lr VARCHAR,                     -- as written there, like the three that follow
    batch_size VARCHAR,
    seq_len VARCHAR,
    extra_params VARCHAR,           -- key=value;key=value
    task VARCHAR,
    metric VARCHAR,
    value DOUBLE,                   -- null where nothing or no number was given
    unit VARCHAR,                   -- percent, fraction, count, text, …
    status VARCHAR,                 -- ok, failed, pending, config, …
    notes VARCHAR                   -- begins with the value as written where that is no number
);

CREATE TABLE ingested (
    run_id VARCHAR NOT NULL,
    stamp BIGINT NOT NULL           -- modification time of the manifest that was read, in ns
);

CREATE TABLE schema_version (
    version INTEGER NOT NULL
);
