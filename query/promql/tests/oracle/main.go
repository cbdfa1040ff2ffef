// Prometheus' own engine behind a pipe, for ../differential.rs.
//
// Reads a line with all series, then a line per range query; answers each with a line: r the series, w warnings, i infos, e an
// error. Built by tests/tools of the repository.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

type S struct {
	Labels map[string]string `json:"labels"`
	T      []int64           `json:"t"`
	V      []string          `json:"v"`
}
type Case struct {
	Query            string
	Start, End, Step int64
}

type q struct{ all []promql.Series }

func (x *q) Querier(mint, maxt int64) (storage.Querier, error) { return &qq{x, mint, maxt}, nil }

type qq struct {
	x          *q
	mint, maxt int64
}

func (*qq) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}
func (*qq) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}
func (*qq) Close() error { return nil }

type set struct {
	all []promql.Series
	i   int
}

func (s *set) Next() bool                        { s.i++; return s.i < len(s.all) }
func (s *set) At() storage.Series                { return promql.NewStorageSeries(s.all[s.i]) }
func (s *set) Err() error                        { return nil }
func (s *set) Warnings() annotations.Annotations { return nil }

func (x *qq) Select(_ context.Context, _ bool, h *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	r := &set{i: -1}
	mint, maxt := x.mint, x.maxt
	if h != nil {
		mint, maxt = h.Start, h.End
	}
outer:
	for _, s := range x.x.all {
		for _, m := range ms {
			if !m.Matches(s.Metric.Get(m.Name)) {
				continue outer
			}
		}
		c := promql.Series{Metric: s.Metric}
		for _, p := range s.Floats {
			if p.T >= mint && p.T <= maxt {
				c.Floats = append(c.Floats, p)
			}
		}
		if len(c.Floats) > 0 {
			r.all = append(r.all, c)
		}
	}
	return r
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(make([]byte, 1<<26), 1<<26)
	in.Scan()
	var raw []S
	if err := json.Unmarshal(in.Bytes(), &raw); err != nil {
		panic(err)
	}
	data := &q{}
	for _, s := range raw {
		c := promql.Series{Metric: labels.FromMap(s.Labels)}
		for i, t := range s.T {
			var f float64
			if s.V[i] == "stale" {
				f = math.Float64frombits(value.StaleNaN)
			} else if _, err := fmt.Sscan(s.V[i], &f); err != nil {
				panic(err)
			}
			c.Floats = append(c.Floats, promql.FPoint{T: t, F: f})
		}
		data.all = append(data.all, c)
	}
	eng := promql.NewEngine(promql.EngineOpts{MaxSamples: 50000000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute,
		NoStepSubqueryIntervalFn: func(int64) int64 { return 60000 }, EnableAtModifier: true, EnableNegativeOffset: true, EnableDelayedNameRemoval: true})
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for in.Scan() {
		var c Case
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			panic(err)
		}
		qu, err := eng.NewRangeQuery(context.Background(), data, nil, c.Query, time.UnixMilli(c.Start), time.UnixMilli(c.End), time.Duration(c.Step)*time.Millisecond)
		line := map[string]any{}
		if err == nil {
			r := qu.Exec(context.Background())
			err = r.Err
			if err == nil {
				m, _ := r.Matrix()
				res := []any{}
				for _, s := range m {
					pts := []any{}
					for _, p := range s.Floats {
						pts = append(pts, []any{p.T, fmt.Sprint(p.F)})
					}
					res = append(res, map[string]any{"m": s.Metric.Map(), "p": pts})
				}
				line["r"] = res
				w, i := r.Warnings.AsStrings(c.Query, 0, 0)
				line["w"], line["i"] = w, i
			}
		}
		if err != nil {
			line["e"] = err.Error()
		}
		b, _ := json.Marshal(line)
		out.Write(b)
		out.WriteByte('\n')
	}
}
