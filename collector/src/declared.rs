//! What SLOs ask of RED: exact registers for their thresholds, and keys that are never folded away.

use std::path::Path;

use tailwater_openslo::{Indicator, RedKey, RedSelector, ResolvedSlo, Source, files};
use tailwater_red::Declared;
use tracing::warn;

/// Most declarations of one selector: every value of each key with every value of the others.
const COMBINATIONS_MAX: usize = 256;

/// What the SLOs of a file or folder declare. A document with a mistake is reported in the log and declares nothing: telemetry does not
/// stop for it.
pub(crate) fn read(path: &Path) -> Vec<Declared> {
    let checked = files::check(&[path]);
    for problem in &checked.problems {
        warn!("slo.files: {problem}");
    }
    of(&checked.slos)
}

fn of(slos: &[ResolvedSlo]) -> Vec<Declared> {
    let mut all = Vec::new();
    for slo in slos {
        for objective in &slo.objectives {
            match &objective.indicator {
                Indicator::Requests { of, good } => {
                    let extra = slo.extensions.latency_thresholds_ns.iter().copied();
                    let thresholds: Vec<u64> = good.max_duration_ns.into_iter().chain(extra).collect();
                    all.extend(combinations(of, &thresholds));
                }
                Indicator::Ratio { part, total, .. } => {
                    for source in [part, total] {
                        if let Source::Red(of) = source {
                            all.extend(combinations(of, &[]));
                        }
                    }
                }
                Indicator::Raw { .. } | Indicator::Threshold { .. } => {}
            }
        }
    }
    all
}

/// A declaration names one value of a key or any; a selector may name several. Keys that would make too many stay open, as do kinds,
/// versions and what is excluded: a register too many costs a few bytes, one too few costs exactness.
fn combinations(selector: &RedSelector, thresholds_ns: &[u64]) -> Vec<Declared> {
    let mut found = vec![Declared {
        thresholds_ns: thresholds_ns.to_vec(),
        ..Declared::default()
    }];
    type Field = fn(&mut Declared) -> &mut Option<String>;
    let fields: [(RedKey, Field); 7] = [
        (RedKey::Tenant, |one| &mut one.tenant),
        (RedKey::Service, |one| &mut one.service_name),
        (RedKey::Namespace, |one| &mut one.service_namespace),
        (RedKey::Env, |one| &mut one.deployment_env),
        (RedKey::Region, |one| &mut one.cloud_region),
        (RedKey::Operation, |one| &mut one.operation),
        (RedKey::Route, |one| &mut one.http_route),
    ];
    for (key, field) in fields {
        let Some(values) = selector.any_of.get(&key) else {
            continue;
        };
        if found.len() * values.len() > COMBINATIONS_MAX {
            continue;
        }
        let each = found
            .iter()
            .flat_map(|one| values.iter().map(move |value| (one, value)));
        found = each
            .map(|(one, value)| {
                let mut one = one.clone();
                *field(&mut one) = Some(value.clone());
                one
            })
            .collect();
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tailwater_openslo::{read as read_text, resolve};

    fn declared(red: &str) -> Vec<Declared> {
        let text = format!(
            "apiVersion: openslo/v1\nkind: SLO\nmetadata:\n  name: a\n  annotations: {{tailwater.io/latency-thresholds: 1s}}\nspec:\n  service: cart\n  \
             indicator: {{metadata: {{name: a}}, spec: {{ratioMetric: {{rawType: success, raw: {{metricSource: {{type: tailwater, \
             spec: {{red: {{{red}}}}}}}}}}}}}}}\n  budgetingMethod: Occurrences\n  objectives: [{{target: 0.9}}]\n"
        );
        let reading = read_text(Path::new("a.yaml"), &text);
        let resolved = resolve(&reading.documents);
        assert!(
            reading.problems.is_empty() && resolved.problems.is_empty(),
            "{reading:?} {resolved:?}"
        );
        of(&resolved.slos)
    }

    #[test]
    fn every_combination_is_declared() {
        let all = declared(
            "service: [cart, mail], region: [\"\", eu], kind: server, good: {errors: exclude, maxDuration: 300ms}",
        );
        let named: Vec<_> = all
            .iter()
            .map(|one| {
                (
                    one.service_name.as_deref().unwrap(),
                    one.cloud_region.as_deref().unwrap(),
                )
            })
            .collect();
        assert_eq!(named, [("cart", ""), ("cart", "eu"), ("mail", ""), ("mail", "eu")]);
        assert!(
            all.iter()
                .all(|one| one.thresholds_ns == [300_000_000, 1_000_000_000] && one.operation.is_none())
        );
    }

    #[test]
    fn too_many_combinations_leave_keys_open() {
        let operations: Vec<String> = (0..300).map(|n| format!("op{n}")).collect();
        let all = declared(&format!(
            "service: cart, operation: [{}], good: {{errors: exclude}}",
            operations.join(",")
        ));
        assert_eq!(all.len(), 1);
        assert_eq!(
            (all[0].service_name.as_deref(), &all[0].operation),
            (Some("cart"), &None)
        );
    }

    #[test]
    fn a_folder_that_is_not_there_declares_nothing() {
        assert_eq!(read(Path::new("no/such/folder")), []);
    }
}
