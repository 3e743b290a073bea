// Command fettle-shim owns attempts of jobs on a node, one at a time. The node daemon starts it; people have no use for it.
package main

import (
	"os"

	"github.com/fettle-hpc/fettle/noded/internal/logread"
	"github.com/fettle-hpc/fettle/noded/internal/shim"
	"github.com/fettle-hpc/fettle/proto/version"
)

const usage = "usage: fettle-shim serve | read OFFSET TAIL FOLLOW PATH | --version\n"

func main() {
	args := os.Args[1:]
	switch {
	case len(args) == 1 && args[0] == "serve":
		os.Exit(shim.Serve())
	case len(args) > 1 && args[0] == "read":
		os.Exit(logread.Serve(args[1:], os.Stdin, os.Stdout))
	case len(args) == 1 && args[0] == "--version":
		_, _ = os.Stdout.WriteString("fettle-shim " + version.Version + "\n")
	default:
		_, _ = os.Stderr.WriteString(usage)
		os.Exit(2)
	}
}
