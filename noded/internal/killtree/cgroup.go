package killtree

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// V2 is a cgroup of the unified hierarchy.
type V2 struct{ Dir string }

// Pids lists the group's processes.
func (g V2) Pids() ([]int, error) { return groupPids(g.Dir) }

// Kill uses the kernel's own cgroup.kill where there is one (5.14), which no fork escapes.
func (g V2) Kill() error {
	err := WriteFile(g.Dir+"/cgroup.kill", "1")
	if err == nil {
		return nil
	}
	if gone(g.Dir) {
		return nil
	}
	return killChasing(g)
}

// Empty says whether the group and its children have no process.
func (g V2) Empty() (bool, error) {
	b, err := readFile(g.Dir + "/cgroup.events")
	if errors.Is(err, fs.ErrNotExist) || isGone(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return strings.Contains(string(b), "populated 0"), nil
}

// V1 is a cgroup of a v1 freezer hierarchy.
type V1 struct {
	Dir string
	// Except is a process that does not count: a shim, one of whose threads has passed through the group.
	Except int
}

// Pids lists the group's processes.
func (g V1) Pids() ([]int, error) {
	pids, err := groupPids(g.Dir)
	return slices.DeleteFunc(pids, func(p int) bool { return p == g.Except }), err
}

const (
	freezeWait = 500 * time.Millisecond
	freezePoll = 2 * time.Millisecond
)

// Kill freezes the group so that nothing forks, sends SIGKILL to all, and thaws it so that they die.
func (g V1) Kill() error {
	if empty, err := g.Empty(); err == nil && empty {
		return nil
	}
	state := g.Dir + "/freezer.state"
	if err := WriteFile(state, "FROZEN"); err == nil {
		// A process in uninterruptible sleep keeps the group FREEZING; those that are frozen can be hit all the same.
		for deadline := time.Now().Add(freezeWait); time.Now().Before(deadline); time.Sleep(freezePoll) {
			if b, err := readFile(state); err != nil || strings.HasPrefix(string(b), "FROZEN") {
				break
			}
		}
	}
	killErr := killChasing(g)
	thawErr := WriteFile(state, "THAWED")
	if killErr != nil {
		return killErr
	}
	if thawErr != nil && !gone(g.Dir) {
		return thawErr
	}
	return nil
}

// Empty says whether the group has no process.
func (g V1) Empty() (bool, error) {
	pids, err := g.Pids()
	return len(pids) == 0, err
}

func groupPids(dir string) ([]int, error) {
	b, err := readFile(dir + "/cgroup.procs")
	if errors.Is(err, fs.ErrNotExist) || isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parsePids(b), nil
}

func gone(dir string) bool {
	_, err := os.Stat(dir)
	return errors.Is(err, fs.ErrNotExist)
}

// OOMKills reads the kernel's count of processes killed for want of memory, the line "oom_kill N" of a v2 group's
// memory.events or a v1 group's memory.oom_control. Without a file, and on kernels that do not count, it is 0.
func OOMKills(file string) (int64, error) {
	if file == "" {
		return 0, nil
	}
	b, err := readFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
		}
	}
	return 0, nil
}
