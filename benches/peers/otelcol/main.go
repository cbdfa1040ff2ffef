// A peer to measure against: the OpenTelemetry Collector's OTLP receiver, its tail_sampling processor, and an exporter. Built on demand,
// never by the workspace or by CI.
//
// The parts are the Collector's own, put together without its service layer, so without its scrape endpoint and the counting between parts.
// What it promises to whoever runs it: head of ../run; what is more, `--config`, and the lines on standard output: ../sampling.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/exporter/fileexporter"
	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/tailsamplingprocessor"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/nopexporter"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	trace "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
)

const (
	held    = "otelcol_processor_tail_sampling_sampling_traces_on_memory"
	begun   = "otelcol_processor_tail_sampling_new_trace_id_received"
	evicted = "otelcol_processor_tail_sampling_sampling_trace_dropped_too_early"
)

// What a line on standard output says, once a second and at the end.
type counts struct {
	AcceptedSpans int64 `json:"accepted_spans"`
	KeptSpans     int64 `json:"kept_spans"`
	HeldTraces    int64 `json:"held_traces"`
	NewTraces     int64 `json:"new_traces"`
	EvictedTraces int64 `json:"evicted_traces"`
}

func main() {
	describe := flag.Bool("describe", false, "say what this is, as JSON")
	protocol := flag.String("protocol", "http", "http or grpc")
	listen := flag.String("listen", "127.0.0.1:0", "address of the receiver")
	data := flag.String("data", "", "directory of what is written")
	config := flag.String("config", "", "a configuration of the Collector, of which the processor tail_sampling is read")
	export := flag.String("exporter", "nop", "nop drops what is kept; file writes it as JSON, a request a line")
	flag.Parse()
	if *describe {
		json.NewEncoder(os.Stdout).Encode(map[string]any{
			"name":        "OpenTelemetry Collector 0.161.0, otlp -> tail_sampling -> " + *export,
			"ack":         "once the processor has it in memory",
			"compression": "none",
			"layout":      map[string]string{"nop": "nothing is written", "file": "JSON, buffered, not synced"}[*export],
			"durable":     "nothing that waits for its decision survives a crash",
		})
		return
	}
	if err := run(*protocol, *listen, *data, *config, *export); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func run(protocol, listen, data, config, export string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	ctx := context.Background()
	reader := metric.NewManualReader()
	log := zap.NewProductionConfig()
	log.Level = zap.NewAtomicLevelAt(zap.WarnLevel)
	logger, err := log.Build()
	if err != nil {
		return err
	}
	telemetry := component.TelemetrySettings{
		Logger:         logger,
		TracerProvider: trace.NewTracerProvider(),
		MeterProvider:  metric.NewMeterProvider(metric.WithReader(reader)),
	}
	address, err := free(listen)
	if err != nil {
		return err
	}

	var accepted, kept atomic.Int64
	exporting, exported, err := newExporter(ctx, telemetry, export, data)
	if err != nil {
		return err
	}
	sampling, err := newSampling(ctx, telemetry, config, counting(&kept, exported))
	if err != nil {
		return err
	}
	receiving, err := newReceiver(ctx, telemetry, protocol, address, counting(&accepted, sampling))
	if err != nil {
		return err
	}
	parts := []component.Component{exporting, sampling, receiving}
	for _, part := range parts {
		if err := part.Start(ctx, host{}); err != nil {
			return err
		}
	}
	fmt.Println("ready", address)
	say := func() {
		measured := read(ctx, reader)
		line, _ := json.Marshal(counts{accepted.Load(), kept.Load(), measured[held], measured[begun], measured[evicted]})
		fmt.Println(string(line))
	}
	seconds := time.NewTicker(time.Second)
	for running := true; running; {
		select {
		case <-seconds.C:
			say()
		case <-stop:
			running = false
		}
	}
	// As the Collector does it: receivers first, so that nothing is lost between.
	for i := len(parts) - 1; i >= 0; i-- {
		if err := parts[i].Shutdown(ctx); err != nil {
			return err
		}
	}
	say()
	return nil
}

func newExporter(ctx context.Context, telemetry component.TelemetrySettings, export, data string) (component.Component, consumer.Traces, error) {
	factory, settings := nopexporter.NewFactory(), map[string]any{}
	if export == "file" {
		factory, settings = fileexporter.NewFactory(), map[string]any{"path": filepath.Join(data, "kept.json")}
		if err := os.MkdirAll(data, 0o755); err != nil {
			return nil, nil, err
		}
	} else if export != "nop" {
		return nil, nil, fmt.Errorf("no exporter is called %q", export)
	}
	config := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(settings).Unmarshal(config); err != nil {
		return nil, nil, err
	}
	made, err := factory.CreateTraces(ctx, exporter.Settings{ID: component.NewID(factory.Type()), TelemetrySettings: telemetry}, config)
	return made, made, err
}

func newSampling(ctx context.Context, telemetry component.TelemetrySettings, path string, next consumer.Traces) (processor.Traces, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	retrieved, err := confmap.NewRetrievedFromYAML(text)
	if err != nil {
		return nil, err
	}
	whole, err := retrieved.AsConf()
	if err != nil {
		return nil, err
	}
	mine, err := whole.Sub("processors::tail_sampling")
	if err != nil {
		return nil, err
	}
	factory := tailsamplingprocessor.NewFactory()
	config := factory.CreateDefaultConfig()
	if err := mine.Unmarshal(config); err != nil {
		return nil, err
	}
	return factory.CreateTraces(ctx, processor.Settings{ID: component.NewID(factory.Type()), TelemetrySettings: telemetry}, config, next)
}

func newReceiver(ctx context.Context, telemetry component.TelemetrySettings, protocol, address string, next consumer.Traces) (receiver.Traces, error) {
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	settings := map[string]any{"protocols": map[string]any{protocol: map[string]any{"endpoint": address}}}
	if err := confmap.NewFromStringMap(settings).Unmarshal(config); err != nil {
		return nil, err
	}
	return factory.CreateTraces(ctx, receiver.Settings{ID: component.NewID(factory.Type()), TelemetrySettings: telemetry}, config, next)
}

// Counts what goes by without an error.
func counting(sum *atomic.Int64, next consumer.Traces) consumer.Traces {
	counted, err := consumer.NewTraces(func(ctx context.Context, traces ptrace.Traces) error {
		// Before: who takes them may change them.
		spans := int64(traces.SpanCount())
		if err := next.ConsumeTraces(ctx, traces); err != nil {
			return err
		}
		sum.Add(spans)
		return nil
	}, consumer.WithCapabilities(next.Capabilities()))
	if err != nil {
		panic(err)
	}
	return counted
}

// The Collector's own counters and gauges by name, summed over their attributes.
func read(ctx context.Context, reader *metric.ManualReader) map[string]int64 {
	var all metricdata.ResourceMetrics
	sums := map[string]int64{}
	if reader.Collect(ctx, &all) != nil {
		return sums
	}
	for _, scope := range all.ScopeMetrics {
		for _, each := range scope.Metrics {
			switch data := each.Data.(type) {
			case metricdata.Sum[int64]:
				for _, point := range data.DataPoints {
					sums[each.Name] += point.Value
				}
			case metricdata.Gauge[int64]:
				for _, point := range data.DataPoints {
					sums[each.Name] += point.Value
				}
			}
		}
	}
	return sums
}

// An address with a free port in place of port 0: the receiver does not say which one it was given.
func free(listen string) (string, error) {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// No extensions.
type host struct{}

func (host) GetExtensions() map[component.ID]component.Component { return nil }
