package sdk

import (
	"io"
	"log/slog"
	"strings"
)

// logTime is the layout that hclog writes and hosts read.
const logTime = "2006-01-02T15:04:05.000000Z07:00"

// newLogHandler writes records as one JSON object a line, with the keys of hclog.
func newLogHandler(w io.Writer, name string, level slog.Leveler) slog.Handler {
	h := slog.NewJSONHandler(w, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) > 0 {
				return a
			}
			switch a.Key {
			case slog.TimeKey:
				if a.Value.Kind() == slog.KindTime {
					return slog.String("@timestamp", a.Value.Time().Format(logTime))
				}
			case slog.LevelKey:
				if l, ok := a.Value.Any().(slog.Level); ok {
					return slog.String("@level", levelName(l))
				}
			case slog.MessageKey:
				a.Key = "@message"
			}
			return a
		},
	})
	return h.WithAttrs([]slog.Attr{slog.String("@module", name)})
}

// levelName answers hclog's names, which know no steps between levels.
func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return strings.ToLower(slog.LevelDebug.String())
	case l < slog.LevelWarn:
		return strings.ToLower(slog.LevelInfo.String())
	case l < slog.LevelError:
		return strings.ToLower(slog.LevelWarn.String())
	default:
		return strings.ToLower(slog.LevelError.String())
	}
}
