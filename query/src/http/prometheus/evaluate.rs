//! `query` and `query_range`: read the query, fetch what it needs, evaluate.
//!
//! Parameters of `query`: `query`, `time` (now). Of `query_range`: `query`, `start`, `end`, `step`. Of both: `timeout`, `lookback_delta`, `limit` (most
//! series). `stats` is understood and not answered.

use std::collections::BTreeSet;

use axum::response::Response;
use tailwater_promql::{self as promql, LOOKBACK_MS, Limits, Need, Value, api};

use super::params::{Params, invalid};
use super::reply::{Failure, written};
use crate::engine::Engine;
use crate::http::desk::{Asked, Now};
use crate::series::{Newest, Room, samples_max, select};

/// Most points of a series: Grafana asks for no more (prometheus/prometheus:web/api/v1/api.go).
const STEPS_MAX: usize = 11_000;

pub(super) async fn instant(Asked(engine): Asked, Now(now): Now, params: Params) -> Result<Response, Failure> {
    let times = promql::Params::instant(params.time("time")?.unwrap_or(now));
    answer(&engine, &params, times, now).await
}

pub(super) async fn range(Asked(engine): Asked, Now(now): Now, params: Params) -> Result<Response, Failure> {
    let (start, end) = (params.must_time("start")?, params.must_time("end")?);
    let step = params
        .duration("step")?
        .ok_or_else(|| invalid("step", "it is missing"))?;
    if step <= 0 {
        let why = "zero or negative query resolution step widths are not accepted. Try a positive integer";
        return Err(invalid("step", why));
    }
    answer(&engine, &params, promql::Params::range(start, end, step), now).await
}

async fn answer(engine: &Engine, params: &Params, mut times: promql::Params, now: i64) -> Result<Response, Failure> {
    let text = params.query(engine)?.to_owned();
    let limit = params.limit()?;
    if let Some(lookback) = params.duration("lookback_delta")?.filter(|ms| *ms > 0) {
        times.lookback_ms = lookback;
    } else {
        times.lookback_ms = LOOKBACK_MS;
    }
    times.limits = Limits {
        samples_max: samples_max(engine),
        steps_max: STEPS_MAX,
        ..Limits::default()
    };
    let timeout = params.timeout(engine)?;
    tokio::time::timeout(timeout, evaluate(engine, text, times, limit, now))
        .await
        .unwrap_or_else(|_| Err(Failure::timeout(timeout)))
}

async fn evaluate(
    engine: &Engine,
    text: String,
    times: promql::Params,
    limit: Option<usize>,
    now: i64,
) -> Result<Response, Failure> {
    // On the engine's threads: reading a query is recursion over a stranger's text.
    let read = move |_: &dyn Fn() -> bool| -> Result<(promql::Query, Vec<Need>), promql::Error> {
        let query = promql::Query::parse(&text)?;
        let needs = query.plan(times)?.needs().to_vec();
        Ok((query, needs))
    };
    let (query, needs) = engine.compute(read).await??;
    let (mut data, mut warnings) = (Vec::with_capacity(needs.len()), Vec::new());
    let mut infos = BTreeSet::new();
    let mut room = Room::of(engine);
    let mut newest = Newest::as_of(now);
    for need in &needs {
        let found = select(engine, need, times.lookback_ms, &mut newest, room).await?;
        room = found.room;
        warnings.extend(found.notes);
        infos.extend(found.infos);
        data.push(found.series);
    }
    let evaluated = move |stop: &dyn Fn() -> bool| -> Result<(String, Vec<String>, Vec<String>), promql::Error> {
        let answer = query.plan(times)?.evaluate(&data, stop)?;
        let (mut value, mut warned) = (answer.value, answer.warnings);
        if limit.is_some_and(|limit| truncate(&mut value, limit)) {
            warned.push("results truncated due to limit".to_owned());
        }
        Ok((api::data(&value), warned, answer.infos))
    };
    let (data, warned, informed) = engine.compute(evaluated).await??;
    warnings.extend(warned);
    let infos: Vec<String> = infos.into_iter().chain(informed).collect();
    warnings.sort();
    warnings.dedup();
    Ok(written(&data, &warnings, &infos))
}

/// Keeps the first series; says whether there were more.
fn truncate(value: &mut Value, limit: usize) -> bool {
    match value {
        Value::Matrix(series) => {
            let more = series.len() > limit;
            series.truncate(limit);
            more
        }
        Value::Vector { samples, .. } => {
            let more = samples.len() > limit;
            samples.truncate(limit);
            more
        }
        Value::Scalar { .. } | Value::Text { .. } => false,
    }
}
