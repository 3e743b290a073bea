// Command testplugin is every kind of plugin that a host has to live with, for its tests. What it is follows from the name
// under which it is run (fettle-sched-*, fettle-preempt-* or fettle-launch-*, see main), what it does from its settings and requests.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fettle-hpc/fettle/plugins/sdk"
)

// hourMS sets this policy's scores apart from the built-in one's.
const hourMS = int64(time.Hour / time.Millisecond)

func main() {
	name := strings.TrimPrefix(filepath.Base(os.Args[0]), "fettle-")
	switch name {
	case "sched-silent":
		wait()
	case "sched-exits":
		fmt.Fprintln(os.Stderr, "no such file: weights.db")
		os.Exit(7)
	case "sched-babbles":
		fmt.Println("hello\x1b[31m, is this the queue?")
		wait()
	case "sched-elsewhere":
		fmt.Println("1|1|tcp|127.0.0.1:22|grpc|")
		wait()
	case "sched-outside":
		fmt.Println("1|1|unix|/run/other.sock|grpc|")
		wait()
	case "sched-future":
		fmt.Println("1|99|unix|/x|grpc|")
		wait()
	case "sched-netrpc":
		fmt.Printf("1|1|unix|%s|netrpc|\n", listen())
		wait()
	case "sched-plain":
		fmt.Printf("1|1|unix|%s|grpc|\n", listen())
		wait()
	}
	version := "1.0"
	if b, err := os.ReadFile(os.Args[0] + ".version"); err == nil {
		version = string(b)
	}
	method, launcher := strings.CutPrefix(name, "launch-")
	switch {
	case name == "launch-impostor":
		sdk.ServeLauncher(sdk.Info{Name: name, Version: version, Method: "other"}, &launch{})
	case strings.HasPrefix(name, "preempt-"):
		sdk.ServePreemption(sdk.Info{Name: name, Version: version}, &preemption{})
	case name == "launch-scheduler", !launcher:
		sdk.ServeScheduling(sdk.Info{Name: name, Version: version}, &sched{})
	default:
		sdk.ServeLauncher(sdk.Info{Name: name, Version: version, Method: method}, &launch{})
	}
}

// wait for ever; select{} alone would be found out as a deadlock.
func wait() { <-time.After(24 * time.Hour) }

func listen() string {
	path := filepath.Join(os.Getenv("PLUGIN_UNIX_SOCKET_DIR"), "s")
	if _, err := net.Listen("unix", path); err != nil {
		panic(err)
	}
	return path
}

// settings are what the tests configure; all plugins take the same.
type settings map[string]string

func (s settings) check() error {
	if bad, ok := s["refuse"]; ok {
		return fmt.Errorf("setting refuse: %q", bad)
	}
	return nil
}

// mode is what a policy does wrong, as long as the file "while" is there when one is named.
func (s settings) mode() string {
	if while, ok := s["while"]; ok {
		if _, err := os.Stat(while); err != nil {
			return ""
		}
	}
	return s["mode"]
}

func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}
