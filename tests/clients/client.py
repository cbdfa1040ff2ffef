#!/usr/bin/env python3
"""Exports spans, logs and metrics of every kind with the OpenTelemetry SDK, and prints what it sent.

    client.py --protocol grpc --endpoint http://127.0.0.1:4317 --seed 7
    client.py --protocol http --endpoint http://127.0.0.1:4318 --seed 7

Standard output has a JSON object a line for every span, log record and data point, taken from the SDK's own objects before they are
encoded; README.md describes them. Exit code 0: every export succeeded; 1: one did not; 2: wrong usage.
"""

import argparse
import json
import random
import sys
import time

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics import export as metrics
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

SERVICE = "client-python"
SCOPE = "tailwater.tests.clients"
SCOPE_VERSION = "1.2.3"
failed = False


def show(table, **fields):
    print(json.dumps({"table": table, "service_name": SERVICE, **fields}, ensure_ascii=False))


def outcome(good):
    global failed
    failed = failed or not good


def value(any_value):
    """A value as it stands in the output: bytes as hex under a key of their own, everything else as JSON has it."""
    if isinstance(any_value, bytes):
        return {"bytes": any_value.hex()}
    if isinstance(any_value, (list, tuple)):
        return [value(element) for element in any_value]
    if isinstance(any_value, dict) or hasattr(any_value, "items"):
        return {key: value(element) for key, element in any_value.items()}
    return any_value


def trace_id(number):
    return f"{number:032x}" if number else None


def span_id(number):
    return f"{number:016x}" if number else None


class SeededIds(IdGenerator):
    def __init__(self, dice):
        self.dice = dice

    def generate_trace_id(self):
        return self.dice.getrandbits(128) | 1

    def generate_span_id(self):
        return self.dice.getrandbits(64) | 1


class ShownSpans(SpanExporter):
    def __init__(self, to):
        self.to = to

    def export(self, spans):
        for span in spans:
            show(
                "spans",
                trace_id=trace_id(span.context.trace_id),
                span_id=span_id(span.context.span_id),
                parent_span_id=span_id(span.parent.span_id) if span.parent else None,
                trace_state=span.context.trace_state.to_header() or None,
                name=span.name,
                # The SDK counts kinds from 0, the protocol from 1.
                kind=span.kind.value + 1,
                start_ns=str(span.start_time),
                end_ns=str(span.end_time),
                status_code=span.status.status_code.value,
                status_message=span.status.description,
                scope_name=span.instrumentation_scope.name,
                scope_version=span.instrumentation_scope.version,
                attributes=value(span.attributes),
                events=[
                    {"time_ns": str(event.timestamp), "name": event.name, "attributes": value(event.attributes)}
                    for event in span.events
                ],
                links=[
                    {
                        "trace_id": trace_id(link.context.trace_id),
                        "span_id": span_id(link.context.span_id),
                        "trace_state": link.context.trace_state.to_header() or None,
                        "attributes": value(link.attributes),
                    }
                    for link in span.links
                ],
            )
        result = self.to.export(spans)
        outcome(result == SpanExportResult.SUCCESS)
        return result

    def shutdown(self):
        self.to.shutdown()


class ShownLogs(LogRecordExporter):
    def __init__(self, to):
        self.to = to

    def export(self, batch):
        for readable in batch:
            record = readable.log_record
            show(
                "logs",
                time_ns=str(record.timestamp or 0),
                observed_ns=str(record.observed_timestamp or 0),
                severity_number=record.severity_number.value if record.severity_number else 0,
                severity_text=record.severity_text or None,
                body=value(record.body),
                event_name=record.event_name or None,
                trace_id=trace_id(record.trace_id),
                span_id=span_id(record.span_id),
                scope_name=readable.instrumentation_scope.name,
                scope_version=readable.instrumentation_scope.version,
                attributes=value(record.attributes or {}),
            )
        result = self.to.export(batch)
        outcome(result == LogRecordExportResult.SUCCESS)
        return result

    def force_flush(self, timeout_millis=10_000):
        return self.to.force_flush(timeout_millis)

    def shutdown(self):
        self.to.shutdown()


class ShownMetrics(metrics.MetricExporter):
    def __init__(self, to, temporality):
        super().__init__(preferred_temporality=temporality)
        self.to = to

    def export(self, metrics_data, timeout_millis=10_000, **kwargs):
        for resource_metrics in metrics_data.resource_metrics:
            for scope_metrics in resource_metrics.scope_metrics:
                for metric in scope_metrics.metrics:
                    for point in metric.data.data_points:
                        self.show(metric, point)
        result = self.to.export(metrics_data, timeout_millis, **kwargs)
        outcome(result == metrics.MetricExportResult.SUCCESS)
        return result

    @staticmethod
    def show(metric, point):
        data = metric.data
        common = dict(
            metric_name=metric.name,
            unit=metric.unit or None,
            time_ns=str(point.time_unix_nano),
            start_ns=str(point.start_time_unix_nano or 0),
            temporality=data.aggregation_temporality.value if hasattr(data, "aggregation_temporality") else 0,
            monotonic=data.is_monotonic if isinstance(data, metrics.Sum) else None,
            attributes=value(point.attributes),
        )
        if isinstance(data, (metrics.Gauge, metrics.Sum)):
            kind = 1 if isinstance(data, metrics.Gauge) else 2
            show("metric_points", type=kind, value=point.value, is_int=isinstance(point.value, int), **common)
            return
        common.update(count=point.count, sum=point.sum, min=point.min, max=point.max)
        if isinstance(data, metrics.Histogram):
            show("metric_dists", type=3, bounds=list(point.explicit_bounds), counts=list(point.bucket_counts), **common)
        else:
            show(
                "metric_dists",
                type=4,
                scale=point.scale,
                zero_count=point.zero_count,
                pos_offset=point.positive.offset,
                pos_counts=list(point.positive.bucket_counts),
                neg_offset=point.negative.offset,
                neg_counts=list(point.negative.bucket_counts),
                **common,
            )

    def force_flush(self, timeout_millis=10_000):
        return self.to.force_flush(timeout_millis)

    def shutdown(self, timeout_millis=30_000, **kwargs):
        self.to.shutdown(timeout_millis, **kwargs)


def exporters(protocol, endpoint):
    """Span, log and metric exporter of a protocol."""
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        options = dict(endpoint=endpoint, insecure=True, timeout=10)
        return OTLPSpanExporter(**options), OTLPLogExporter(**options), OTLPMetricExporter(**options)
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    base = endpoint.rstrip("/") + "/v1/"
    options = dict(timeout=10, compression=Compression.Gzip)
    return (
        OTLPSpanExporter(base + "traces", **options),
        OTLPLogExporter(base + "logs", **options),
        OTLPMetricExporter(base + "metrics", **options),
    )


def attributes(dice):
    """Attributes of every type that the API takes."""
    return {
        "string": f"wort-{dice.randrange(1000)} äöü 😀 \"quoted\"",
        "empty": "",
        "bool": dice.random() < 0.5,
        "int": dice.randrange(-(2**53), 2**53),
        "int.large": 2**63 - 1 - dice.randrange(1000),
        "double": dice.uniform(-1e6, 1e6),
        "strings": ["a", "b", str(dice.randrange(100))],
        "ints": [1, -2, dice.randrange(100)],
        "doubles": [0.5, -1.25],
        "bools": [True, False],
        "http.request.method": dice.choice(["GET", "POST"]),
        "http.route": "/items/{id}",
        "http.response.status_code": dice.choice([200, 404, 500]),
    }


def send_spans(tracer, dice):
    """A few traces with parents, kinds, events, links, status and tracestate. Returns the last span's context."""
    context = None
    for index in range(5):
        remote = SpanContext(
            trace_id=dice.getrandbits(128) | 1,
            span_id=dice.getrandbits(64) | 1,
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
            trace_state=TraceState([("vendor", f"value-{index}"), ("ot", "rv:0123456789abcd")]),
        )
        # Every other trace begins here, the rest are continued from elsewhere and carry a tracestate.
        parent = trace.set_span_in_context(NonRecordingSpan(remote)) if index % 2 else None
        links = [Link(remote, {"link.index": index, "why": "batch"})] if index != 1 else []
        with tracer.start_as_current_span(
            f"root-{index}", context=parent, kind=SpanKind.SERVER, attributes=attributes(dice), links=links
        ) as root:
            for kind in SpanKind:
                with tracer.start_as_current_span(f"child {kind.name.lower()}", kind=kind) as child:
                    child.set_attribute("child.of", index)
                    child.add_event("cache miss", {"key": f"k{dice.randrange(10)}", "size": dice.randrange(1000)})
                    child.add_event("retry")
                    if kind == SpanKind.CLIENT:
                        child.record_exception(ValueError("no such item"))
                        child.set_status(Status(StatusCode.ERROR, "no such item"))
            if index == 2:
                root.set_status(Status(StatusCode.OK))
            context = root.get_span_context()
    return context


def send_logs(logger, dice, span_context):
    in_span = trace.set_span_in_context(NonRecordingSpan(span_context))
    bodies = [
        "plain text with ünïcödé",
        "",
        42,
        -1.5,
        True,
        b"\x00\xff bytes",
        ["list", 1, 2.5, False, None],
        {"nested": {"deep": [1, {"deeper": "yes"}]}, "n": dice.randrange(100)},
        None,
    ]
    now = 1_000_000 * (span_context.span_id % 1000)
    for index, body in enumerate(bodies):
        severity = list(SeverityNumber)[(index * 3) % len(list(SeverityNumber))]
        logger.emit(
            LogRecord(
                timestamp=time.time_ns() - now + index,
                observed_timestamp=time.time_ns(),
                # Half of the records belong to a span.
                context=in_span if index % 2 else None,
                severity_number=severity,
                severity_text=severity.name,
                body=body,
                attributes={**attributes(dice), "index": index},
                event_name="order.placed" if index == 7 else None,
            )
        )


def record_metrics(meter, dice):
    counter = meter.create_counter("requests", unit="{request}", description="Requests served.")
    double_counter = meter.create_counter("bytes.sent", unit="By")
    updown = meter.create_up_down_counter("queue.length", unit="{item}")
    gauge = meter.create_gauge("temperature", unit="Cel")
    histogram = meter.create_histogram("latency", unit="ms")
    exponential = meter.create_histogram("latency.exponential", unit="ms")

    def observe(kind):
        def callback(_: CallbackOptions):
            yield Observation(dice.randrange(1, 1000), {"kind": kind, "core": 0})
            yield Observation(dice.uniform(0, 100), {"kind": kind, "core": 1})

        return callback

    meter.create_observable_counter("observed.cpu", [observe("counter")], unit="s")
    meter.create_observable_up_down_counter("observed.heap", [observe("updown")], unit="By")
    meter.create_observable_gauge("observed.load", [observe("gauge")])
    for index in range(50):
        labels = {"http.route": f"/r{index % 3}", "http.response.status_code": 200 + index % 2, "ok": index % 2 == 0}
        counter.add(1 + index % 4, labels)
        double_counter.add(dice.uniform(0, 1000), labels)
        updown.add(dice.randrange(-5, 6), {"queue": f"q{index % 2}"})
        gauge.set(dice.uniform(-20, 40), {"room": "attic"})
        gauge.set(dice.randrange(100), {"room": "cellar"})
        histogram.record(dice.lognormvariate(3, 1), {"http.route": f"/r{index % 3}"})
        exponential.record(dice.lognormvariate(3, 2), {"http.route": f"/r{index % 3}"})
    exponential.record(0, {"http.route": "/r0"})


def main():
    parser = argparse.ArgumentParser(description="exports OTLP with the OpenTelemetry SDK and prints what was sent")
    parser.add_argument("--protocol", choices=["grpc", "http"], required=True)
    parser.add_argument("--endpoint", required=True, help="http://host:port, without a path")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--temporality", choices=["cumulative", "delta"], default="cumulative")
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    spans_to, logs_to, metrics_to = exporters(arguments.protocol, arguments.endpoint)
    resource = Resource(
        {
            "service.name": SERVICE,
            "service.namespace": "tests",
            "service.version": "0.1",
            "service.instance.id": f"seed-{arguments.seed}-{arguments.protocol}",
            "resource.number": 7,
        },
        "https://opentelemetry.io/schemas/1.30.0",
    )

    tracer_provider = TracerProvider(resource=resource, id_generator=SeededIds(dice))
    tracer_provider.add_span_processor(SimpleSpanProcessor(ShownSpans(spans_to)))
    context = send_spans(tracer_provider.get_tracer(SCOPE, SCOPE_VERSION), dice)
    tracer_provider.shutdown()

    logger_provider = LoggerProvider(resource=resource)
    logger_provider.add_log_record_processor(SimpleLogRecordProcessor(ShownLogs(logs_to)))
    send_logs(logger_provider.get_logger(SCOPE, SCOPE_VERSION), dice, context)
    logger_provider.shutdown()

    # Histograms and counters of events can be deltas; what goes up and down is a running sum either way.
    delta = metrics.AggregationTemporality.DELTA
    from opentelemetry.sdk.metrics import Counter, ObservableCounter

    temporality = {Counter: delta, Histogram: delta, ObservableCounter: delta} if arguments.temporality == "delta" else None
    exponential = View(
        instrument_type=Histogram,
        instrument_name="latency.exponential",
        aggregation=ExponentialBucketHistogramAggregation(max_size=40),
    )
    explicit = View(
        instrument_type=Histogram,
        instrument_name="latency",
        aggregation=ExplicitBucketHistogramAggregation([1, 5, 10, 50, 100.5, 1000]),
    )
    # Exports happen at the end only: what is printed is what was sent last, and nothing else.
    reader = metrics.PeriodicExportingMetricReader(ShownMetrics(metrics_to, temporality), export_interval_millis=float("inf"))
    meter_provider = MeterProvider(resource=resource, metric_readers=[reader], views=[exponential, explicit])
    record_metrics(meter_provider.get_meter(SCOPE, SCOPE_VERSION), dice)
    meter_provider.force_flush()
    meter_provider.shutdown()
    sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
