package host

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// maxSocketDir keeps socket paths within the kernel's 107 bytes.
const maxSocketDir = 72

// Config is one plugin. Path, Kind and SocketDir are needed; every other zero value means its default.
type Config struct {
	// Name in logs and in PluginStatus; the file's name without "fettle-" by default.
	Name string
	// Path of the executable, absolute.
	Path string
	// Kind that the plugin must be.
	Kind pluginv1.PluginKind
	// Method that a launcher must answer; empty takes any.
	Method string
	// Checksum is the SHA-256 of the executable in hexadecimal. When it is set, the open file is hashed and that
	// descriptor is executed, so that nothing can be put in its place between the two.
	Checksum string
	// Settings are given to Configure after each start.
	Settings map[string]string
	// SocketDir is a directory of the host's own for its plugins' sockets: made with mode 0700 when missing, refused
	// when others may enter it, at most 72 bytes long.
	SocketDir string
	// Env names the host's variables that the plugin may see, none by default.
	Env []string
	// Lazy waits with the first start until the first call.
	Lazy bool
	// StartTimeout bounds a start from fork to configured, 5 s by default.
	StartTimeout time.Duration
	// CallTimeout bounds each call; by default 1 s for Score and SelectVictims, and what Launcher says for its methods.
	CallTimeout time.Duration
	// MaxRequestBytes and MaxResponseBytes bound messages; 64 MiB and 16 MiB by default.
	MaxRequestBytes, MaxResponseBytes int
	// MaxCalls is how many calls a launcher gets at once, 16 by default. A policy always gets one.
	MaxCalls int
	// MemoryBytes bounds the data of the process (RLIMIT_DATA), 2 GiB by default.
	MemoryBytes uint64
	Restart     RestartLimits
	Breaker     BreakerLimits
	// Logger takes the host's and the plugin's lines, slog.Default() by default.
	Logger *slog.Logger
}

// RestartLimits say how a plugin that ended is started again.
type RestartLimits struct {
	// Count of restarts within Window before the plugin is disabled, 5 in 10 minutes by default.
	Count  int
	Window time.Duration
	// MinBackoff is the first pause, doubled with each restart in the window up to MaxBackoff; 250 ms and 30 s by default.
	MinBackoff, MaxBackoff time.Duration
}

// BreakerLimits say when a plugin that fails is left alone.
type BreakerLimits struct {
	// Failures within Window that open the breaker, 3 in 60 s by default.
	Failures int
	Window   time.Duration
	// Open is how long it stays open at first, doubling up to MaxOpen; 30 s and 10 minutes by default.
	Open, MaxOpen time.Duration
	// Probes is how many good answers end the probation that follows, 5 for a policy (they are checked, not used) and 1 for
	// a launcher by default.
	Probes int
}

// withDefaults fills zero values; it does not change c.
func (c Config) withDefaults() Config {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	setInt := func(n *int, value int) {
		if *n == 0 {
			*n = value
		}
	}
	if c.Name == "" && c.Path != "" {
		c.Name = strings.TrimPrefix(filepath.Base(c.Path), "fettle-")
	}
	set(&c.StartTimeout, 5*time.Second)
	setInt(&c.MaxRequestBytes, 64<<20)
	setInt(&c.MaxResponseBytes, 16<<20)
	if c.MemoryBytes == 0 {
		c.MemoryBytes = 2 << 30
	}
	setInt(&c.MaxCalls, 16)
	if isPolicy(c.Kind) {
		c.MaxCalls = 1
	}
	setInt(&c.Restart.Count, 5)
	set(&c.Restart.Window, 10*time.Minute)
	set(&c.Restart.MinBackoff, 250*time.Millisecond)
	set(&c.Restart.MaxBackoff, 30*time.Second)
	setInt(&c.Breaker.Failures, 3)
	set(&c.Breaker.Window, time.Minute)
	set(&c.Breaker.Open, 30*time.Second)
	set(&c.Breaker.MaxOpen, 10*time.Minute)
	if isPolicy(c.Kind) {
		setInt(&c.Breaker.Probes, 5)
	}
	setInt(&c.Breaker.Probes, 1)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Settings, c.Env = maps.Clone(c.Settings), slices.Clone(c.Env)
	return c
}

// isPolicy says whether plugins of a kind propose decisions of the scheduler, for which there is a built-in twin.
func isPolicy(k pluginv1.PluginKind) bool {
	return k == pluginv1.PluginKind_PLUGIN_KIND_SCHEDULING || k == pluginv1.PluginKind_PLUGIN_KIND_PREEMPTION
}

// Validate says what is wrong with a configuration. Whether the file is there and runs shows at start.
func (c Config) Validate() error {
	if c.Path == "" {
		return errors.New("path: empty; name the plugin's executable")
	}
	if !filepath.IsAbs(c.Path) {
		return fmt.Errorf("path: %q is relative; give an absolute path", c.Path)
	}
	switch {
	case isPolicy(c.Kind):
		if c.Method != "" {
			return fmt.Errorf("method: %q given for a %s policy; only launchers have one", c.Method, kindName(c.Kind))
		}
	case c.Kind != pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER:
		return fmt.Errorf("kind: %v; use scheduling, preemption or launcher", c.Kind)
	}
	if c.Checksum != "" {
		if sum, err := hex.DecodeString(c.Checksum); err != nil || len(sum) != 32 {
			return fmt.Errorf("checksum: %q is not a SHA-256; use the 64 hexadecimal digits that sha256sum prints", c.Checksum)
		}
	}
	switch {
	case c.SocketDir == "":
		return errors.New("socket_dir: empty; name a directory for the plugins' sockets")
	case !filepath.IsAbs(c.SocketDir):
		return fmt.Errorf("socket_dir: %q is relative; give an absolute path", c.SocketDir)
	case len(c.SocketDir) > maxSocketDir:
		return fmt.Errorf("socket_dir: %q is %d bytes long; socket paths leave room for %d", c.SocketDir, len(c.SocketDir), maxSocketDir)
	}
	for _, name := range c.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.HasPrefix(name, "PLUGIN_") {
			return fmt.Errorf("env: %q is not the name of a variable that can be passed on", name)
		}
	}
	for _, d := range []struct {
		name  string
		value int64
	}{
		{"start_timeout", int64(c.StartTimeout)}, {"call_timeout", int64(c.CallTimeout)},
		{"max_request_bytes", int64(c.MaxRequestBytes)}, {"max_response_bytes", int64(c.MaxResponseBytes)},
		{"max_calls", int64(c.MaxCalls)}, {"restart.count", int64(c.Restart.Count)},
		{"restart.window", int64(c.Restart.Window)}, {"restart.min_backoff", int64(c.Restart.MinBackoff)},
		{"restart.max_backoff", int64(c.Restart.MaxBackoff)}, {"breaker.failures", int64(c.Breaker.Failures)},
		{"breaker.window", int64(c.Breaker.Window)}, {"breaker.open", int64(c.Breaker.Open)},
		{"breaker.max_open", int64(c.Breaker.MaxOpen)}, {"breaker.probes", int64(c.Breaker.Probes)},
	} {
		if d.value < 0 {
			return fmt.Errorf("%s: negative; use 0 for the default", d.name)
		}
	}
	return nil
}

// environment is what the process sees besides the handshake.
func (c *Config) environment() []string {
	var env []string
	for _, name := range c.Env {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}
