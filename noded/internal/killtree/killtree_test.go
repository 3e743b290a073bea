package killtree

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 20 * time.Second

// family starts a shell with a child in a session of its own, and a grandchild there that ignores TERM. It returns the
// pids, the shell's first.
func family(t *testing.T, env ...string) []int {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", `setsid sh -c 'sh -c "trap \"\" TERM; echo \$\$ >c; while :; do sleep 0.05; done" & echo $$ >b; wait' & echo $$ >a; wait`)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
	var pids []int
	for _, f := range []string{"a", "b", "c"} {
		pids = append(pids, pidIn(t, filepath.Join(dir, f)))
	}
	t.Cleanup(func() {
		for _, p := range pids {
			_ = unix.Kill(p, unix.SIGKILL)
		}
		<-done
	})
	return pids
}

func pidIn(t *testing.T, path string) int {
	t.Helper()
	pid := 0
	wait(t, "a pid in "+path, func() bool {
		b, err := os.ReadFile(path)
		if err != nil || !strings.HasSuffix(string(b), "\n") {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
		return err == nil
	})
	return pid
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
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

func gonePid(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	p, ok := parseStat(pid, b)
	return !ok || p == nil
}

func TestDescendantsWhateverTheirSession(t *testing.T) {
	t.Parallel()
	pids := family(t)
	tree := Descendants{Root: pids[0]}
	got, err := tree.Pids()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pids[1:] {
		if !slices.Contains(got, p) {
			t.Errorf("%d is not among %v", p, got)
		}
	}
	if slices.Contains(got, pids[0]) || slices.Contains(got, os.Getpid()) {
		t.Errorf("%v", got)
	}
	if err := tree.Kill(); err != nil {
		t.Fatal(err)
	}
	wait(t, "all are gone", func() bool { return gonePid(pids[1]) && gonePid(pids[2]) })
	if empty, err := tree.Empty(); err != nil || !empty {
		t.Errorf("%v, %v", empty, err)
	}
}

func TestTaggedWithoutAnAncestor(t *testing.T) {
	t.Parallel()
	tag := fmt.Sprintf("FETTLE_TEST_TAG=%d-%s", os.Getpid(), t.Name())
	pids := family(t, tag)
	other := family(t, tag+"x") // not the same entry
	if err := unix.Kill(pids[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	tree := Tagged{Entry: tag}
	wait(t, "the tagged ones are gone", func() bool {
		if err := tree.Kill(); err != nil {
			t.Fatal(err)
		}
		empty, err := tree.Empty()
		return err == nil && empty
	})
	wait(t, "all are gone", func() bool { return gonePid(pids[1]) && gonePid(pids[2]) })
	for _, p := range other {
		if gonePid(p) {
			t.Errorf("a stranger, %d, was ended", p)
		}
	}
}

func TestSignalReachesEachOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", `trap 'echo usr1 >>got' USR1; echo $$ >a; while ! [ -e go ]; do sleep 0.01; done`)
	cmd.Dir = dir
	parent := exec.Command("sh", "-c", `sh -c "$0" & wait; wait`, cmd.Args[2])
	parent.Dir = dir
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = parent.Wait() })
	pidIn(t, filepath.Join(dir, "a"))
	tree := Descendants{Root: parent.Process.Pid}
	had := map[int]bool{}
	for range 3 {
		if err := Signal(tree, unix.SIGUSR1, had); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, "the signal", func() bool {
		b, err := os.ReadFile(filepath.Join(dir, "got"))
		return err == nil && len(b) > 0
	})
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	wait(t, "the end", func() bool { e, err := tree.Empty(); return err == nil && e })
	if b, _ := os.ReadFile(filepath.Join(dir, "got")); string(b) != "usr1\n" {
		t.Errorf("%q", b)
	}
}

// listed is a tree whose second list differs from its first.
type listed struct {
	lists [][]int
	calls int
}

func (l *listed) Pids() ([]int, error) {
	l.calls++
	return slices.Clone(l.lists[min(l.calls, len(l.lists))-1]), nil
}
func (l *listed) Kill() error          { return nil }
func (l *listed) Empty() (bool, error) { return false, nil }

func TestPidThatHasLeftTheTreeIsNotHit(t *testing.T) {
	t.Parallel()
	pids := family(t)
	// Between the list and the signal the pid has become somebody else's.
	if err := Signal(&listed{lists: [][]int{{pids[0]}, {}}}, unix.SIGKILL, nil); err != nil {
		t.Fatal(err)
	}
	if gonePid(pids[0]) {
		t.Error("a stranger was hit")
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	for stat, want := range map[string]*proc{
		"5 (sh) S 4 5 3 0":               {5, 4, 3},
		"5 (a) b) (c)) R 4 5 3 0":        {5, 4, 3},
		"5 (z) Z 4 5 3 0":                nil,
		"5 (x) X 4 5 3 0":                nil,
		"5 (short) S 4":                  nil,
		"no parenthesis":                 nil,
		"5 (bad) S x 5 y 0":              nil,
		"5 (new\nline) S 4 5 3 0 0 0 0 ": {5, 4, 3},
	} {
		got, ok := parseStat(5, []byte(stat))
		if ok != (want != nil) || (ok && *got != *want) {
			t.Errorf("%q: %+v, %v", stat, got, ok)
		}
	}
}

func TestGroupsThatAreGoneAreEmpty(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "no-such-group")
	for _, tree := range []Tree{V1{Dir: dir}, V2{Dir: dir}} {
		if err := tree.Kill(); err != nil {
			t.Errorf("%T: %v", tree, err)
		}
		if empty, err := tree.Empty(); err != nil || !empty {
			t.Errorf("%T: %v, %v", tree, empty, err)
		}
	}
	if n, err := OOMKills(""); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

// TestGroups ends a family in real groups, those of a v2 hierarchy on a hybrid host too.
func TestGroups(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("groups of our own need root")
	}
	found := false
	for root, make := range map[string]func(string) Tree{
		"/sys/fs/cgroup/freezer": func(d string) Tree { return V1{Dir: d, Except: os.Getpid()} },
		"/sys/fs/cgroup/unified": func(d string) Tree { return V2{Dir: d} },
		"/sys/fs/cgroup":         func(d string) Tree { return V2{Dir: d} },
	} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		found = true
		dir := filepath.Join(root, fmt.Sprint("fettle-test-killtree-", os.Getpid()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Skip(err)
		}
		pids := family(t)
		for _, p := range pids {
			if err := WriteFile(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(p)); err != nil {
				t.Fatal(err)
			}
		}
		tree := make(dir)
		if got, err := tree.Pids(); err != nil || len(got) < 3 {
			t.Errorf("%T: %v, %v", tree, got, err)
		}
		wait(t, "the group is empty", func() bool {
			if err := tree.Kill(); err != nil {
				t.Fatal(err)
			}
			empty, err := tree.Empty()
			return err == nil && empty
		})
		wait(t, "the group is removed", func() bool { return unix.Rmdir(dir) == nil })
		for _, p := range pids {
			if !gonePid(p) {
				t.Errorf("%T: %d lives", tree, p)
			}
		}
	}
	if !found {
		t.Skip("no cgroups here")
	}
}
