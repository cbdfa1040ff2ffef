// The Collector's own tail_sampling processor behind a pipe, for ../tail_sampling.rs.
//
// Reads a line with the recording, then a line per configuration; answers each with a line: the traces kept and how many of their spans, or
// an error. It is built as a test because time that passes when nobody has anything to do is given to tests alone: so it decides by the
// same clock in every run, and a minute takes no time. Built by tests/tools of the repository.
package oracle

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/processor/tailsamplingprocessor"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/featuregate"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	metric "go.opentelemetry.io/otel/metric/noop"
	trace "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
)

// A request in hexadecimal digits, and when it comes: ms after the start.
type request struct {
	At   int64
	Body string
}

type question struct {
	// A configuration of the Collector, of which only the processor is read.
	Config string
	// Whether limits and shares go by the randomness of OpenTelemetry's sampling: the feature gate usetracestate.
	Tracestate bool
}

type answer struct {
	Kept  map[string]int `json:"kept,omitempty"`
	Error string         `json:"error,omitempty"`
}

const gate = "processor.tailsamplingprocessor.usetracestate"

func TestOracle(t *testing.T) {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<26), 1<<26)
	in.Scan()
	var requests []request
	if err := json.Unmarshal(in.Bytes(), &requests); err != nil {
		t.Fatal(err)
	}
	for in.Scan() {
		var question question
		if err := json.Unmarshal(in.Bytes(), &question); err != nil {
			t.Fatal(err)
		}
		if err := featuregate.GlobalRegistry().Set(gate, question.Tracestate); err != nil {
			t.Fatal(err)
		}
		var said answer
		synctest.Test(t, func(*testing.T) {
			kept, err := ask(question.Config, requests)
			said.Kept = kept
			if err != nil {
				said.Error = err.Error()
			}
		})
		line, _ := json.Marshal(said)
		os.Stdout.Write(append(line, '\n'))
	}
}

func ask(text string, requests []request) (map[string]int, error) {
	factory := tailsamplingprocessor.NewFactory()
	config := factory.CreateDefaultConfig().(*tailsamplingprocessor.Config)
	read, err := confmap.NewRetrievedFromYAML([]byte(text))
	if err != nil {
		return nil, err
	}
	whole, err := read.AsConf()
	if err != nil {
		return nil, err
	}
	own, err := whole.Sub("processors::tail_sampling")
	if err != nil {
		return nil, err
	}
	if err := own.Unmarshal(config); err != nil {
		return nil, err
	}
	kept := map[string]int{}
	sink, err := consumer.NewTraces(func(_ context.Context, traces ptrace.Traces) error {
		for _, resource := range traces.ResourceSpans().All() {
			for _, scope := range resource.ScopeSpans().All() {
				for _, span := range scope.Spans().All() {
					id := span.TraceID()
					kept[hex.EncodeToString(id[:])]++
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	settings := processor.Settings{
		ID: component.NewID(factory.Type()),
		TelemetrySettings: component.TelemetrySettings{
			Logger:         zap.NewNop(),
			TracerProvider: trace.NewTracerProvider(),
			MeterProvider:  metric.NewMeterProvider(),
			Resource:       pcommon.NewResource(),
		},
	}
	ctx := context.Background()
	sampler, err := factory.CreateTraces(ctx, settings, config, sink)
	if err != nil {
		return nil, err
	}
	if err := sampler.Start(ctx, nil); err != nil {
		return nil, err
	}
	start := time.Now()
	for _, request := range requests {
		time.Sleep(time.Until(start.Add(time.Duration(request.At) * time.Millisecond)))
		body, err := hex.DecodeString(request.Body)
		if err != nil {
			return nil, err
		}
		traces, err := (&ptrace.ProtoUnmarshaler{}).UnmarshalTraces(body)
		if err != nil {
			return nil, err
		}
		if err := sampler.ConsumeTraces(ctx, traces); err != nil {
			return nil, err
		}
		synctest.Wait()
	}
	time.Sleep(config.DecisionWait + 3*time.Second)
	return kept, sampler.Shutdown(ctx)
}
