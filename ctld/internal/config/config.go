// Package config reads the controller's one TOML file.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// DefaultScheduler and DefaultPreemption are the shipped policy plugins.
const (
	DefaultScheduler  = "fettle-sched-multifactor"
	DefaultPreemption = "fettle-preempt-lostwork"
)

// BuiltIn in place of a policy plugin's name runs none: the controller's own policy decides.
const BuiltIn = "built-in"

// Config is the controller's configuration. Unknown keys are refused.
type Config struct {
	// Name of this controller, unique in the cluster.
	Name string `toml:"name"`
	// DataDir holds the log and snapshots, on a local disk.
	DataDir string `toml:"data_dir"`
	// RaftAddr is where the controllers talk to each other. Default 127.0.0.1:7101.
	RaftAddr string `toml:"raft_addr"`
	// ClientAddr is where clients and nodes connect. Default 127.0.0.1:7100.
	ClientAddr string `toml:"client_addr"`
	// Join lists client addresses of controllers to join through, as --join does.
	Join []string `toml:"join"`
	// PluginDir holds the plugins. Default: beside the executable, then ../lib/fettle.
	PluginDir string `toml:"plugin_dir"`
	// LogLevel is debug, info, warn or error. Default info.
	LogLevel string `toml:"log_level"`
	// Timing multiplies Raft's heartbeat and election times. Default 1; 2 suits shared machines.
	Timing float64 `toml:"timing"`
	// Scheduler names the scheduling policy plugin, by its file name in PluginDir or an absolute path. Default
	// fettle-sched-multifactor; "built-in" runs none.
	Scheduler string `toml:"scheduler"`
	// Preemption names the preemption policy plugin likewise. Default fettle-preempt-lostwork; "built-in" runs none.
	Preemption string `toml:"preemption"`
	Node       Node   `toml:"node"`
	Retention  Keep   `toml:"retention"`
}

// Node holds the times of the node protocol, as durations such as "30s".
type Node struct {
	// Heartbeat is how often nodes renew their lease. Default 5s.
	Heartbeat Duration `toml:"heartbeat"`
	// Unreachable is the silence after which a node gets nothing new. Default 30s.
	Unreachable Duration `toml:"unreachable"`
	// Lease is how long a node without contact may go on running jobs that may be started elsewhere. Default 9m.
	Lease Duration `toml:"lease"`
	// LeaseMargin is waited beyond the lease. Default 1m.
	LeaseMargin Duration `toml:"lease_margin"`
}

// Keep says how long finished jobs stay listed.
type Keep struct {
	// MaxAge default 2160h (90 days).
	MaxAge Duration `toml:"max_age"`
	// MaxJobs default 1,000,000.
	MaxJobs int `toml:"max_jobs"`
}

// Duration is a time.Duration written as "30s" in TOML.
type Duration time.Duration

// UnmarshalText reads a duration with a unit.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration; write it as 30s, 10m or 2h", text)
	}
	*d = Duration(v)
	return nil
}

// Load reads and checks a file.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", path, unwrapPath(err))
	}
	c, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", path, err)
	}
	return c, nil
}

func unwrapPath(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// Parse reads TOML and fills defaults. Errors name the line or key, one line each.
func Parse(data []byte) (*Config, error) {
	c := &Config{}
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	if err := dec.Decode(c); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) && len(strict.Errors) > 0 {
			e := strict.Errors[0]
			row, _ := e.Position()
			return nil, fmt.Errorf("line %d: unknown key %q; docs/admin.md lists the keys", row, strings.Join(e.Key(), "."))
		}
		var de *toml.DecodeError
		if errors.As(err, &de) {
			row, _ := de.Position()
			return nil, fmt.Errorf("line %d: %s", row, strings.TrimPrefix(de.Error(), "toml: "))
		}
		return nil, err
	}
	c.fill()
	return c, c.check()
}

func (c *Config) fill() {
	def := func(v *string, d string) {
		if *v == "" {
			*v = d
		}
	}
	def(&c.RaftAddr, "127.0.0.1:7101")
	def(&c.ClientAddr, "127.0.0.1:7100")
	def(&c.LogLevel, "info")
	def(&c.Scheduler, DefaultScheduler)
	def(&c.Preemption, DefaultPreemption)
	if c.Name == "" {
		if host, err := os.Hostname(); err == nil {
			c.Name, _, _ = strings.Cut(host, ".")
		}
	}
	if c.Timing == 0 {
		c.Timing = 1
	}
}

func (c *Config) check() error {
	if c.DataDir == "" {
		return errors.New("data_dir is missing; name a directory on a local disk, e.g. data_dir = \"/var/lib/fettle/ctld\"")
	}
	if !filepath.IsAbs(c.DataDir) {
		return fmt.Errorf("data_dir %q is relative; write an absolute path", c.DataDir)
	}
	if c.PluginDir != "" && !filepath.IsAbs(c.PluginDir) {
		return fmt.Errorf("plugin_dir %q is relative; write an absolute path", c.PluginDir)
	}
	for _, a := range []struct{ key, addr string }{{"raft_addr", c.RaftAddr}, {"client_addr", c.ClientAddr}} {
		if err := checkLoopback(a.addr); err != nil {
			return fmt.Errorf("%s %q: %w", a.key, a.addr, err)
		}
	}
	for _, a := range c.Join {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return fmt.Errorf("join %q: not HOST:PORT", a)
		}
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		return fmt.Errorf("log_level %q: unknown; use debug, info, warn or error", c.LogLevel)
	}
	if c.Timing < 0.1 || c.Timing > 10 {
		return fmt.Errorf("timing %s: out of range; use 0.1 to 10", strconv.FormatFloat(c.Timing, 'g', -1, 64))
	}
	if c.Retention.MaxJobs < 0 {
		return fmt.Errorf("retention.max_jobs %d: negative", c.Retention.MaxJobs)
	}
	return nil
}

// checkLoopback refuses addresses that other machines can reach, as long as connections are plain text.
func checkLoopback(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return errors.New("not HOST:PORT")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return errors.New("the port must be 1 to 65535")
	}
	ip := net.ParseIP(host)
	if host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return errors.New("plain text is allowed on loopback only; use 127.0.0.1")
	}
	return nil
}
