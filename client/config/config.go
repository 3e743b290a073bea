// Package config finds out which controllers a command talks to and with which defaults.
//
// Controllers come from the first of these that names any: the -M flag, FETTLE_CONTROLLERS, the user's config file, the
// system's config file, the cluster that `fettle up` started on this machine. Other settings come from the user's file,
// else from the system's.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/fettle-hpc/fettle/client/internal/tomlerr"
	"github.com/fettle-hpc/fettle/proto/gres"
)

// DefaultPort is where a controller listens for clients when an address names no port.
const DefaultPort = "7100"

// SystemFile is the config file for all users of a machine.
const SystemFile = "/etc/fettle/fettle.toml"

// maxFile bounds a config file in bytes; maxControllers the addresses in it.
const (
	maxFile        = 1 << 20
	maxControllers = 64
)

// Sources is where to look. Empty fields are skipped.
type Sources struct {
	// Flag is the value of -M, FlagSet whether it was given.
	Flag    string
	FlagSet bool
	// Env is the value of FETTLE_CONTROLLERS.
	Env string
	// UserFile and SystemFile are paths of config files, which need not exist.
	UserFile, SystemFile string
	// Local answers the client addresses of the cluster that `fettle up` left, if there is one.
	Local func() []string
}

// Config is what was found.
type Config struct {
	// Controllers are host:port addresses; empty when no place names any.
	Controllers []string
	// From says where Controllers came from, for messages.
	From string
	// Timeout bounds one request with all its retries; 0 when not configured.
	Timeout time.Duration
	// Submit are defaults for fsubmit's options: option name to value.
	Submit []Default
}

// Default is one default for an option of fsubmit.
type Default struct{ Option, Value string }

// Error is a setting that was refused. It renders to one line.
type Error struct {
	// Where names the place: "--controllers", "FETTLE_CONTROLLERS", or a file, perhaps with a line.
	Where   string
	Problem string
	Remedy  string
}

// Error renders "WHERE: PROBLEM; REMEDY".
func (e *Error) Error() string {
	s := e.Where + ": " + e.Problem
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// UserFile returns the path of the user's config file, $XDG_CONFIG_HOME/fettle/config.toml or the same under
// ~/.config; "" when the user has no home.
func UserFile(getenv func(string) string) string {
	dir := getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		home := getenv("HOME")
		if !filepath.IsAbs(home) {
			return ""
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "fettle", "config.toml")
}

// file is the layout of a config file.
type file struct {
	Controllers []string       `toml:"controllers"`
	Timeout     string         `toml:"timeout"`
	Submit      map[string]any `toml:"submit"`
}

// Load reads the sources. A file that is there but wrong is always refused, also when a flag makes it unnecessary.
func Load(s Sources) (Config, error) {
	var cfg Config
	for _, path := range []string{s.UserFile, s.SystemFile} {
		if path == "" {
			continue
		}
		if err := cfg.merge(path); err != nil {
			return Config{}, err
		}
	}
	for _, over := range []struct {
		set         bool
		value, name string
	}{{s.FlagSet, s.Flag, "--controllers"}, {s.Env != "", s.Env, "FETTLE_CONTROLLERS"}} {
		if !over.set {
			continue
		}
		addrs, err := ParseControllers(over.name, strings.Split(over.value, ","))
		if err != nil {
			return Config{}, err
		}
		cfg.Controllers, cfg.From = addrs, over.name
		return cfg, nil
	}
	if len(cfg.Controllers) == 0 && s.Local != nil {
		if addrs := s.Local(); len(addrs) > 0 {
			cfg.Controllers, cfg.From = addrs, "fettle up"
		}
	}
	return cfg, nil
}

// merge takes from the file at path what no earlier file has set.
func (c *Config) merge(path string) error {
	f, err := read(path)
	if err != nil || f == nil {
		return err
	}
	if f.Controllers != nil {
		addrs, err := ParseControllers(path+": controllers", f.Controllers)
		if err != nil {
			return err
		}
		if len(c.Controllers) == 0 {
			c.Controllers, c.From = addrs, path
		}
	}
	if f.Timeout != "" {
		d, err := time.ParseDuration(f.Timeout)
		if err != nil || d < time.Second || d > time.Hour {
			return &Error{path + ": timeout", gres.Quote(f.Timeout) + " is not a time from 1s to 1h", "write for example timeout = \"20s\""}
		}
		if c.Timeout == 0 {
			c.Timeout = d
		}
	}
	return c.mergeSubmit(path, f.Submit)
}

func (c *Config) mergeSubmit(path string, table map[string]any) error {
	have := make(map[string]bool, len(c.Submit))
	for _, d := range c.Submit {
		have[d.Option] = true
	}
	names := make([]string, 0, len(table))
	for name := range table {
		names = append(names, name)
	}
	// The order of a TOML table means nothing; a fixed one keeps errors the same from run to run.
	slices.Sort(names)
	for _, name := range names {
		value, ok := scalar(table[name])
		if !ok {
			return &Error{path + ": submit." + name, "is not a text, a number or true", "write for example priority = 5"}
		}
		if !have[name] {
			c.Submit = append(c.Submit, Default{name, value})
		}
	}
	return nil
}

func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case int64:
		return strconv.FormatInt(v, 10), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// read parses one file; nil when there is none.
func read(path string) (*file, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && strings.HasPrefix(path, "/etc/") {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{path, "cannot be read: " + cause(err), "mend its permissions or remove it"}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, &Error{path, "cannot be read: " + cause(err), "mend its permissions or remove it"}
	case len(data) > maxFile:
		return nil, &Error{path, "is larger than 1 MiB", "it should hold a few settings only"}
	}
	var out file
	dec := toml.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&out); err != nil {
		return nil, tomlError(path, err)
	}
	return &out, nil
}

func cause(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// tomlError names file, line and key of what was wrong.
func tomlError(path string, err error) error {
	f := tomlerr.Of(err)
	if f.Line > 0 {
		path += ":" + strconv.Itoa(f.Line)
	}
	if f.Unknown {
		return &Error{path, "unknown key " + gres.Quote(f.Key), "known keys are controllers, timeout and the table submit"}
	}
	if f.Key != "" {
		path += ": " + f.Key
	}
	return &Error{path, f.Problem, "mend the line"}
}

// ParseControllers checks addresses of controllers, host or host:port, and adds the default port. where names them in
// errors. Only addresses of this machine are taken: nothing leaves it unencrypted.
func ParseControllers(where string, list []string) ([]string, error) {
	const remedy = "use HOST:PORT[,HOST:PORT...], for example 127.0.0.1:7100"
	if len(list) > maxControllers {
		return nil, &Error{where, fmt.Sprintf("names more than %d controllers", maxControllers), remedy}
	}
	var out []string
	seen := make(map[string]bool)
	for _, item := range list {
		item = strings.TrimSpace(item)
		if item == "" {
			return nil, &Error{where, "has an empty address", remedy}
		}
		host, port, err := net.SplitHostPort(item)
		if err != nil {
			if strings.Contains(strings.Trim(item, "[]"), ":") && strings.Count(item, ":") == 1 {
				return nil, &Error{where, gres.Quote(item) + " is not an address", remedy}
			}
			host, port = strings.Trim(item, "[]"), DefaultPort
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return nil, &Error{where, gres.Quote(item) + " has no port from 1 to 65535", remedy}
		}
		if !validHost(host) {
			return nil, &Error{where, gres.Quote(item) + " is not an address", remedy}
		}
		if !loopback(host) {
			return nil, &Error{where, gres.Quote(item) + " is not on this machine, and connections are not encrypted",
				"run the command on the controller's machine, or forward a local port to it with ssh -L"}
		}
		addr := net.JoinHostPort(host, strconv.FormatUint(n, 10))
		if !seen[addr] {
			seen[addr] = true
			out = append(out, addr)
		}
	}
	return out, nil
}

// Local reports whether addr is host:port on this machine.
func Local(addr string) bool {
	host, port, err := net.SplitHostPort(addr)
	return err == nil && port != "" && loopback(host)
}

func validHost(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	if host == "" || len(host) > 253 {
		return false
	}
	for i := 0; i < len(host); i++ {
		c := host[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return true
}

func loopback(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback()
	}
	return strings.EqualFold(host, "localhost")
}
