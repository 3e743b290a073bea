package host

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"

	"github.com/fettle-hpc/fettle/plugins/policy"
	"github.com/fettle-hpc/fettle/plugins/sdk"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// defaults are the limits of a plugin that says nothing about them.
func defaults(kind pluginv1.PluginKind) Config {
	return Config{Path: "/p/fettle-sched-x", Kind: kind, SocketDir: "/s"}.withDefaults()
}

func TestBreaker(t *testing.T) {
	t.Parallel()
	b := breaker{limits: defaults(pluginv1.PluginKind_PLUGIN_KIND_SCHEDULING).Breaker}
	now := time.Unix(1_000_000, 0)
	fail := func(want bool) {
		t.Helper()
		if got := b.failed(now); got != want {
			t.Fatalf("at %v: opens %v, want %v", now, got, want)
		}
	}
	openFor := func(want time.Duration) {
		t.Helper()
		if !b.open(now.Add(want-1)) || b.open(now.Add(want)) {
			t.Fatalf("open until %v, want for %v from %v", b.until, want, now)
		}
		now = now.Add(want)
	}
	prove := func(times int) {
		t.Helper()
		for left := times; left > 0; left-- {
			if b.probation() != left || b.succeeded(now) != (left == 1) {
				t.Fatalf("%d good answers owed, want %d", b.probation(), left)
			}
		}
	}
	// Failures that are far apart do nothing.
	for range 10 {
		fail(false)
		now = now.Add(31 * time.Second)
	}
	now = now.Add(time.Minute)
	fail(false)
	fail(false)
	fail(true)
	if b.failed(now) || b.succeeded(now) {
		t.Error("an open breaker counts answers that come in late")
	}
	openFor(30 * time.Second)
	// On probation one failure is enough, and it stays open for longer each time.
	for _, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute} {
		fail(true)
		openFor(want)
	}
	prove(5)
	fail(false)
	fail(false)
	fail(true)
	openFor(10 * time.Minute)
	prove(5)
	// Ten good minutes are a new beginning.
	now = now.Add(10 * time.Minute)
	fail(false)
	fail(false)
	fail(true)
	openFor(30 * time.Second)
	b.reset()
	if b.open(now) || b.probation() != 0 {
		t.Error("it is not as new after a reset")
	}
}

func TestRestartPauses(t *testing.T) {
	t.Parallel()
	r := restarts{limits: defaults(pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER).Restart}
	now := time.Unix(1_000_000, 0)
	for _, want := range []time.Duration{250, 500, 1000, 2000, 4000} {
		if got, ok := r.next(now); !ok || got != want*time.Millisecond {
			t.Errorf("pause %v, %v; want %v ms", got, ok, int64(want))
		}
	}
	if _, ok := r.next(now.Add(9 * time.Minute)); ok {
		t.Error("a sixth restart within ten minutes")
	}
	if got, ok := r.next(now.Add(10 * time.Minute)); !ok || got != 250*time.Millisecond {
		t.Errorf("ten minutes later: %v, %v; want to begin anew", got, ok)
	}
	r.limits.Count = 100
	for range 50 {
		if got, ok := r.next(now.Add(11 * time.Minute)); !ok || got > 30*time.Second {
			t.Fatalf("pause %v, %v; want at most 30 s", got, ok)
		}
	}
}

func TestPercentiles(t *testing.T) {
	t.Parallel()
	var l latencies
	if got := l.percentiles(50, 99); !slices.Equal(got, []int64{0, 0}) {
		t.Errorf("without calls: %v", got)
	}
	for i := range 3 * latencySamples {
		l.add(time.Duration(i%100) * time.Millisecond)
	}
	if got := l.percentiles(0, 50, 99); got[0] != 0 || got[1] < 49_000 || got[1] > 51_000 || got[2] < 98_000 || len(l.samples) != latencySamples {
		t.Errorf("percentiles %v of %d samples", got, len(l.samples))
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain words, 学习率": "plain words, 学习率",
		"two\nlines\tand":  "two lines and",
		"\x1b[2J":          `\x1b[2J`,
		"right\u202eleft":  `right\u202eleft`,
		"bad \xff byte":    `bad \xff byte`,
		"low \x01":         `low \x01`,
		"  \n":             "",
	} {
		if got := printable(in, 100); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	if got := printable("学习率", 7); got != "学习…" {
		t.Errorf("cut to %q", got)
	}
}

func FuzzPrintable(f *testing.F) {
	for _, s := range []string{"", "a\nb", "\xff\xfe", "\u202e", "学", "\x1b[31m"} {
		f.Add(s, 10)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = max(4, limit%1000)
		got := printable(s, limit)
		if len(got) > limit+len("…") || !utf8.ValidString(got) {
			t.Fatalf("%q cut to %d becomes %q", s, limit, got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q becomes %q", s, got)
			}
		}
	})
}

// FuzzLogLine feeds whole streams through the cutting and parsing of lines.
func FuzzLogLine(f *testing.F) {
	for _, s := range []string{
		`{"@level":"info","@message":"m","a":1}` + "\n", `{"@message":5}`, "panic: x\n\ngoroutine 1", "{", "null", "\n\n", `{"a":{"b":[1]}}`,
	} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, stream []byte, chunk int) {
		var out recorder
		log := &pluginLog{logger: out.logger(), now: func() time.Time { return time.Unix(1, 0) }}
		lines := &lineWriter{emit: log.line}
		for c := range slices.Chunk(stream, max(1, chunk%100)) {
			if _, err := lines.Write(c); err != nil {
				t.Fatal(err)
			}
		}
		lines.flush()
		log.flush()
		if len(lines.partial) > maxLogLine || len(out.lines) > logBurst+2 {
			t.Fatalf("%d bytes are held, %d lines passed on", len(lines.partial), len(out.lines))
		}
	})
}

func TestLineWriter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		lines := rapid.SliceOfN(rapid.StringMatching(`[a-z]{0,20}`), 1, 10).Draw(t, "lines")
		long := strings.Repeat("x", maxLogLine)
		if rapid.Bool().Draw(t, "one is long") {
			lines[0] = long + "lost"
		}
		var got []string
		w := &lineWriter{emit: func(b []byte) { got = append(got, string(b)) }}
		stream := []byte(strings.Join(lines, "\n"))
		for len(stream) > 0 {
			n := rapid.IntRange(1, len(stream)).Draw(t, "chunk")
			if _, err := w.Write(stream[:n]); err != nil {
				t.Fatal(err)
			}
			stream = stream[n:]
		}
		w.flush()
		if strings.HasPrefix(lines[0], long) {
			lines[0] = long
		}
		if lines[len(lines)-1] == "" {
			lines = lines[:len(lines)-1]
		}
		if !slices.Equal(got, lines) {
			t.Fatalf("lines %q, want %q", got, lines)
		}
	})
}

func TestParseLine(t *testing.T) {
	t.Parallel()
	level, message, fields := parseLine([]byte(`{"@level":"warn","@message":"slow","@module":"x","took":3,"job":"7"}`))
	if level != slog.LevelWarn || message != "slow" || fmt.Sprint(fields) != "[job=7 took=3]" {
		t.Errorf("read as %v %q %v", level, message, fields)
	}
	level, message, _ = parseLine([]byte("panic: no"))
	if level != slog.LevelWarn || message != "panic: no" {
		t.Errorf("read as %v %q", level, message)
	}
}

// TestLogRate: a burst passes, then so many a second, and what was left out is counted.
func TestLogRate(t *testing.T) {
	t.Parallel()
	var out recorder
	now := time.Unix(1, 0)
	log := &pluginLog{logger: out.logger(), now: func() time.Time { return now }}
	say := func(n int) {
		for range n {
			log.line([]byte("word"))
		}
	}
	say(1000)
	if got := out.count("word"); got != logBurst {
		t.Errorf("%d of a burst of 1000 lines pass, want %d", got, logBurst)
	}
	now = now.Add(time.Second)
	say(1000)
	if got := out.count("word"); got != logBurst+logRate {
		t.Errorf("%d lines pass after a second more, want %d", got, logBurst+logRate)
	}
	log.flush()
	if out.count(fmt.Sprint(`"count":`, 1000-logBurst)) != 1 || out.count(fmt.Sprint(`"count":`, 1000-logRate)) != 1 {
		t.Errorf("what was left out is not told: %s", out.all())
	}
}

func FuzzStdioChunk(f *testing.F) {
	f.Add(protowire.AppendBytes(protowire.AppendTag([]byte{8, 1}, 2, protowire.BytesType), []byte("text")))
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if channel, data := stdioChunk(b); channel < 0 || channel > 1 || len(data) > len(b) {
			t.Fatalf("channel %d, %d bytes", channel, len(data))
		}
	})
}

// TestTable: the table holds what a map would, whatever comes and goes.
func TestTable(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var tab table
		model := map[uint64]policy.Job{}
		id := rapid.Uint64Range(1, 12)
		full := true
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				got := map[uint64]policy.Job{}
				for i := range tab.jobs.Len() {
					j := tab.jobs.At(i)
					got[j.ID] = j
					if at := tab.place[j.ID]; at != i {
						t.Fatalf("job %d at %d is looked for at %d", j.ID, i, at)
					}
				}
				if !maps.Equal(got, model) || tab.jobs.Len() != len(model) || len(tab.place) != len(model) || tab.jobs.Check() != nil {
					t.Fatalf("table holds %v, want %v", got, model)
				}
			},
			"delta": func(t *rapid.T) {
				d := Delta{Full: full}
				changed := rapid.SliceOfDistinct(id, rapid.ID).Draw(t, "changed")
				for _, c := range changed {
					d.Changed.Append(policy.Job{ID: c, Priority: rapid.Uint32().Draw(t, "priority"), User: "u"})
				}
				var known []uint64
				if !full {
					for _, r := range rapid.SliceOfDistinct(id, rapid.ID).Draw(t, "removed") {
						if slices.Contains(changed, r) {
							continue
						}
						d.Removed = append(d.Removed, r)
						if _, ok := model[r]; ok {
							known = append(known, r)
						}
						delete(model, r)
					}
				} else {
					clear(model)
				}
				if err := tab.apply(d); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(tab.removed, known) {
					t.Fatalf("removed %v, want %v", tab.removed, known)
				}
				for i := range d.Changed.Len() {
					model[d.Changed.ID[i]] = d.Changed.At(i)
				}
				full = rapid.Bool().Draw(t, "full next")
			},
		})
	})
}

// TestFillRequest: what a policy need not have is left out when it says nothing.
func TestFillRequest(t *testing.T) {
	t.Parallel()
	var req pluginv1.ScoreRequest
	bare := columns(policy.Job{ID: 1, Priority: 5, User: "u", Project: "p"}, policy.Job{ID: 2})
	fillRequest(&req, &bare)
	if len(req.GetEstimateS())+len(req.GetRemainingS())+len(req.GetRunS())+len(req.GetRunning())+len(req.GetPartition())+len(req.GetAccount()) != 0 {
		t.Errorf("columns of nothing are sent: %v", &req)
	}
	if len(req.GetPriority()) != 2 || len(req.GetTimeLimitS()) != 2 || len(req.GetProject()) != 2 {
		t.Errorf("columns that every policy has are left out: %v", &req)
	}
	full := columns(job(1), job(2), job(4), job(5), job(9))
	req.Reset()
	fillRequest(&req, &full)
	if len(req.GetAccounts()) != 3 || len(req.GetAccount()) != 5 || req.Accounts[req.Account[1]].GetLevels()[0].GetName() != "thesis" {
		t.Errorf("accounts %v by number %v", req.GetAccounts(), req.GetAccount())
	}
	if err := sdk.CheckColumns(&req); err != nil {
		t.Error(err)
	}
}

func TestNumbered(t *testing.T) {
	t.Parallel()
	index, list := numbered([]string{"b", "a", "b", ""})
	if !slices.Equal(index, []uint32{0, 1, 0, 2}) || !slices.Equal(list, []string{"b", "a", ""}) {
		t.Errorf("numbered %v of %q", index, list)
	}
}

func TestErrorsNest(t *testing.T) {
	t.Parallel()
	if !errors.Is(ErrDisabled, ErrUnavailable) || !errors.Is(ErrClosed, ErrUnavailable) {
		t.Error("disabled and closed are not unavailable")
	}
	err := classify("p", invalid("bad %d", 5), nil, false)
	if !errors.Is(err, ErrInvalid) || err.Error() != "p: plugin answered nonsense: bad 5" {
		t.Errorf("got %v", err)
	}
}
