package command

import (
	"io"
	"os"
	"time"

	"github.com/fettle-hpc/fettle/client/config"
	"github.com/fettle-hpc/fettle/client/render"
)

// Env is everything that a command may touch of its process.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// In, Out and Err say what the streams are attached to.
	In, Out, Err render.Terminal
	Getenv       func(string) string
	Environ      func() []string
	Getwd        func() (string, error)
	Now          func() time.Time
	// Executable answers the path of the running program.
	Executable func() (string, error)
	// Stay is called by a command that may run for long; may be nil.
	Stay func()
	// SystemConfig is the path of the system's config file.
	SystemConfig string
}

// OSEnv returns the Env of this process.
func OSEnv() *Env {
	return &Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		In:      render.DetectTerminal(os.Stdin, os.Getenv),
		Out:     render.DetectTerminal(os.Stdout, os.Getenv),
		Err:     render.DetectTerminal(os.Stderr, os.Getenv),
		Getenv:  os.Getenv,
		Environ: os.Environ,
		Getwd:   os.Getwd,
		Now:     time.Now,

		Executable:   os.Executable,
		SystemConfig: config.SystemFile,
	}
}
