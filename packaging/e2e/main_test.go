package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// binDir holds the binaries under test: FETTLE_BIN when set (as `make test` does), else built here.
var binDir string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if binDir = os.Getenv("FETTLE_BIN"); binDir == "" {
		dir, err := os.MkdirTemp("", "fettle-bin")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binDir = dir
		build := exec.Command("go", "build", "-o", dir+string(filepath.Separator),
			"./ctld/cmd/fettle-ctld", "./noded/cmd/fettle-noded", "./noded/cmd/fettle-shim", "./plugins/cmd/...", "./client/cmd/fettle")
		build.Dir = filepath.Join("..", "..")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		for _, name := range []string{"fsubmit", "fqueue", "fcancel", "finfo", "flog", "fctl"} {
			if err := os.Symlink("fettle", filepath.Join(dir, name)); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
	}
	return m.Run()
}

// upCluster starts a cluster for a test and takes it down with it; a failed test shows the daemons' last words.
func upCluster(t *testing.T, opt Options) *Cluster {
	t.Helper()
	opt.Bin, opt.Dir = binDir, t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	c, err := Up(ctx, opt)
	if c != nil {
		t.Cleanup(func() {
			c.Down()
			if t.Failed() {
				t.Log(c.Logs())
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}
