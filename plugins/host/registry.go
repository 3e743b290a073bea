package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
	pluginv1 "github.com/fettle-hpc/fettle/proto/plugin/v1"
)

// Prefixes of plugins' file names.
const (
	schedulingPrefix = "fettle-sched-"
	preemptionPrefix = "fettle-preempt-"
	launcherPrefix   = "fettle-launch-"
)

// Found is an executable that by its name is a plugin.
type Found struct {
	// Name is the file's without "fettle-": "sched-multifactor", "preempt-lostwork", "launch-lora".
	Name string
	// Path is absolute.
	Path string
	Kind pluginv1.PluginKind
	// Method is what a launcher's name says that it runs: "lora". It has to answer the same when it is started.
	Method string
}

// Discover lists the plugins of a directory, by name. Nothing is started. A directory that is not there holds none.
func Discover(dir string) ([]Found, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("plugin directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("plugin directory: %w", err)
	}
	var found []Found
	for _, e := range entries {
		f := Found{Name: strings.TrimPrefix(e.Name(), "fettle-"), Path: filepath.Join(dir, e.Name())}
		if rest, ok := strings.CutPrefix(e.Name(), schedulingPrefix); ok && isMethod(rest) {
			f.Kind = pluginv1.PluginKind_PLUGIN_KIND_SCHEDULING
		} else if rest, ok := strings.CutPrefix(e.Name(), preemptionPrefix); ok && isMethod(rest) {
			f.Kind = pluginv1.PluginKind_PLUGIN_KIND_PREEMPTION
		} else if rest, ok := strings.CutPrefix(e.Name(), launcherPrefix); ok && isMethod(rest) {
			f.Kind, f.Method = pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER, rest
		} else {
			continue
		}
		// Through a link, as packages install them.
		if st, err := os.Stat(f.Path); err != nil || !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
			continue
		}
		found = append(found, f)
	}
	return found, nil
}

// RegistryConfig says which launchers there are.
type RegistryConfig struct {
	// Dir is searched for fettle-launch-* executables; empty finds none.
	Dir string
	// Defaults hold for each launcher found, except Name, Path, Kind, Method and Checksum. SocketDir is needed.
	Defaults Config
	// Override changes the configuration of a launcher before it is started: settings or a checksum. May be nil.
	Override func(f Found, cfg *Config)
	// Eager starts all at once; otherwise each starts with its first call. Either way it then stays.
	Eager bool
}

// Registry finds launchers by training method and keeps them warm. Its methods may be called from any goroutine.
type Registry struct {
	cfg RegistryConfig

	mu        sync.Mutex
	launchers map[string]*Launcher
	closed    bool
}

// NewRegistry looks for launchers and supervises them until Close.
func NewRegistry(cfg RegistryConfig) (*Registry, error) {
	r := &Registry{cfg: cfg, launchers: map[string]*Launcher{}}
	if err := r.Rescan(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Rescan looks for launchers that have come since and lets go of those whose file is gone.
func (r *Registry) Rescan() error {
	if r.cfg.Dir == "" {
		return nil
	}
	found, err := Discover(r.cfg.Dir)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return ErrClosed
	}
	there := map[string]bool{}
	for _, f := range found {
		if f.Kind != pluginv1.PluginKind_PLUGIN_KIND_LAUNCHER {
			continue
		}
		there[f.Method] = true
		if r.launchers[f.Method] != nil {
			continue
		}
		cfg := r.cfg.Defaults
		if r.cfg.Override != nil {
			r.cfg.Override(f, &cfg)
		}
		cfg.Name, cfg.Path, cfg.Kind, cfg.Method, cfg.Lazy = f.Name, f.Path, f.Kind, f.Method, !r.cfg.Eager
		p, err := Start(context.Background(), cfg)
		if err != nil {
			return fmt.Errorf("plugin %s: %w", f.Name, err)
		}
		r.launchers[f.Method] = NewLauncher(p, f.Method)
	}
	for method, l := range r.launchers {
		if !there[method] {
			delete(r.launchers, method)
			l.plugin.Close()
		}
	}
	return nil
}

// Launcher answers the launcher of a training method. The error is ErrUnknownMethod and names those that there are.
func (r *Registry) Launcher(method string) (*Launcher, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.launchers[method]; l != nil {
		return l, nil
	}
	if len(r.launchers) == 0 {
		return nil, fmt.Errorf("%w %q; no launcher plugin is installed", ErrUnknownMethod, printable(method, 32))
	}
	return nil, fmt.Errorf("%w %q; use one of %s", ErrUnknownMethod, printable(method, 32), strings.Join(r.methodsLocked(), ", "))
}

// Methods are the training methods with a launcher, sorted.
func (r *Registry) Methods() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.methodsLocked()
}

func (r *Registry) methodsLocked() []string {
	methods := make([]string, 0, len(r.launchers))
	for m := range r.launchers {
		methods = append(methods, m)
	}
	slices.Sort(methods)
	return methods
}

// Plugin finds a plugin by its name, such as "launch-lora"; nil when there is none.
func (r *Registry) Plugin(name string) *Plugin {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.launchers {
		if l.plugin.Name() == name {
			return l.plugin
		}
	}
	return nil
}

// Status is that of every launcher, by name.
func (r *Registry) Status() []*fettlev1.PluginStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*fettlev1.PluginStatus
	for _, m := range r.methodsLocked() {
		out = append(out, r.launchers[m].plugin.Status())
	}
	return out
}

// Close ends all launchers and waits until their processes are gone.
func (r *Registry) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, l := range r.launchers {
		l.plugin.cancel()
	}
	for _, l := range r.launchers {
		l.plugin.Close()
	}
}
