package killtree

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Tree is a set of processes that can be listed and ended.
type Tree interface {
	// Pids lists the processes now.
	Pids() ([]int, error)
	// Kill sends SIGKILL to all of them and to what they fork meanwhile, as far as it can in one call.
	Kill() error
	// Empty says whether none is left. Zombies that the caller has yet to reap may count.
	Empty() (bool, error)
}

// Signal sends sig to every process of the tree that had does not hold, and adds them to it. A nil map holds nothing.
func Signal(t Tree, sig unix.Signal, had map[int]bool) error {
	pids, err := t.Pids()
	if err != nil {
		return err
	}
	fresh := slices.DeleteFunc(pids, func(p int) bool { return had[p] })
	_, err = signalChecked(t, fresh, sig)
	if had != nil {
		for _, p := range fresh {
			had[p] = true
		}
	}
	return err
}

// signalChecked sends sig to those of pids that still belong to the tree after a pidfd was opened for them. It says how
// many there were.
func signalChecked(t Tree, pids []int, sig unix.Signal) (int, error) {
	if len(pids) == 0 {
		return 0, nil
	}
	fds := make(map[int]int, len(pids))
	defer func() {
		for _, fd := range fds {
			if fd != noPidfd {
				_ = unix.Close(fd)
			}
		}
	}()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		switch {
		case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL):
			continue
		case errors.Is(err, unix.ENOSYS):
			fd = noPidfd
		case err != nil:
			return 0, os.NewSyscallError("pidfd_open", err)
		}
		fds[pid] = fd
	}
	still, err := t.Pids()
	if err != nil {
		return 0, err
	}
	sent := 0
	var first error
	for _, pid := range still {
		fd, ok := fds[pid]
		if !ok {
			continue
		}
		sent++
		if err := send(fd, pid, sig); err != nil && !errors.Is(err, unix.ESRCH) && first == nil {
			first = err
		}
	}
	return sent, first
}

// noPidfd marks a process on a kernel without pidfds (before 5.3).
const noPidfd = -1

func send(fd, pid int, sig unix.Signal) error {
	if fd == noPidfd {
		return os.NewSyscallError("kill", unix.Kill(pid, sig))
	}
	return os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(fd, sig, nil, 0))
}

// killRounds bounds how long Kill chases processes that fork.
const killRounds = 32

// killChasing sends SIGKILL round after round, until a round finds no process that had not been hit before.
func killChasing(t Tree) error {
	hit := map[int]bool{}
	for range killRounds {
		pids, err := t.Pids()
		if err != nil {
			return err
		}
		fresh := slices.DeleteFunc(pids, func(p int) bool { return hit[p] })
		if len(fresh) == 0 {
			return nil
		}
		if _, err := signalChecked(t, fresh, unix.SIGKILL); err != nil {
			return err
		}
		for _, p := range fresh {
			hit[p] = true
		}
	}
	return nil
}

func parsePids(b []byte) []int {
	var pids []int
	for line := range strings.FieldsSeq(string(b)) {
		if n, err := strconv.Atoi(line); err == nil && n > 0 {
			pids = append(pids, n)
		}
	}
	return pids
}
