package daemon

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/fettle-hpc/fettle/noded/internal/config"
	"github.com/fettle-hpc/fettle/noded/internal/killtree"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

var bin string

func TestMain(m *testing.M) {
	unix.Umask(0o022)
	var err error
	if bin, err = os.MkdirTemp("", "fettle-daemon-"); err == nil {
		cmd := exec.Command("go", "build", "-o", bin+"/", "github.com/fettle-hpc/fettle/noded/cmd/fettle-noded", "github.com/fettle-hpc/fettle/noded/cmd/fettle-shim")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stderr = os.Stderr
		err = cmd.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(bin)
		os.Exit(code)
	}))
}

// node is a fettle-noded process and a leader for it.
type node struct {
	t      testing.TB
	dir    string
	config string
	leader *leader
	cmd    *exec.Cmd
	log    bytes.Buffer
}

func newNode(t testing.TB, more ...string) *node {
	t.Helper()
	dir, err := os.MkdirTemp("", "fettle-node-")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: dir, config: filepath.Join(dir, "noded.toml"), leader: newLeader(t)}
	if err := os.Mkdir(filepath.Join(dir, "work"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.write("n1", filepath.Join(dir, "state"), more...)
	t.Cleanup(func() {
		if n.cmd != nil {
			n.kill()
		}
		if t.Failed() {
			t.Logf("the daemon says:\n%s", n.log.String())
		}
		endLeftovers(t, filepath.Join(dir, "state", "files"))
		n.sweep()
		_ = os.RemoveAll(dir)
	})
	n.start()
	return n
}

// endLeftovers ends what a test that failed has left running.
func endLeftovers(t testing.TB, files string) {
	entries, err := os.ReadDir(files)
	if err != nil {
		return
	}
	for _, f := range entries {
		tree := killtree.Tagged{Entry: "FETTLE_ATTEMPT_DIR=" + filepath.Join(files, f.Name())}
		if empty, err := tree.Empty(); err == nil && !empty {
			t.Errorf("%s is left running", f.Name())
			if err := tree.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
}

func (n *node) write(name, state string, more ...string) {
	n.t.Helper()
	text := fmt.Sprintf("name = %q\nstate_dir = %q\ncontrollers = [%q]\n%s\n", name, state, n.leader.addr, strings.Join(more, "\n"))
	if err := os.WriteFile(n.config, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// sweep removes the cgroups that a killed daemon leaves.
func (n *node) sweep() {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/freezer", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/devices"} {
		parent := filepath.Join(root, "fettle", groupName(&config.Config{Name: "n1", StateDir: filepath.Join(n.dir, "state")}))
		groups, _ := filepath.Glob(filepath.Join(parent, "g*"))
		for _, g := range groups {
			_ = unix.Rmdir(g)
		}
		_ = unix.Rmdir(parent)
	}
}

func (n *node) start() {
	n.t.Helper()
	n.cmd = exec.Command(filepath.Join(bin, "fettle-noded"), "--config", n.config)
	n.cmd.Stdout, n.cmd.Stderr = &n.log, &n.log
	n.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
}

// kill is kill -9.
func (n *node) kill() {
	n.t.Helper()
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
	n.cmd = nil
}

// stop is what an init system does.
func (n *node) stop() {
	n.t.Helper()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		n.t.Fatal(err)
	}
	if err := n.cmd.Wait(); err != nil {
		n.t.Fatal(err)
	}
	n.cmd = nil
}

func key(job uint64) *fettlev1.AttemptKey {
	return &fettlev1.AttemptKey{JobId: job, Attempt: 1, Fence: 1000 + job}
}

func (n *node) job(id uint64, script string) *fettlev1.Prepare {
	return &fettlev1.Prepare{
		Key: key(id), AutoStart: true, Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid()),
		Spec: &fettlev1.JobSpec{Name: "job", Method: "script", Script: []byte("#!/bin/sh\n" + script + "\n"),
			WorkDir: filepath.Join(n.dir, "work"), StdoutPath: "out-%j"},
		Allocation: &fettlev1.NodeAllocation{Node: "n1", Cpus: 1},
	}
}

func (n *node) file(name string) string { return filepath.Join(n.dir, "work", name) }

func (n *node) touch(name string) {
	n.t.Helper()
	if err := os.WriteFile(n.file(name), nil, 0o644); err != nil {
		n.t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
