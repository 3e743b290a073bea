package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// How much a plugin may say: lines a second on average, at once, bytes a line and fields a line.
const (
	logRate      = 20
	logBurst     = 200
	maxLogLine   = 8 << 10
	maxLogFields = 16
)

// pluginLog takes a plugin's lines over all its starts and passes on what is bearable.
type pluginLog struct {
	logger *slog.Logger
	now    func() time.Time

	mu      sync.Mutex
	pace    pace
	dropped int
}

// line passes on one line of standard error or output.
func (l *pluginLog) line(raw []byte) {
	raw = bytes.TrimRight(raw, "\r\n")
	if len(bytes.TrimSpace(raw)) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// A bucket that does not go into debt: a refused line costs nothing.
	if l.pace.take(l.now(), 1, logRate, logBurst) > 0 {
		l.pace.tokens++
		l.dropped++
		return
	}
	l.reportDropped()
	level, message, fields := parseLine(raw)
	l.logger.LogAttrs(context.Background(), level, "plugin log", slog.String("message", message), slog.Any("fields", slog.GroupValue(fields...)))
}

// flush says what was left out since the last line.
func (l *pluginLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reportDropped()
}

func (l *pluginLog) reportDropped() {
	if l.dropped > 0 {
		l.logger.Warn("plugin log lines left out", "count", l.dropped)
		l.dropped = 0
	}
}

// parseLine reads hclog's JSON; anything else is a line of text, such as a trace of a crash.
func parseLine(raw []byte) (slog.Level, string, []slog.Attr) {
	var object map[string]json.RawMessage
	if raw[0] != '{' || json.Unmarshal(raw, &object) != nil {
		return slog.LevelWarn, printable(string(raw), maxLogText), nil
	}
	text := func(key string) string {
		var s string
		_ = json.Unmarshal(object[key], &s)
		return s
	}
	level := slog.LevelInfo
	switch text("@level") {
	case "trace", "debug":
		level = slog.LevelDebug
	case "warn":
		level = slog.LevelWarn
	case "error":
		level = slog.LevelError
	}
	message := printable(text("@message"), maxLogText)
	var keys []string
	for key := range object {
		if !strings.HasPrefix(key, "@") {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	fields := make([]slog.Attr, 0, min(len(keys), maxLogFields))
	for i, key := range keys {
		if i == maxLogFields {
			break
		}
		var s string
		if json.Unmarshal(object[key], &s) != nil {
			s = string(object[key])
		}
		fields = append(fields, slog.String(printable(key, maxLogField), printable(s, maxLogField)))
	}
	return level, message, fields
}

// lineWriter cuts a stream into lines of at most maxLogLine bytes; the rest of a longer one is left out.
type lineWriter struct {
	emit    func([]byte)
	partial []byte
	skip    bool
}

func (w *lineWriter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		piece, rest, complete := bytes.Cut(b, []byte{'\n'})
		b = rest
		if !w.skip {
			room := maxLogLine - len(w.partial)
			w.partial = append(w.partial, piece[:min(len(piece), room)]...)
			if len(piece) > room || complete {
				w.emit(w.partial)
				w.partial = w.partial[:0]
				w.skip = true
			}
		}
		if complete {
			w.skip = false
		}
	}
	return n, nil
}

func (w *lineWriter) flush() {
	if len(w.partial) > 0 && !w.skip {
		w.emit(w.partial)
		w.partial = w.partial[:0]
	}
}

// lastWords keeps the line of a process's standard error that best says why it ended.
type lastWords struct {
	mu   sync.Mutex
	text string
	sure bool
}

func (w *lastWords) line(raw []byte) {
	crash := bytes.HasPrefix(raw, []byte("panic: ")) || bytes.HasPrefix(raw, []byte("fatal error: "))
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case crash && !w.sure:
		w.text, w.sure = printable(string(raw), maxErrorText), true
	case !w.sure && len(raw) > 0 && raw[0] != '{':
		w.text = printable(string(raw), maxErrorText)
	}
}

func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text
}

// readLog passes on standard error until the end of the process.
func readLog(p *process) {
	lines := &lineWriter{emit: func(b []byte) {
		p.words.line(b)
		p.log.line(b)
	}}
	_, err := io.Copy(lines, &slowReader{r: p.stderr, stop: p.dead})
	lines.flush()
	p.log.flush()
	if err != nil && !isEnd(err) {
		p.log.logger.Warn("plugin log unreadable", "error", err)
	}
}

// isEnd says that a pipe has nothing more to give.
func isEnd(err error) bool {
	return errors.Is(err, os.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded)
}
