package raftstore

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// sickDisk acts on a node's writes once it is armed.
type sickDisk struct {
	armed   atomic.Bool
	err     error // nil hangs instead
	after   bool  // the error comes after the write
	release chan struct{}
	once    sync.Once
}

func newSickDisk() *sickDisk { return &sickDisk{release: make(chan struct{})} }

func (d *sickDisk) heal() { d.once.Do(func() { close(d.release) }) }

func (d *sickDisk) fit(cfg *Config) {
	act := func(string) error {
		if !d.armed.Load() {
			return nil
		}
		if d.err == nil {
			<-d.release
		}
		return d.err
	}
	if d.after {
		cfg.Hooks.AfterWrite = act
	} else {
		cfg.Hooks.BeforeWrite = act
	}
}

func (c *cluster) died(n *node) fatality {
	c.t.Helper()
	select {
	case f := <-n.fatal:
		return f
	case <-c.bound().Done():
		c.t.Fatalf("%s lives on", n.name)
	}
	return fatality{}
}

func TestHungDiskOnTheLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	disk := newSickDisk()
	defer disk.heal()
	sick := c.mustOpen("c1", bootstrap, disk.fit, func(cfg *Config) { cfg.WriteLimit = 500 * time.Millisecond })
	c.mustOpen("c2", join("c1"))
	c.mustOpen("c3", join("c1"))
	if c.leader() != sick {
		t.Skip("leadership moved while joining")
	}
	c.put("before")
	disk.armed.Store(true)
	stuck := sick.ApplyAsync(c.bound(), []byte("stuck"))
	f := c.died(sick)
	if f.code != ExitSlowWrite || !strings.Contains(f.msg, "StoreLogs") || strings.Contains(f.msg, "\n") {
		t.Errorf("died with %+v", f)
	}
	c.eventually("another leader", func() bool { return c.leader() != sick })
	c.put("after")
	disk.heal()
	if _, _, err := stuck.Wait(c.bound()); !errors.Is(err, ErrUnknown) {
		t.Errorf("the entry that hung: %v", err)
	}
	c.stop(sick)
	// A slow disk is not a broken one: the supervisor starts it again.
	c.mustOpen("c1")
	c.same([]string{"before", "after"})
}

func TestHungDiskOnAFollower(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	disk := newSickDisk()
	defer disk.heal()
	c.start("c1", "c2")
	sick := c.mustOpen("c3", join("c1"), disk.fit, func(cfg *Config) { cfg.WriteLimit = 500 * time.Millisecond })
	lead := c.leader()
	if lead == sick {
		t.Skip("the follower became the leader")
	}
	disk.armed.Store(true)
	for _, data := range []string{"a", "b", "c"} {
		c.put(data)
	}
	if f := c.died(sick); f.code != ExitSlowWrite {
		t.Errorf("died with %+v", f)
	}
	disk.heal()
	c.stop(sick)
	c.mustOpen("c3")
	c.same([]string{"a", "b", "c"})
}

func TestWriteErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		err        error
		after      bool
		quarantine bool
	}{
		{"i/o error", syscall.EIO, false, true},
		{"i/o error although stored", syscall.EIO, true, true},
		{"read-only file system", syscall.EROFS, false, true},
		{"no space", syscall.ENOSPC, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			disk := newSickDisk()
			disk.err, disk.after = tt.err, tt.after
			sick := c.mustOpen("c1", bootstrap, disk.fit)
			c.mustOpen("c2", join("c1"))
			c.mustOpen("c3", join("c1"))
			if c.leader() != sick {
				t.Skip("leadership moved while joining")
			}
			c.put("before")
			disk.armed.Store(true)
			_, _, err := sick.Apply(c.bound(), []byte("x"))
			if !errors.Is(err, ErrUnknown) {
				t.Errorf("an entry that may be stored: %v", err)
			}
			f := c.died(sick)
			if f.code != ExitWriteError || !strings.Contains(f.msg, tt.err.Error()) || strings.Contains(f.msg, "\n") {
				t.Errorf("died with %+v", f)
			}
			c.stop(sick)
			c.put("after")
			if !tt.quarantine {
				c.mustOpen("c1")
				c.same(c.leader().notes.all())
				return
			}
			c.refused("c1", ExitDataLost, ErrQuarantined, tt.err.Error())
			if _, err := Discard(sick.dir); err != nil {
				t.Fatal(err)
			}
			c.mustOpen("c1", join("c2", "c3"))
			list := c.leader().notes.all()
			if !slices.Contains(list, "before") || !slices.Contains(list, "after") {
				t.Errorf("entries %v", list)
			}
			c.same(list)
		})
	}
}

func TestMemberThatForgets(t *testing.T) {
	t.Parallel()
	a := newAcks()
	tests := []struct {
		name     string
		calls    func()
		regessed bool
	}{
		{"catching up", func() { a.end(a.begin("p", 3), true, 10, 0); a.end(a.begin("p", 3), true, 20, 10) }, false},
		{"a heartbeat that overlaps an append", func() {
			hb := a.begin("p", 3)
			a.end(a.begin("p", 3), true, 30, 20)
			a.end(hb, true, 0, 20)
		}, false},
		{"a shorter log than acknowledged", func() { a.end(a.begin("p", 3), true, 0, 7) }, true},
		{"a new term starts afresh", func() { a.end(a.begin("p", 4), true, 0, 7) }, false},
	}
	for _, tt := range tests { // in order: they share the table
		tt.calls()
		a.mu.Lock()
		got := a.peers["p"].regressed
		a.mu.Unlock()
		if got != tt.regessed {
			t.Errorf("%s: regressed %v", tt.name, got)
		}
	}
}
