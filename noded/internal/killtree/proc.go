package killtree

import (
	"bytes"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Descendants are all processes below a root, zombies excepted. When the root is a subreaper, nothing below it escapes:
// an orphan becomes the root's own child.
type Descendants struct{ Root int }

// Pids lists the descendants.
func (d Descendants) Pids() ([]int, error) {
	procs, err := scan()
	if err != nil {
		return nil, err
	}
	return below(procs, func(p *proc) bool { return p.ppid == d.Root }), nil
}

// Kill ends the descendants.
func (d Descendants) Kill() error { return killChasing(d) }

// Empty says whether there are none.
func (d Descendants) Empty() (bool, error) {
	pids, err := d.Pids()
	return len(pids) == 0, err
}

// Tagged are the processes that carry an environment entry, those below them, and the rest of their sessions. It is the
// last resort for an attempt without a cgroup whose subreaper is dead.
type Tagged struct {
	// Entry is "NAME=value", as a process of the attempt was started with.
	Entry string
}

// Pids lists the processes found.
func (g Tagged) Pids() ([]int, error) {
	procs, err := scan()
	if err != nil {
		return nil, err
	}
	self := os.Getpid()
	entry := append([]byte(g.Entry), 0)
	sessions := map[int]bool{}
	tagged := map[int]bool{}
	for _, p := range procs {
		if p.pid == self {
			continue
		}
		env, err := readFile("/proc/" + strconv.Itoa(p.pid) + "/environ")
		if err != nil {
			continue // gone, or not ours to look at
		}
		if bytes.HasPrefix(env, entry) || bytes.Contains(env, append([]byte{0}, entry...)) {
			tagged[p.pid] = true
			sessions[p.session] = true
		}
	}
	// The daemon's own session can only be shared by a process that was never moved into one of its own.
	if own, err := unix.Getsid(0); err == nil {
		delete(sessions, own)
	}
	return below(procs, func(p *proc) bool {
		return p.pid != self && (tagged[p.pid] || tagged[p.ppid] || sessions[p.session])
	}), nil
}

// Kill ends the processes.
func (g Tagged) Kill() error { return killChasing(g) }

// Empty says whether there are none.
func (g Tagged) Empty() (bool, error) {
	pids, err := g.Pids()
	return len(pids) == 0, err
}

// Parent is a process's parent; false for a process that is not there, or a zombie.
func Parent(pid int) (parent int, ok bool) {
	stat, err := readFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	p, ok := parseStat(pid, stat)
	if !ok {
		return 0, false
	}
	return p.ppid, true
}

type proc struct{ pid, ppid, session int }

// scan reads the process table, zombies excepted.
func scan() ([]*proc, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	procs := make([]*proc, 0, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := readFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		if p, ok := parseStat(pid, stat); ok {
			procs = append(procs, p)
		}
	}
	return procs, nil
}

// parseStat reads "PID (COMM) STATE PPID PGRP SESSION …"; COMM may hold anything, parentheses too.
func parseStat(pid int, stat []byte) (*proc, bool) {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return nil, false
	}
	f := bytes.Fields(stat[i+1:])
	if len(f) < 4 || f[0][0] == 'Z' || f[0][0] == 'X' {
		return nil, false
	}
	ppid, err1 := strconv.Atoi(string(f[1]))
	session, err2 := strconv.Atoi(string(f[3]))
	if err1 != nil || err2 != nil {
		return nil, false
	}
	return &proc{pid: pid, ppid: ppid, session: session}, true
}

// below lists the processes that root says yes to, and all their descendants. A zombie between them hides nothing: its
// children have already been given to the reaper.
func below(procs []*proc, root func(*proc) bool) []int {
	children := make(map[int][]*proc, len(procs))
	var queue []*proc
	seen := map[int]bool{}
	for _, p := range procs {
		children[p.ppid] = append(children[p.ppid], p)
		if root(p) {
			queue = append(queue, p)
			seen[p.pid] = true
		}
	}
	var pids []int
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		pids = append(pids, p.pid)
		for _, c := range children[p.pid] {
			if !seen[c.pid] {
				seen[c.pid] = true
				queue = append(queue, c)
			}
		}
	}
	return pids
}

// isGone recognises the answer for a cgroup that was removed while its file was open.
func isGone(err error) bool { return errors.Is(err, unix.ENODEV) }
