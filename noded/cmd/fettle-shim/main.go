// Command fettle-shim owns one attempt of a job on a node. The node daemon starts it; people have no use for it.
package main

import (
	"os"
	"runtime"

	"github.com/fettle-hpc/fettle/noded/internal/logread"
	"github.com/fettle-hpc/fettle/noded/internal/shim"
)

func init() {
	// Keeps main on the process's first thread until the job is started: the thread that becomes the job's user is thrown
	// away, and the first one cannot be.
	runtime.LockOSThread()
}

const usage = "usage: fettle-shim run FILE | read OFFSET TAIL FOLLOW PATH | --version\n"

func main() {
	args := os.Args[1:]
	switch {
	case len(args) == 2 && args[0] == "run":
		os.Exit(shim.Run(args[1]))
	case len(args) == 5 && args[0] == "read":
		os.Exit(logread.Serve(args[1:], os.Stdin, os.Stdout))
	case len(args) == 1 && args[0] == "--version":
		_, _ = os.Stdout.WriteString("fettle-shim " + version + "\n")
	default:
		_, _ = os.Stderr.WriteString(usage)
		os.Exit(2)
	}
}

// version is set by the build.
var version = "dev"
