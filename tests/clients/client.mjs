#!/usr/bin/env node
// Exports spans, logs and metrics of every kind with @opentelemetry/sdk-node over HTTP/JSON, and prints what it sent.
//
//     node client.mjs --endpoint http://127.0.0.1:4318 --seed 7 [--temporality cumulative|delta]
//
// Standard output has a JSON object a line for every span, log record and data point, taken from the SDK's own objects before they are
// encoded; README.md describes them. Exit code 0: every export succeeded; 1: one did not; 2: wrong usage.

import { parseArgs } from "node:util";

import { ROOT_CONTEXT, SpanKind, SpanStatusCode, ValueType, createTraceState, metrics, trace } from "@opentelemetry/api";
import { SeverityNumber, logs } from "@opentelemetry/api-logs";
import { OTLPLogExporter } from "@opentelemetry/exporter-logs-otlp-http";
import { AggregationTemporalityPreference, OTLPMetricExporter } from "@opentelemetry/exporter-metrics-otlp-http";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { SimpleLogRecordProcessor } from "@opentelemetry/sdk-logs";
import { AggregationType, DataPointType, PeriodicExportingMetricReader } from "@opentelemetry/sdk-metrics";
import { NodeSDK } from "@opentelemetry/sdk-node";
import { SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";

const SERVICE = "client-javascript";
const SCOPE = "tailwater.tests.clients";
const SCOPE_VERSION = "1.2.3";
let failed = false;

function usage() {
  try {
    const { values } = parseArgs({
      options: {
        endpoint: { type: "string" },
        seed: { type: "string", default: "1" },
        temporality: { type: "string", default: "cumulative" },
      },
    });
    if (values.endpoint && ["cumulative", "delta"].includes(values.temporality)) {
      return values;
    }
  } catch (error) {
    console.error(error.message);
  }
  console.error("usage: client.mjs --endpoint http://host:port [--seed N] [--temporality cumulative|delta]");
  process.exit(2);
}

const settings = usage();

// Mulberry32: seeded, so that two runs send the same but for their times.
let state = Number(settings.seed) >>> 0;
function dice() {
  state = (state + 0x6d2b79f5) >>> 0;
  let mixed = state;
  mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
}
const below = (bound) => Math.floor(dice() * bound);
const pick = (choices) => choices[below(choices.length)];

function hex(digits) {
  let text = "";
  while (text.length < digits) {
    text += below(16).toString(16);
  }
  return text.slice(1) + "1";
}

const seededIds = { generateTraceId: () => hex(32), generateSpanId: () => hex(16) };

const ns = ([seconds, nanos]) => (BigInt(seconds) * 1_000_000_000n + BigInt(nanos)).toString();

// A value as it stands in the output: bytes as hex under a key of their own, what JSON has no number for as a string.
function value(any) {
  if (any instanceof Uint8Array) {
    return { bytes: Buffer.from(any).toString("hex") };
  }
  if (Array.isArray(any)) {
    return any.map(value);
  }
  if (any !== null && typeof any === "object") {
    return Object.fromEntries(Object.entries(any).map(([key, element]) => [key, value(element)]));
  }
  return any === undefined ? null : any;
}

function show(table, fields) {
  console.log(JSON.stringify({ table, service_name: SERVICE, ...fields }));
}

// Wraps an exporter: shows what it is given, and remembers a failure.
function shown(exporter, each) {
  const wrapped = Object.create(exporter);
  wrapped.export = (batch, done) => {
    each(batch);
    exporter.export(batch, (result) => {
      if (result.code !== 0) {
        failed = true;
        console.error("export failed:", result.error?.message);
      }
      done(result);
    });
  };
  return wrapped;
}

function showSpans(spans) {
  for (const span of spans) {
    const { traceId, spanId, traceState } = span.spanContext();
    show("spans", {
      trace_id: traceId,
      span_id: spanId,
      parent_span_id: span.parentSpanContext?.spanId ?? null,
      trace_state: traceState?.serialize() || null,
      name: span.name,
      // The API counts kinds from 0, the protocol from 1.
      kind: span.kind + 1,
      start_ns: ns(span.startTime),
      end_ns: ns(span.endTime),
      status_code: span.status.code,
      status_message: span.status.message ?? null,
      scope_name: span.instrumentationScope.name,
      scope_version: span.instrumentationScope.version,
      attributes: value(span.attributes),
      events: span.events.map((event) => ({ time_ns: ns(event.time), name: event.name, attributes: value(event.attributes ?? {}) })),
      links: span.links.map((link) => ({
        trace_id: link.context.traceId,
        span_id: link.context.spanId,
        trace_state: link.context.traceState?.serialize() || null,
        attributes: value(link.attributes ?? {}),
      })),
    });
  }
}

function showLogs(records) {
  for (const record of records) {
    show("logs", {
      time_ns: ns(record.hrTime),
      observed_ns: ns(record.hrTimeObserved),
      severity_number: record.severityNumber ?? 0,
      severity_text: record.severityText ?? null,
      body: value(record.body),
      event_name: record.eventName ?? null,
      trace_id: record.spanContext?.traceId ?? null,
      span_id: record.spanContext?.spanId ?? null,
      scope_name: record.instrumentationScope.name,
      scope_version: record.instrumentationScope.version,
      attributes: value(record.attributes),
    });
  }
}

function showMetrics(resourceMetrics) {
  for (const metric of resourceMetrics.scopeMetrics.flatMap((scope) => scope.metrics)) {
    for (const point of metric.dataPoints) {
      showPoint(metric, point);
    }
  }
}

function showPoint(metric, point) {
  const kind = metric.dataPointType;
  const gauge = kind === DataPointType.GAUGE;
  const common = {
    metric_name: metric.descriptor.name,
    unit: metric.descriptor.unit || null,
    time_ns: ns(point.endTime),
    start_ns: ns(point.startTime),
    // The SDK counts temporalities from 0, the protocol from 1; a gauge has none.
    temporality: gauge ? 0 : metric.aggregationTemporality + 1,
    monotonic: kind === DataPointType.SUM ? metric.isMonotonic : null,
    attributes: value(point.attributes),
  };
  if (gauge || kind === DataPointType.SUM) {
    const isInt = metric.descriptor.valueType === ValueType.INT;
    show("metric_points", { type: gauge ? 1 : 2, value: point.value, is_int: isInt, ...common });
    return;
  }
  const { count, sum, min, max } = point.value;
  const numbers = { count, sum: sum ?? null, min: min ?? null, max: max ?? null };
  if (kind === DataPointType.HISTOGRAM) {
    const { boundaries, counts } = point.value.buckets;
    show("metric_dists", { type: 3, bounds: boundaries, counts, ...numbers, ...common });
  } else {
    const { scale, zeroCount, positive, negative } = point.value;
    show("metric_dists", {
      type: 4,
      scale,
      zero_count: zeroCount,
      pos_offset: positive.offset,
      pos_counts: positive.bucketCounts,
      neg_offset: negative.offset,
      neg_counts: negative.bucketCounts,
      ...numbers,
      ...common,
    });
  }
}

function attributes() {
  return {
    string: `wort-${below(1000)} äöü 😀 "quoted"`,
    empty: "",
    bool: dice() < 0.5,
    int: below(2 ** 32) - 2 ** 31,
    "int.large": Number.MAX_SAFE_INTEGER - below(1000),
    double: dice() * 1e6 + 0.25,
    strings: ["a", "b", String(below(100))],
    numbers: [1, -2, 0.5],
    bools: [true, false],
    "http.request.method": pick(["GET", "POST"]),
    "http.route": "/items/{id}",
    "http.response.status_code": pick([200, 404, 500]),
  };
}

function sendSpans() {
  const tracer = trace.getTracer(SCOPE, SCOPE_VERSION);
  let last;
  for (let index = 0; index < 5; index += 1) {
    const remote = {
      traceId: hex(32),
      spanId: hex(16),
      isRemote: true,
      traceFlags: 1,
      traceState: createTraceState(`vendor=value-${index},ot=rv:0123456789abcd`),
    };
    // Every other trace begins here, the rest are continued from elsewhere and carry a tracestate.
    const parent = index % 2 ? trace.setSpanContext(ROOT_CONTEXT, remote) : ROOT_CONTEXT;
    const links = index === 1 ? [] : [{ context: remote, attributes: { "link.index": index, why: "batch" } }];
    const root = tracer.startSpan(`root-${index}`, { kind: SpanKind.SERVER, attributes: attributes(), links }, parent);
    const inRoot = trace.setSpan(parent, root);
    for (const name of ["INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]) {
      const child = tracer.startSpan(`child ${name.toLowerCase()}`, { kind: SpanKind[name] }, inRoot);
      child.setAttribute("child.of", index);
      child.addEvent("cache miss", { key: `k${below(10)}`, size: below(1000) });
      child.addEvent("retry");
      if (name === "CLIENT") {
        child.recordException(new Error("no such item"));
        child.setStatus({ code: SpanStatusCode.ERROR, message: "no such item" });
      }
      child.end();
    }
    if (index === 2) {
      root.setStatus({ code: SpanStatusCode.OK });
    }
    root.end();
    last = inRoot;
  }
  return last;
}

function sendLogs(inSpan) {
  const logger = logs.getLogger(SCOPE, SCOPE_VERSION);
  const bodies = [
    "plain text with ünïcödé",
    "",
    42,
    -1.5,
    true,
    new Uint8Array([0, 255, 32, 98]),
    ["list", 1, 2.5, false, null],
    { nested: { deep: [1, { deeper: "yes" }] }, n: below(100) },
    undefined,
  ];
  bodies.forEach((body, index) => {
    logger.emit({
      timestamp: Date.now() - index,
      severityNumber: 1 + ((index * 3) % 24),
      severityText: SeverityNumber[1 + ((index * 3) % 24)],
      body,
      attributes: { ...attributes(), index },
      eventName: index === 7 ? "order.placed" : undefined,
      // Half of the records belong to a span.
      context: index % 2 ? inSpan : ROOT_CONTEXT,
    });
  });
}

function recordMetrics() {
  const meter = metrics.getMeter(SCOPE, SCOPE_VERSION);
  const counter = meter.createCounter("requests", { unit: "{request}", description: "Requests served.", valueType: ValueType.INT });
  const doubles = meter.createCounter("bytes.sent", { unit: "By" });
  const updown = meter.createUpDownCounter("queue.length", { unit: "{item}", valueType: ValueType.INT });
  const gauge = meter.createGauge("temperature", { unit: "Cel" });
  const histogram = meter.createHistogram("latency", { unit: "ms" });
  const exponential = meter.createHistogram("latency.exponential", { unit: "ms" });
  const observe = (kind) => (result) => {
    result.observe(1 + below(1000), { kind, core: 0 });
    result.observe(dice() * 100, { kind, core: 1 });
  };
  meter.createObservableCounter("observed.cpu", { unit: "s" }).addCallback(observe("counter"));
  meter.createObservableUpDownCounter("observed.heap", { unit: "By" }).addCallback(observe("updown"));
  meter.createObservableGauge("observed.load").addCallback(observe("gauge"));
  for (let index = 0; index < 50; index += 1) {
    const labels = { "http.route": `/r${index % 3}`, "http.response.status_code": 200 + (index % 2), ok: index % 2 === 0 };
    counter.add(1 + (index % 4), labels);
    doubles.add(dice() * 1000, labels);
    updown.add(below(11) - 5, { queue: `q${index % 2}` });
    gauge.record(dice() * 60 - 20, { room: "attic" });
    gauge.record(below(100), { room: "cellar" });
    histogram.record(Math.exp(dice() * 7), { "http.route": `/r${index % 3}` });
    exponential.record(Math.exp(dice() * 9 - 2), { "http.route": `/r${index % 3}` });
  }
  exponential.record(0, { "http.route": "/r0" });
}

const base = `${settings.endpoint.replace(/\/$/, "")}/v1/`;
const temporalityPreference =
  settings.temporality === "delta" ? AggregationTemporalityPreference.DELTA : AggregationTemporalityPreference.CUMULATIVE;
const sdk = new NodeSDK({
  autoDetectResources: false,
  idGenerator: seededIds,
  instrumentations: [],
  resource: resourceFromAttributes(
    {
      "service.name": SERVICE,
      "service.namespace": "tests",
      "service.version": "0.1",
      "service.instance.id": `seed-${settings.seed}-json`,
      "resource.number": 7,
    },
    { schemaUrl: "https://opentelemetry.io/schemas/1.30.0" },
  ),
  spanProcessors: [new SimpleSpanProcessor(shown(new OTLPTraceExporter({ url: `${base}traces` }), showSpans))],
  logRecordProcessors: [new SimpleLogRecordProcessor({ exporter: shown(new OTLPLogExporter({ url: `${base}logs` }), showLogs) })],
  metricReaders: [
    new PeriodicExportingMetricReader({
      exporter: shown(new OTLPMetricExporter({ url: `${base}metrics`, temporalityPreference }), showMetrics),
      // Exports happen at the end only: what is printed is what was sent last, and nothing else.
      exportIntervalMillis: 2 ** 31 - 1,
      exportTimeoutMillis: 10_000,
    }),
  ],
  views: [
    {
      instrumentName: "latency.exponential",
      aggregation: { type: AggregationType.EXPONENTIAL_HISTOGRAM, options: { maxSize: 40, recordMinMax: true } },
    },
    {
      instrumentName: "latency",
      aggregation: { type: AggregationType.EXPLICIT_BUCKET_HISTOGRAM, options: { boundaries: [1, 5, 10, 50, 100.5, 1000] } },
    },
  ],
});
sdk.start();
sendLogs(sendSpans());
recordMetrics();
await sdk.shutdown();
// Set rather than exit: standard output may still hold lines on their way into a pipe.
process.exitCode = failed ? 1 : 0;
