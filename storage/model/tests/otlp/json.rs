//! JSON to protobuf against the serde form of `opentelemetry-proto`: the example requests, and generated requests written in all the
//! ways that the mapping allows.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, exemplar, number_data_point};
use proptest::prelude::*;
use prost::Message;
use serde_json::Value;
use tailwater_model::otlp::json::{JsonError, transcode};
use tailwater_model::signal::Signal;

use crate::bend::Dice;
use crate::data;
use crate::generate;
use crate::generated::config;

const CAP: usize = 16 << 20;

fn check_example(name: &str, signal: Signal, expected: impl FnOnce(&str) -> Vec<u8>) {
    let Some(text) = data::example(name) else { return };
    let bytes = transcode(signal, text.as_bytes(), CAP).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(!bytes.is_empty(), "{name} holds nothing");
    assert_eq!(again(signal, &bytes), expected(&text), "{name}");
}

/// The request as prost writes it: without the zeros that the transcoder spells out.
fn again(signal: Signal, bytes: &[u8]) -> Vec<u8> {
    match signal {
        Signal::Traces => ExportTraceServiceRequest::decode(bytes).unwrap().encode_to_vec(),
        Signal::Metrics => ExportMetricsServiceRequest::decode(bytes).unwrap().encode_to_vec(),
        Signal::Logs => ExportLogsServiceRequest::decode(bytes).unwrap().encode_to_vec(),
    }
}

#[test]
fn the_example_requests() {
    let traces = |text: &str| {
        serde_json::from_str::<ExportTraceServiceRequest>(text)
            .unwrap()
            .encode_to_vec()
    };
    let metrics = |text: &str| {
        serde_json::from_str::<ExportMetricsServiceRequest>(text)
            .unwrap()
            .encode_to_vec()
    };
    let logs = |text: &str| {
        serde_json::from_str::<ExportLogsServiceRequest>(text)
            .unwrap()
            .encode_to_vec()
    };
    check_example("trace.json", Signal::Traces, traces);
    check_example("metrics.json", Signal::Metrics, metrics);
    check_example("logs.json", Signal::Logs, logs);
    check_example("events.json", Signal::Logs, logs);
}

const ENUMS: [&str; 4] = ["kind", "code", "severityNumber", "aggregationTemporality"];
const IDS: [&str; 3] = ["traceId", "spanId", "parentSpanId"];

/// Writes a value in one of its spellings. `key` is the key it stands under.
fn spell(value: &Value, key: &str, dice: &mut Dice, out: &mut String) {
    match value {
        Value::Null | Value::Bool(_) => out.push_str(&value.to_string()),
        Value::Number(number) if !ENUMS.contains(&key) && dice.below(4) == 0 => out.push_str(&format!("\"{number}\"")),
        Value::Number(number) if number.is_i64() && !ENUMS.contains(&key) && dice.below(4) == 0 => {
            out.push_str(&format!("{number}.0e0"));
        }
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => string(text, key, dice, out),
        Value::Array(values) => {
            out.push_str(["[", "[ ", "[\n"][dice.below(3)]);
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                spell(value, key, dice, out);
            }
            out.push(']');
        }
        Value::Object(fields) => object(fields, dice, out),
    }
}

fn string(text: &str, key: &str, dice: &mut Dice, out: &mut String) {
    let integer = text.parse::<i128>().is_ok();
    let sixty_four =
        key.ends_with("UnixNano") || ["intValue", "asInt", "count", "zeroCount", "bucketCounts"].contains(&key);
    if sixty_four && integer {
        let trimmed = text.trim_end_matches('0');
        match dice.below(4) {
            0 => out.push_str(text),
            1 if !matches!(trimmed, "" | "-") => out.push_str(&format!("{trimmed}e{}", text.len() - trimmed.len())),
            2 => out.push_str(&format!("\"{text}.0\"")),
            _ => out.push_str(&format!("\"{text}\"")),
        }
    } else if IDS.contains(&key) {
        let digit = |digit: char, dice: &mut Dice| {
            if dice.below(2) == 0 {
                digit.to_ascii_uppercase()
            } else {
                digit
            }
        };
        let mixed: String = text.chars().map(|character| digit(character, dice)).collect();
        out.push_str(&format!("\"{mixed}\""));
    } else if key == "bytesValue" {
        let mut text = text.to_owned();
        if dice.below(2) == 0 {
            text = text.replace('+', "-").replace('/', "_");
        }
        if dice.below(2) == 0 {
            text = text.trim_end_matches('=').to_owned();
        }
        out.push_str(&format!("\"{text}\""));
    } else if dice.below(4) == 0 {
        // Every character as an escape, in pairs of surrogates where it takes two.
        let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
        out.push_str(&format!("\"{escaped}\""));
    } else {
        out.push_str(&serde_json::to_string(text).unwrap());
    }
}

fn object(fields: &serde_json::Map<String, Value>, dice: &mut Dice, out: &mut String) {
    let mut entries: Vec<String> = Vec::new();
    for (key, value) in fields {
        let mut entry = format!("\"{key}\":");
        spell(value, key, dice, &mut entry);
        entries.push(entry);
    }
    for place in (1..entries.len()).rev() {
        entries.swap(place, dice.below(place + 1));
    }
    if dice.below(6) == 0 {
        let unknown = [
            "\"trace_id\":\"zz\"",
            "\"unheardOf\":[{\"a\":[[1e9,null]]},\"\\ud800\"]",
            "\"\":{}",
            "\"Name\":5",
            "\"keyStrindex\":\"x\"",
        ];
        entries.insert(dice.below(entries.len() + 1), unknown[dice.below(5)].to_owned());
    }
    // Scalars may stand twice, and the last one counts; null counts for nothing.
    if fields.contains_key("name") && dice.below(6) == 0 {
        entries.insert(0, "\"name\":\"replaced\"".to_owned());
        entries.push("\"name\":null".to_owned());
    }
    out.push('{');
    out.push_str(&entries.join([",", " ,\n"][dice.below(2)]));
    out.push('}');
}

fn check(signal: Signal, request: &[u8], serde_form: &Value, seed: u64) {
    let mut text = String::new();
    spell(serde_form, "", &mut Dice(seed), &mut text);
    let bytes = transcode(signal, text.as_bytes(), CAP).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(hex::encode(again(signal, &bytes)), hex::encode(request), "{text}");
    // Cut anywhere, it is no request; and no mutilation makes it panic.
    let cut = (0..text.len())
        .rev()
        .find(|cut| text.is_char_boundary(*cut) && *cut < text.trim_end().len())
        .unwrap();
    transcode(signal, &text.as_bytes()[..cut], CAP).expect_err("a request without its end");
    for turn in 0..4 {
        let _: Result<Vec<u8>, JsonError> =
            transcode(signal, &crate::bend::break_bytes(text.as_bytes(), seed + turn), CAP);
    }
}

// What serde's form cannot say is taken out: it writes NaN and infinities as null, and an index in place of a string.

fn tame_attributes(attributes: &mut [KeyValue]) {
    for pair in attributes {
        pair.key_strindex = 0;
        pair.value.iter_mut().for_each(tame);
    }
}

fn tame(any: &mut AnyValue) {
    match &mut any.value {
        Some(Any::DoubleValue(value)) => tame_double(value),
        Some(Any::ArrayValue(list)) => list.values.iter_mut().for_each(tame),
        Some(Any::KvlistValue(list)) => tame_attributes(&mut list.values),
        _ => {}
    }
}

fn tame_double(value: &mut f64) {
    if !value.is_finite() {
        *value = 0.5;
    }
}

fn tame_exemplars(exemplars: &mut [Exemplar]) {
    for exemplar in exemplars {
        tame_attributes(&mut exemplar.filtered_attributes);
        if let Some(exemplar::Value::AsDouble(value)) = &mut exemplar.value {
            tame_double(value);
        }
    }
}

fn tame_traces(mut request: ExportTraceServiceRequest) -> ExportTraceServiceRequest {
    for group in &mut request.resource_spans {
        group
            .resource
            .iter_mut()
            .for_each(|resource| tame_attributes(&mut resource.attributes));
        for block in &mut group.scope_spans {
            block
                .scope
                .iter_mut()
                .for_each(|scope| tame_attributes(&mut scope.attributes));
            for span in &mut block.spans {
                tame_attributes(&mut span.attributes);
                span.events
                    .iter_mut()
                    .for_each(|event| tame_attributes(&mut event.attributes));
                span.links
                    .iter_mut()
                    .for_each(|link| tame_attributes(&mut link.attributes));
            }
        }
    }
    request
}

fn tame_logs(mut request: ExportLogsServiceRequest) -> ExportLogsServiceRequest {
    for group in &mut request.resource_logs {
        group
            .resource
            .iter_mut()
            .for_each(|resource| tame_attributes(&mut resource.attributes));
        for block in &mut group.scope_logs {
            block
                .scope
                .iter_mut()
                .for_each(|scope| tame_attributes(&mut scope.attributes));
            for record in &mut block.log_records {
                tame_attributes(&mut record.attributes);
                record.body.iter_mut().for_each(tame);
            }
        }
    }
    request
}

fn tame_metrics(mut request: ExportMetricsServiceRequest) -> ExportMetricsServiceRequest {
    for group in &mut request.resource_metrics {
        group
            .resource
            .iter_mut()
            .for_each(|resource| tame_attributes(&mut resource.attributes));
        for block in &mut group.scope_metrics {
            block
                .scope
                .iter_mut()
                .for_each(|scope| tame_attributes(&mut scope.attributes));
            for metric in &mut block.metrics {
                tame_attributes(&mut metric.metadata);
                metric.data.iter_mut().for_each(tame_data);
            }
        }
    }
    request
}

fn tame_data(data: &mut Data) {
    let numbers = match data {
        Data::Gauge(data) => &mut data.data_points,
        Data::Sum(data) => &mut data.data_points,
        Data::Histogram(data) => {
            for point in &mut data.data_points {
                tame_attributes(&mut point.attributes);
                tame_exemplars(&mut point.exemplars);
                point.explicit_bounds.iter_mut().for_each(tame_double);
                [&mut point.sum, &mut point.min, &mut point.max]
                    .into_iter()
                    .flatten()
                    .for_each(tame_double);
            }
            return;
        }
        Data::ExponentialHistogram(data) => {
            for point in &mut data.data_points {
                tame_attributes(&mut point.attributes);
                tame_exemplars(&mut point.exemplars);
                tame_double(&mut point.zero_threshold);
                [&mut point.sum, &mut point.min, &mut point.max]
                    .into_iter()
                    .flatten()
                    .for_each(tame_double);
            }
            return;
        }
        Data::Summary(data) => {
            for point in &mut data.data_points {
                tame_attributes(&mut point.attributes);
                tame_double(&mut point.sum);
                for value in &mut point.quantile_values {
                    tame_double(&mut value.quantile);
                    tame_double(&mut value.value);
                }
            }
            return;
        }
    };
    for point in numbers {
        tame_attributes(&mut point.attributes);
        tame_exemplars(&mut point.exemplars);
        if let Some(number_data_point::Value::AsDouble(value)) = &mut point.value {
            tame_double(value);
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn traces_in_every_spelling(request in generate::traces().prop_map(tame_traces), seed in 0u64..1 << 32) {
        check(Signal::Traces, &request.encode_to_vec(), &serde_json::to_value(&request).unwrap(), seed);
    }

    #[test]
    fn metrics_in_every_spelling(request in generate::metrics().prop_map(tame_metrics), seed in 0u64..1 << 32) {
        check(Signal::Metrics, &request.encode_to_vec(), &serde_json::to_value(&request).unwrap(), seed);
    }

    #[test]
    fn logs_in_every_spelling(request in generate::logs().prop_map(tame_logs), seed in 0u64..1 << 32) {
        check(Signal::Logs, &request.encode_to_vec(), &serde_json::to_value(&request).unwrap(), seed);
    }

    #[test]
    fn any_text_is_an_error_or_a_request(text in "\\PC{0,40}", seed in 0u64..1 << 32) {
        for signal in Signal::ALL {
            let _: Result<Vec<u8>, JsonError> = transcode(signal, text.as_bytes(), CAP);
            let _: Result<Vec<u8>, JsonError> = transcode(signal, &crate::bend::break_bytes(text.as_bytes(), seed), CAP);
        }
    }
}
