// Package config reads the node daemon's one TOML file.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/fettle-hpc/fettle/proto/gres"
	"github.com/fettle-hpc/fettle/proto/model"
)

// Isolation levels that a configuration can ask for.
const (
	BestEffort = "best-effort"
	Required   = "required"
)

// Config is the node daemon's configuration. Unknown keys are refused.
type Config struct {
	// Name of the node; the host's name by default.
	Name string `toml:"name"`
	// StateDir is the daemon's own directory, on a local disk.
	StateDir string `toml:"state_dir"`
	// Controllers are the client addresses of all controllers.
	Controllers []string `toml:"controllers"`
	// GRES declares GPUs ("gpu:h100:8"); empty or "auto" detects them.
	GRES string `toml:"gres"`
	// GPUMemory is the memory of each declared GPU, such as "80G"; by its type, where that is known, by default.
	GPUMemory string `toml:"gpu_memory"`
	// Features are words that jobs' constraints refer to.
	Features []string `toml:"features"`
	// Switch is the network switch that the node hangs on; gangs are kept together below one.
	Switch string `toml:"switch"`
	// GPUReadings is how often GPUs are read. Default 5s, at least 100ms.
	GPUReadings Duration `toml:"gpu_readings"`
	// GPUIdleMemory is how much of a GPU's memory may be in use while no job holds it and no process accounts for it, before it
	// counts as used by something else. Default 1G; 0 lets any amount pass.
	GPUIdleMemory string `toml:"gpu_idle_memory"`
	// VRAMTolerance and VRAMTolerancePercent are how far a job may go above its share of a GPU's memory; the larger counts.
	// 1G and 10 by default.
	VRAMTolerance        string  `toml:"vram_tolerance"`
	VRAMTolerancePercent *uint32 `toml:"vram_tolerance_percent"`
	// CPUs offered; those of the machine by default.
	CPUs uint32 `toml:"cpus"`
	// Memory offered, such as "512G"; that of the machine by default.
	Memory string `toml:"memory"`
	// Address by which the other nodes of a gang reach this one; 127.0.0.1 by default.
	Address string `toml:"address"`
	// Engine is the trainer's command; "llamafactory-cli" by default.
	Engine string `toml:"engine"`
	// PluginDir holds the launchers; beside the executable, then ../lib/fettle, by default.
	PluginDir string `toml:"plugin_dir"`
	// Shim and NVML are the helpers' paths; beside the executable by default.
	Shim string `toml:"shim"`
	NVML string `toml:"nvml"`
	// Isolation is "best-effort" (what the host cannot enforce is reported) or "required" (it refuses to start).
	Isolation string `toml:"isolation"`
	// RootJobs lets jobs of uid 0 run, when the daemon itself does.
	RootJobs *bool `toml:"root_jobs"`
	// LogLevel is debug, info, warn or error. Default info.
	LogLevel string `toml:"log_level"`

	// MemoryMiB, GPUMemoryMiB, GPUIdleMiB and VRAMToleranceMiB are Memory, GPUMemory, GPUIdleMemory and VRAMTolerance, read. 0
	// when the first two were not given.
	MemoryMiB        int64 `toml:"-"`
	GPUMemoryMiB     int64 `toml:"-"`
	GPUIdleMiB       int64 `toml:"-"`
	VRAMToleranceMiB int64 `toml:"-"`
}

// Defaults of what may be left out.
const (
	defaultGPUReadings   = 5 * time.Second
	minGPUReadings       = 100 * time.Millisecond
	defaultGPUIdleMemory = "1G"
	// A CUDA context with its libraries takes some 600 MiB of the memory that the driver counts for a process.
	defaultVRAMTolerance        = "1G"
	defaultVRAMTolerancePercent = 10
	maxVRAMTolerancePercent     = 1000
	// maxFeatures bounds the features of a node.
	maxFeatures = model.MaxFeatures
)

// Duration is a time.Duration written as "5s" in TOML.
type Duration time.Duration

// UnmarshalText reads a duration with a unit.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration; write it as 500ms, 5s or 1m", text)
	}
	*d = Duration(v)
	return nil
}

// Load reads and checks a file.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, fmt.Errorf("config %s: %w", path, err)
	}
	c, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", path, err)
	}
	return c, nil
}

// Parse reads TOML and fills defaults. Errors name the line or key, one line each.
func Parse(data []byte) (*Config, error) {
	c := &Config{}
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(c); err != nil {
		return nil, explain(err)
	}
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("name is missing and the host has none: %w", err)
		}
		c.Name, _, _ = strings.Cut(strings.ToLower(host), ".")
	}
	if c.Address == "" {
		c.Address = "127.0.0.1"
	}
	if c.Isolation == "" {
		c.Isolation = BestEffort
	}
	if c.LogLevel == "" {
		c.LogLevel = "info"
	}
	if c.GPUIdleMemory == "" {
		c.GPUIdleMemory = defaultGPUIdleMemory
	}
	if c.VRAMTolerance == "" {
		c.VRAMTolerance = defaultVRAMTolerance
	}
	return c, c.check()
}

func explain(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		row, _ := strict.Errors[0].Position()
		return fmt.Errorf("line %d: unknown key %q; docs/admin.md lists the keys", row, strings.Join(strict.Errors[0].Key(), "."))
	}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		row, _ := de.Position()
		return fmt.Errorf("line %d: %s", row, strings.TrimPrefix(de.Error(), "toml: "))
	}
	return err
}

func (c *Config) check() error {
	if name, err := gres.NodeName(c.Name); err != nil {
		return fmt.Errorf("name %q: not a node name; use letters, digits, dots and dashes", c.Name)
	} else if name != c.Name {
		return fmt.Errorf("name %q: write it in lower case, %q", c.Name, name)
	}
	for _, p := range []struct{ key, path string }{{"state_dir", c.StateDir}, {"plugin_dir", c.PluginDir}, {"shim", c.Shim}, {"nvml", c.NVML}} {
		switch {
		case p.path == "" && p.key == "state_dir":
			return errors.New("state_dir is missing; name a directory on a local disk, e.g. state_dir = \"/var/lib/fettle-noded\"")
		case p.path != "" && !filepath.IsAbs(p.path):
			return fmt.Errorf("%s %q is relative; write an absolute path", p.key, p.path)
		}
	}
	if len(c.Controllers) == 0 {
		return errors.New("controllers is missing; list the controllers' client addresses, e.g. controllers = [\"127.0.0.1:7100\"]")
	}
	for _, a := range c.Controllers {
		if err := checkAddress(a); err != nil {
			return fmt.Errorf("controllers %q: %w", a, err)
		}
	}
	if c.Memory != "" {
		mib, err := gres.ParseSize(c.Memory)
		if err != nil {
			return err
		}
		c.MemoryMiB = mib
	}
	declared := c.GRES != "" && c.GRES != "auto"
	if declared {
		if _, err := gres.ParseNodeGRES(c.GRES); err != nil {
			return err
		}
	}
	if err := c.checkGPUs(declared); err != nil {
		return err
	}
	if err := c.checkPlace(); err != nil {
		return err
	}
	if c.Isolation != BestEffort && c.Isolation != Required {
		return fmt.Errorf("isolation %q: unknown; use %q or %q", c.Isolation, BestEffort, Required)
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
		return nil
	}
	return fmt.Errorf("log_level %q: unknown; use debug, info, warn or error", c.LogLevel)
}

// checkGPUs reads what is said of GPUs beside their number.
func (c *Config) checkGPUs(declared bool) (err error) {
	if c.GPUMemory != "" {
		switch c.GPUMemoryMiB, err = gres.ParseSize(c.GPUMemory); {
		case err != nil:
			return fmt.Errorf("gpu_memory: %w", err)
		case c.GPUMemoryMiB == 0:
			return errors.New("gpu_memory is zero; leave it out, or write for example \"80G\"")
		case c.GPUMemoryMiB > maxGPUMemoryMiB:
			return fmt.Errorf("gpu_memory %q: above 16 TiB; write the memory of one GPU, for example \"80G\"", c.GPUMemory)
		case !declared:
			return errors.New("gpu_memory is for declared GPUs only; declare them with gres, or leave it out: the driver tells the memory of those that it finds")
		}
	}
	if c.GPUIdleMiB, err = gres.ParseSize(c.GPUIdleMemory); err != nil {
		return fmt.Errorf("gpu_idle_memory: %w", err)
	}
	if c.VRAMToleranceMiB, err = gres.ParseSize(c.VRAMTolerance); err != nil {
		return fmt.Errorf("vram_tolerance: %w", err)
	}
	if p := c.TolerancePercent(); p > maxVRAMTolerancePercent {
		return fmt.Errorf("vram_tolerance_percent %d: use 0 to %d", p, maxVRAMTolerancePercent)
	}
	if d := c.ReadingsEvery(); d < minGPUReadings {
		return fmt.Errorf("gpu_readings %v: use at least %v", d, minGPUReadings)
	}
	return nil
}

// ReadingsEvery is GPUReadings, or the default.
func (c *Config) ReadingsEvery() time.Duration {
	if c.GPUReadings == 0 {
		return defaultGPUReadings
	}
	return time.Duration(c.GPUReadings)
}

// TolerancePercent is VRAMTolerancePercent, or the default.
func (c *Config) TolerancePercent() int64 {
	if c.VRAMTolerancePercent == nil {
		return defaultVRAMTolerancePercent
	}
	return int64(*c.VRAMTolerancePercent)
}

// maxGPUMemoryMiB bounds a GPU's memory: 16 TiB.
const maxGPUMemoryMiB = 16 << 20

// checkPlace checks the words by which jobs find the node, and puts them into their plain form.
func (c *Config) checkPlace() error {
	if len(c.Features) > maxFeatures {
		return fmt.Errorf("features: %d of them; at most %d", len(c.Features), maxFeatures)
	}
	plain := make([]string, 0, len(c.Features))
	for _, f := range c.Features {
		word, err := gres.ParseFeature(f)
		if err != nil {
			return fmt.Errorf("features: %w", err)
		}
		if slices.Contains(plain, word) {
			return fmt.Errorf("features: %q is listed twice; list it once", word)
		}
		plain = append(plain, word)
	}
	c.Features = plain
	if c.Switch == "" {
		return nil
	}
	name, err := gres.NodeName(c.Switch)
	if err != nil {
		return fmt.Errorf("switch %q: not a name; use letters, digits, dots and dashes", c.Switch)
	}
	c.Switch = name
	return nil
}

func checkAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return errors.New("not HOST:PORT")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return errors.New("the port must be 1 to 65535")
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return errors.New("plain text is allowed on loopback only; use 127.0.0.1")
	}
	return nil
}
