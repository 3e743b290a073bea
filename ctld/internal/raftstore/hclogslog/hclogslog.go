// Package hclogslog lets libraries that log through hclog write to log/slog.
package hclogslog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// levelTrace is one step below slog's debug level, as hclog's trace is.
const levelTrace = slog.LevelDebug - 4

// New returns an hclog logger that writes to l. Trace becomes a level below
// debug; SetLevel is ignored because the slog handler decides what is shown. A
// nil l discards.
func New(l *slog.Logger, name string) hclog.Logger {
	if l == nil {
		l = slog.New(slog.DiscardHandler)
	}
	return &logger{base: l, out: l, name: name}
}

type logger struct {
	base    *slog.Logger // without the implied arguments
	out     *slog.Logger // with them
	name    string
	implied []any
}

func level(l hclog.Level) slog.Level {
	switch l {
	case hclog.Trace:
		return levelTrace
	case hclog.Debug:
		return slog.LevelDebug
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// attrs turns hclog's key-value list into slog's: formats are spelled out, and a
// value without a key gets one.
func attrs(args []any) []any {
	if len(args) == 0 {
		return nil
	}
	out := make([]any, 0, len(args)+1)
	for i := 0; i < len(args); i += 2 {
		if i+1 == len(args) {
			out = append(out, "extra", value(args[i]))
			break
		}
		out = append(out, fmt.Sprint(args[i]), value(args[i+1]))
	}
	return out
}

func value(v any) any {
	switch v := v.(type) {
	case hclog.Format:
		if len(v) == 0 {
			return ""
		}
		if format, ok := v[0].(string); ok {
			return fmt.Sprintf(format, v[1:]...)
		}
		return fmt.Sprint(v...)
	case error:
		return v.Error()
	case fmt.Stringer:
		return v.String()
	}
	return v
}

func (l *logger) Log(lv hclog.Level, msg string, args ...any) {
	if lv == hclog.Off || !l.enabled(lv) {
		return
	}
	l.out.Log(context.Background(), level(lv), msg, attrs(args)...)
}

func (l *logger) enabled(lv hclog.Level) bool {
	return l.base.Enabled(context.Background(), level(lv))
}

func (l *logger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *logger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *logger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *logger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *logger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *logger) IsTrace() bool { return l.enabled(hclog.Trace) }
func (l *logger) IsDebug() bool { return l.enabled(hclog.Debug) }
func (l *logger) IsInfo() bool  { return l.enabled(hclog.Info) }
func (l *logger) IsWarn() bool  { return l.enabled(hclog.Warn) }
func (l *logger) IsError() bool { return l.enabled(hclog.Error) }

func (l *logger) ImpliedArgs() []any { return l.implied }
func (l *logger) Name() string       { return l.name }

func (l *logger) With(args ...any) hclog.Logger {
	implied := append(append([]any{}, l.implied...), args...)
	return &logger{base: l.base, out: l.base.With(attrs(implied)...), name: l.name, implied: implied}
}

func (l *logger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.ResetNamed(name)
}

func (l *logger) ResetNamed(name string) hclog.Logger {
	return &logger{base: l.base, out: l.out, name: name, implied: l.implied}
}

func (l *logger) SetLevel(hclog.Level) {}

func (l *logger) GetLevel() hclog.Level {
	for _, lv := range []hclog.Level{hclog.Trace, hclog.Debug, hclog.Info, hclog.Warn, hclog.Error} {
		if l.enabled(lv) {
			return lv
		}
	}
	return hclog.Off
}

func (l *logger) StandardLogger(opts *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(opts), "", 0)
}

func (l *logger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lines{l} }

// lines logs each write as one line at info level.
type lines struct{ l *logger }

func (w lines) Write(p []byte) (int, error) {
	w.l.Info(string(bytes.TrimRight(p, "\r\n")))
	return len(p), nil
}
