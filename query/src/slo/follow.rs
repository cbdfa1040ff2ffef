//! Objectives over time: one reading for all moments of a graph.

use tailwater_openslo::annotation::NoData;
use tailwater_openslo::{ResolvedObjective, ResolvedSlo};
use tailwater_slo::{AsOf, Settings, Span, Time, TrackPoint, Wanted, track};

use super::HOLE_SECONDS;
use super::reader::Reader;
use crate::engine::Engine;
use crate::error::{ErrorKind, Result};

/// What is asked of an objective.
pub(crate) struct Asked<'a> {
    pub slo: &'a ResolvedSlo,
    pub objective: &'a ResolvedObjective,
    pub wanted: Wanted,
}

/// What each objective shows at each of the moments, which rise; in the order asked. In place of an objective that cannot be evaluated stands a
/// sentence about why.
///
/// The watermark of the last moment serves all of them: a moment in the past had the lake as it is known now, if the lake was watched then.
///
/// # Errors
/// What queries can end in, but for the SQL of a document, which is the document's own trouble.
pub(crate) async fn follow(
    engine: &Engine,
    asked: &[Asked<'_>],
    moments: &[Time],
) -> Result<Vec<std::result::Result<Vec<TrackPoint>, String>>> {
    let lake = Reader::new(engine);
    let (Some(first), Some(last)) = (moments.first(), moments.last()) else {
        return Ok(asked.iter().map(|_| Ok(Vec::new())).collect());
    };
    let newest = AsOf {
        at: *last,
        watermark: lake.watermark(*last).await?,
    };
    let settings = lake.settings(&Settings::default(), newest).await?;
    let around = Span::new(first.plus(-i64::from(HOLE_SECONDS)), last.plus(1));
    let watched = lake.watched_within(around).await?;
    let is_watched = |at: Time| {
        let span = watched.get(watched.partition_point(|span| span.to <= at));
        newest.watermark.is_some_and(|watermark| watermark <= at) || span.is_some_and(|span| span.holds(at))
    };
    let moments: Vec<AsOf> = moments
        .iter()
        .map(|at| AsOf {
            at: *at,
            watermark: newest.watermark.filter(|_| is_watched(*at)),
        })
        .collect();
    let mut all = Vec::with_capacity(asked.len());
    for Asked { slo, objective, wanted } in asked {
        let track = match track(slo, objective, &settings, wanted.clone(), moments.clone()) {
            Ok(track) => track,
            Err(error) => {
                all.push(Err(error.to_string()));
                continue;
            }
        };
        // Only where silence is judged does it matter when the lake was watched.
        let watched = match track.plan.extensions.no_data {
            NoData::Good | NoData::Bad => lake.watched(std::slice::from_ref(&track.plan)).await?,
            _ => Vec::new(),
        };
        all.push(match lake.data(&track.plan, &watched).await {
            Ok(data) => Ok(track.evaluate(data)),
            Err(error) if error.kind() == ErrorKind::BadQuery => {
                Err(format!("SLO `{}`, objective `{}`: {error}", slo.name, objective.name))
            }
            Err(error) => return Err(error),
        });
    }
    Ok(all)
}
