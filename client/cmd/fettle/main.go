// Command fettle is every command that people use: fsubmit, fqueue, fcancel, finfo, flog and fctl by the name it is
// called by, and fettle itself, which runs a cluster on this machine.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/fettle-hpc/fettle/client/internal/command"
)

// heapLimit is how much a short command may allocate before the garbage collector starts to work.
const heapLimit = 128 << 20

func main() {
	// Most commands end before the collector would pay off.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(heapLimit)
	env := command.OSEnv()
	env.Stay = func() { debug.SetGCPercent(100) }
	os.Exit(command.Main(context.Background(), os.Args, env))
}
