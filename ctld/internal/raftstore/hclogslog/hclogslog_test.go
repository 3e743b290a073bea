package hclogslog

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestLines(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		log  func(l hclog.Logger)
		want string
	}{
		{"plain", func(l hclog.Logger) { l.Info("hello", "n", 1) }, `level=INFO msg=hello n=1`},
		{"format", func(l hclog.Logger) { l.Warn("m", "v", hclog.Fmt("%d/%d", 1, 2)) }, `level=WARN msg=m v=1/2`},
		{"error value", func(l hclog.Logger) { l.Error("m", "error", errors.New("broken")) }, `level=ERROR msg=m error=broken`},
		{"implied", func(l hclog.Logger) { l.With("id", "x").Info("m", "n", 2) }, `level=INFO msg=m id=x n=2`},
		{"implied twice", func(l hclog.Logger) { l.With("id", "x").With("b", 1).Info("m") }, `level=INFO msg=m id=x b=1`},
		{"odd arguments", func(l hclog.Logger) { l.Info("m", "lonely") }, `level=INFO msg=m extra=lonely`},
		{"below the level", func(l hclog.Logger) { l.Debug("m") }, ``},
		{"standard logger", func(l hclog.Logger) { l.StandardLogger(nil).Println("line") }, `level=INFO msg=line`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var buf bytes.Buffer
			h := slog.NewTextHandler(&buf, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			}})
			tt.log(New(slog.New(h), "raft"))
			if got := strings.TrimSpace(buf.String()); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	l := New(nil, "raft").Named("net")
	if l.Name() != "raft.net" {
		t.Errorf("name %q", l.Name())
	}
	if l.GetLevel() != hclog.Off {
		t.Errorf("a discarding logger has level %v", l.GetLevel())
	}
}
