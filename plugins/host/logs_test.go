package host

import (
	"strings"
	"testing"
	"time"
)

// TestLogFlood: a plugin that never stops talking is heard a little, and goes on working.
func TestLogFlood(t *testing.T) {
	t.Parallel()
	var log recorder
	cfg := scheduling(t, "bad", map[string]string{"mode": "flood"})
	cfg.Plugin.Logger = log.logger()
	c := newCycle(t, cfg)
	ready(t, c.s.Plugin())
	begin := time.Now()
	c.put(job(1))
	for range 20 {
		c.put(job(2))
		if got := c.score(); got.Builtin {
			t.Fatalf("decided by %s while it floods", got)
		}
	}
	eventually(t, "the host says what it leaves out", func() bool { return log.count("plugin log lines left out") > 0 })
	if got, most := log.count(`"plugin log"`), logBurst+logRate*(2+int(time.Since(begin)/time.Second)); got > most || got == 0 {
		t.Errorf("%d lines are passed on, want 1 to %d", got, most)
	}
}

// TestHostileLog: no line breaks the host or forges another.
func TestHostileLog(t *testing.T) {
	t.Parallel()
	var log recorder
	cfg := scheduling(t, "bad", map[string]string{"mode": "hostile log"})
	cfg.Plugin.Logger = log.logger()
	c := newCycle(t, cfg)
	ready(t, c.s.Plugin())
	c.put(job(1))
	if got := c.score(); got.Builtin {
		t.Fatalf("decided by %s", got)
	}
	for _, want := range []string{
		`"message":"line one forged=line two"`, `"key":"value\\x1b[2J"`, `\\x1b]0;owned\\a text`, "printed through go-plugin",
	} {
		eventually(t, "the log holds "+want, func() bool { return strings.Contains(log.all(), want) })
	}
	for line := range strings.Lines(log.all()) {
		if len(line) > 3*maxLogText {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
}
