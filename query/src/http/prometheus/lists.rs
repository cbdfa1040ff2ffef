//! What there is to ask about: names and values of labels, series, metadata; and exemplars.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};
use tailwater_promql::{Matcher, Params as Times, Query, api, number};

use super::params::{Params, invalid, unescaped};
use super::reply::{Failure, success, written};
use crate::engine::Engine;
use crate::http::desk::{Asked, Now};
use crate::series::{self, About, FoundLabels, Window};

const TRUNCATED: &str = "results truncated due to limit";

/// `labels`: names of labels.
pub(super) async fn names(Asked(engine): Asked, params: Params) -> Result<Response, Failure> {
    let selectors = params.selectors(&engine).await?;
    listed(find(&engine, &params, selectors, About::Names).await?, params.limit()?)
}

/// `label/<name>/values`.
pub(super) async fn values(
    Asked(engine): Asked,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, Failure> {
    let name = unescaped(&name)
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Failure::bad_data(format!("invalid label name: {name:?}")))?;
    let selectors = params.selectors(&engine).await?;
    let found = find(&engine, &params, selectors, About::Values(&name)).await?;
    listed(found, params.limit()?)
}

/// `series`: label sets of series.
pub(super) async fn series(Asked(engine): Asked, params: Params) -> Result<Response, Failure> {
    let selectors = params.selectors(&engine).await?;
    if selectors.is_empty() {
        return Err(Failure::bad_data("no match[] parameter provided"));
    }
    let found = find(&engine, &params, selectors, About::Sets).await?;
    let limit = params.limit()?.unwrap_or(usize::MAX);
    let mut warnings: Vec<String> = found.notes.into_iter().collect();
    if found.sets.len() > limit {
        warnings.push(TRUNCATED.to_owned());
    }
    let mut data = String::from("[");
    for (number, labels) in found.sets.iter().take(limit).enumerate() {
        data.push_str(if number == 0 { "" } else { "," });
        api::labels(&mut data, labels);
    }
    data.push(']');
    Ok(written(&data, &warnings, &[]))
}

async fn find<'a>(
    engine: &Engine,
    params: &Params,
    selectors: Vec<Vec<Matcher>>,
    about: About<'a>,
) -> Result<FoundLabels<'a>, Failure> {
    let window = params.window()?;
    let work = series::labels(engine, &selectors, window, about);
    in_time(params.timeout(engine)?, work).await
}

async fn in_time<T>(timeout: Duration, work: impl Future<Output = crate::error::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failure::timeout(timeout)),
    }
}

fn listed(found: FoundLabels<'_>, limit: Option<usize>) -> Result<Response, Failure> {
    let mut warnings: Vec<String> = found.notes.into_iter().collect();
    let limit = limit.unwrap_or(usize::MAX);
    if found.texts.len() > limit {
        warnings.push(TRUNCATED.to_owned());
    }
    let shown: Vec<&str> = found.texts.iter().take(limit).map(|text| &**text).collect();
    Ok(success(&json!(shown), &warnings))
}

/// `metadata`: type, help and unit of metrics; of stored ones those of the last day.
pub(super) async fn metadata(Asked(engine): Asked, Now(now): Now, params: Params) -> Result<Response, Failure> {
    let window = match (params.get("start"), params.get("end")) {
        (None, None) => Window {
            after_ms: now - 86_400_000,
            upto_ms: now,
        },
        _ => params.window()?,
    };
    let limit = at_most(&params, "limit")?;
    let each = at_most(&params, "limit_per_metric")?;
    let mut all: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (name, one) in in_time(params.timeout(&engine)?, series::metadata(&engine, window)).await? {
        if params.get("metric").is_some_and(|metric| metric != name) {
            continue;
        }
        let entries = all.entry(name).or_default();
        if entries.len() < each {
            entries.push(json!({ "type": one.kind, "help": one.help, "unit": one.unit }));
        }
    }
    let shown: BTreeMap<String, Vec<Value>> = all.into_iter().take(limit).collect();
    Ok(success(&json!(shown), &[]))
}

/// A limit of `metadata`: here Prometheus takes a negative one for none.
fn at_most(params: &Params, name: &str) -> Result<usize, Failure> {
    let limit = match params.get(name) {
        Some(text) => text
            .parse::<i64>()
            .map_err(|_| invalid(name, format!("{name} must be a number")))?,
        None => 0,
    };
    Ok(usize::try_from(limit)
        .ok()
        .filter(|limit| *limit > 0)
        .unwrap_or(usize::MAX))
}

/// `query_exemplars`: spans behind the series that a query reads.
pub(super) async fn exemplars(Asked(engine): Asked, params: Params) -> Result<Response, Failure> {
    let text = params.query(&engine)?.to_owned();
    // Whatever a query does with its series, its exemplars are theirs.
    let window = params.window()?;
    let read = move |_: &dyn Fn() -> bool| -> Result<Vec<Vec<Matcher>>, tailwater_promql::Error> {
        let query = Query::parse(&text)?;
        let plan = query.plan(Times::instant(0))?;
        Ok(plan.needs().iter().map(|need| need.matchers.clone()).collect())
    };
    let selectors = engine.compute(read).await??;
    let found = in_time(params.timeout(&engine)?, series::exemplars(&engine, &selectors, window)).await?;
    let mut data = String::from("[");
    for (at, (labels, exemplars)) in found.series.iter().enumerate() {
        data.push_str(if at == 0 {
            r#"{"seriesLabels":"#
        } else {
            r#",{"seriesLabels":"#
        });
        api::labels(&mut data, labels);
        let exemplars: Vec<Value> = exemplars
            .iter()
            .map(|one| {
                #[allow(clippy::cast_precision_loss)] // Milliseconds of our time are exact in a double.
                let timestamp = one.time_ms as f64 / 1000.0;
                json!({
                    "labels": one.labels,
                    "value": number::plain(one.value),
                    "timestamp": timestamp,
                })
            })
            .collect();
        data.push_str(&format!(r#","exemplars":{}}}"#, json!(exemplars)));
    }
    data.push(']');
    let notes: Vec<String> = found.notes.into_iter().collect();
    Ok(written(&data, &notes, &[]))
}
