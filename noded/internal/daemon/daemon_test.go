package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fettle-hpc/fettle/noded/internal/config"
	fettlev1 "github.com/fettle-hpc/fettle/proto/fettle/v1"
)

func attempts(h *fettlev1.Hello) map[uint64]*fettlev1.AttemptReport {
	m := map[uint64]*fettlev1.AttemptReport{}
	for _, r := range h.GetAttempts() {
		m[r.GetKey().GetJobId()] = r
	}
	return m
}

func TestNodeTellsItsPlace(t *testing.T) {
	t.Parallel()
	n := newNode(t, `gres = "gpu:h100:1"`, `gpu_memory = "10G"`, `features = ["ib", "NVMe"]`, `switch = "leaf1"`)
	inv := n.leader.hello().GetInventory()
	if !slices.Equal(inv.GetFeatures(), []string{"ib", "nvme"}) || inv.GetSwitchName() != "leaf1" || inv.GetGpus()[0].GetMemoryMib() != 10240 {
		t.Errorf("%v", inv)
	}
}

func TestJobFromOrderToForgotten(t *testing.T) {
	t.Parallel()
	n := newNode(t, `gres = "gpu:h100:2"`, `cpus = 4`, `memory = "8G"`)
	h := n.leader.hello()
	inv := h.GetInventory()
	if !h.GetFreshJournal() || h.GetNode() != "n1" || inv.GetCpus() != 4 || inv.GetMemoryMib() != 8192 || len(inv.GetGpus()) != 2 ||
		!inv.GetGpus()[0].GetDeclared() || inv.GetIsolation().GetLevel() == "" {
		t.Fatalf("%v", h)
	}
	p := n.job(1, "echo $FETTLE_CLUSTER $CUDA_VISIBLE_DEVICES; exit 7")
	p.FenceByLease = true
	p.Allocation.GpuUuids = []string{inv.GetGpus()[1].GetUuid()}
	n.leader.acks(false)
	n.leader.prepare(p)
	n.leader.started(1)
	if e := n.leader.ended(1); e.GetCode() != 7 {
		t.Fatalf("%v", e)
	}
	if b, err := os.ReadFile(n.file("out-1")); err != nil || string(b) != "c1 1\n" {
		t.Errorf("%q, %v", b, err)
	}
	file := filepath.Join(n.dir, "state", "attempts", "1.1.1001")
	if !exists(file) {
		t.Error("the exit record is gone before its acknowledgement")
	}
	n.leader.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Ack{Ack: &fettlev1.Ack{Key: key(1), CommittedIndex: 5}}})
	eventually(t, "the attempt is forgotten", func() bool { return !exists(file) })
	n.stop()
	n.start()
	if h := n.leader.hello(); len(h.GetAttempts()) != 0 || h.GetFreshJournal() || h.GetClusterId() != "c1" {
		t.Errorf("after a restart: %v", h)
	}
}

func TestJobsOutliveTheDaemon(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*node){"killed": (*node).kill, "stopped": (*node).stop} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			n.leader.hello()
			// One that ends later, one that ends while there is no daemon, one that has ended without being acknowledged.
			n.leader.acks(false)
			n.leader.prepare(n.job(3, "exit 3"))
			n.leader.ended(3)
			n.leader.prepare(n.job(1, "echo a; while ! [ -e go ]; do sleep 0.01; done; echo b; exit 5"))
			n.leader.started(1)
			n.leader.prepare(n.job(2, "while ! [ -e go2 ]; do sleep 0.01; done; kill -USR2 $$"))
			n.leader.started(2)
			end(n)
			n.touch("go2")
			eventually(t, "job 2 ends", func() bool {
				b, err := os.ReadFile(filepath.Join(n.dir, "state", "attempts", "2.1.1002"))
				return err == nil && strings.Contains(string(b), "\x04\x01") // an exit record
			})
			n.start()
			got := attempts(n.leader.hello())
			if got[1].GetKind() != fettlev1.ReportKind_REPORT_KIND_STARTED {
				t.Errorf("job 1: %v", got[1])
			}
			if got[3].GetExit().GetCode() != 3 {
				t.Errorf("job 3: %v", got[3])
			}
			if e := got[2].GetExit(); e.GetSignal() != 12 {
				if e = n.leader.ended(2); e.GetSignal() != 12 {
					t.Errorf("job 2: %v", e)
				}
			}
			n.touch("go")
			if e := n.leader.ended(1); e.GetCode() != 5 {
				t.Errorf("job 1: %v", e)
			}
			if b, err := os.ReadFile(n.file("out-1")); err != nil || string(b) != "a\nb\n" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

func TestOrdersReachFoundJobs(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.leader.hello()
	n.leader.prepare(n.job(1, "exec sleep 1000"))
	n.leader.started(1)
	n.kill()
	n.start()
	n.leader.hello()
	n.leader.kill(key(1), 2_000)
	if e := n.leader.ended(1); e.GetSignal() != 15 {
		t.Errorf("%v", e)
	}
}

func TestLeaseEndsJobsOfADeadDaemon(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.leader.mu.Lock()
	n.leader.ttlMS = 1_500
	n.leader.mu.Unlock()
	n.leader.hello()
	fenced, free := n.job(1, "echo $$ >pid1; exec sleep 1000"), n.job(2, "while ! [ -e go ]; do sleep 0.01; done; exit 4")
	fenced.FenceByLease = true
	n.leader.prepare(fenced)
	n.leader.started(1)
	n.leader.prepare(free)
	n.leader.started(2)
	// Longer than the lease, with a daemon that renews it.
	fresh := time.Now()
	eventually(t, "the lease was renewed", func() bool { return time.Since(fresh) > 2*time.Second })
	var pid int
	if b, err := os.ReadFile(n.file("pid1")); err != nil {
		t.Fatal(err)
	} else if _, err := fmt.Sscan(string(b), &pid); err != nil || !exists(fmt.Sprintf("/proc/%d", pid)) {
		t.Fatalf("job 1 did not outlive its first lease: %v", err)
	}
	n.kill()
	eventually(t, "job 1 is ended", func() bool { return !exists(fmt.Sprintf("/proc/%d", pid)) })
	n.start()
	got := attempts(n.leader.hello())
	e := got[1].GetExit()
	if e == nil {
		e = n.leader.ended(1)
	}
	if !e.GetLeaseExpired() {
		t.Errorf("job 1: %v", e)
	}
	if got[2].GetKind() != fettlev1.ReportKind_REPORT_KIND_STARTED {
		t.Errorf("job 2: %v", got[2])
	}
	n.touch("go")
	if e := n.leader.ended(2); e.GetCode() != 4 {
		t.Errorf("job 2: %v", e)
	}
}

func TestGangStartsWhenItIsTold(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.leader.hello()
	p := n.job(1, "exit 6")
	p.AutoStart = false
	p.Gang = []*fettlev1.GangMember{{Node: "n1", Address: "10.0.0.1"}, {Node: "n2"}}
	n.leader.prepare(p)
	n.leader.next(1, fettlev1.ReportKind_REPORT_KIND_PREPARED)
	// The daemon dies between the two phases: what it has prepared is still there.
	n.kill()
	n.start()
	if got := attempts(n.leader.hello()); got[1].GetKind() != fettlev1.ReportKind_REPORT_KIND_PREPARED {
		t.Fatalf("%v", got[1])
	}
	n.leader.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Start{Start: &fettlev1.Start{Key: key(1)}}})
	if e := n.leader.ended(1); e.GetCode() != 6 {
		t.Errorf("%v", e)
	}
}

// Whoever looks after the node finds one line for each launch that failed, whether or not the job's owner says anything.
func TestFailedLaunchesAreLogged(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.leader.hello()
	broken, astray := n.job(1, "true"), n.job(2, "true")
	broken.Allocation.GpuUuids = []string{"GPU-gone"}
	astray.Spec.WorkDir = "not/absolute"
	for id, p := range map[uint64]*fettlev1.Prepare{1: broken, 2: astray} {
		n.leader.prepare(p)
		if e := n.leader.ended(id); !e.GetNeverStarted() || e.GetUserError() != (id == 2) {
			t.Errorf("job %d: %v", id, e)
		}
	}
	n.leader.prepare(n.job(3, "true"))
	n.leader.ended(3)
	n.stop()
	var got []string
	for line := range strings.Lines(n.log.String()) {
		if strings.Contains(line, "launch failed") {
			got = append(got, line)
			if !strings.Contains(line, "level=WARN") || strings.Count(line, "node=n1") != 1 {
				t.Error(line)
			}
		}
	}
	all := strings.Join(got, "")
	if len(got) != 2 || !strings.Contains(all, "job=1 attempt=1 err=\"GPU GPU-gone is not on this node\" user_error=false") ||
		!strings.Contains(all, "job=2 attempt=1 err=") {
		t.Errorf("%q", got)
	}
}

func TestUnknownAttemptIsBuried(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.leader.hello()
	n.leader.acks(false)
	n.leader.kill(key(1), 0)
	if e := n.leader.ended(1); !e.GetNeverStarted() {
		t.Fatalf("%v", e)
	}
	n.kill()
	n.start()
	n.leader.hello()
	n.leader.prepare(n.job(1, "echo ran >ran"))
	if e := n.leader.ended(1); !e.GetNeverStarted() {
		t.Fatalf("%v", e)
	}
	if exists(n.file("ran")) {
		t.Error("it ran")
	}
}

func TestOutputIsRead(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.leader.hello()
	n.leader.prepare(n.job(1, "echo one; echo err >&2; while ! [ -e go ]; do sleep 0.01; done; echo two"))
	n.leader.started(1)
	read := func(o *fettlev1.ReadNodeLog) {
		o.Key = key(1)
		n.leader.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_ReadLog{ReadLog: o}})
	}
	collect := func(until func(string, *fettlev1.PushLogRequest) bool) (string, *fettlev1.PushLogRequest) {
		t.Helper()
		text := ""
		for {
			select {
			case c := <-n.leader.chunks:
				text += string(c.GetData())
				if until(text, c) {
					return text, c
				}
			case <-time.After(patience):
				t.Fatalf("only %q came", text)
			}
		}
	}
	atEnd := func(_ string, c *fettlev1.PushLogRequest) bool { return c.GetEof() }
	read(&fettlev1.ReadNodeLog{ReadId: 1, Follow: true})
	collect(func(s string, _ *fettlev1.PushLogRequest) bool { return s == "one\nerr\n" })
	read(&fettlev1.ReadNodeLog{ReadId: 2, TailBytes: 4})
	if s, _ := collect(atEnd); s != "err\n" {
		t.Errorf("tail %q", s)
	}
	n.touch("go")
	if s, c := collect(atEnd); s != "two\n" || c.GetReadId() != 1 {
		t.Errorf("followed to %q, %v", s, c)
	}
	n.leader.ended(1)
	eventually(t, "the attempt is forgotten", func() bool { return !exists(filepath.Join(n.dir, "state", "attempts", "1.1.1001")) })
	read(&fettlev1.ReadNodeLog{ReadId: 3, Follow: true, Offset: 4})
	if s, _ := collect(atEnd); s != "err\ntwo\n" {
		t.Errorf("after it was forgotten: %q", s)
	}
	// A daemon that never knew it trusts the leader about the path, not about rights.
	n.stop()
	n.start()
	n.leader.hello()
	read(&fettlev1.ReadNodeLog{ReadId: 4, Path: n.file("out-1"), Uid: uint32(os.Getuid())})
	if s, _ := collect(atEnd); s != "one\nerr\ntwo\n" {
		t.Errorf("by its path: %q", s)
	}
	read(&fettlev1.ReadNodeLog{ReadId: 5, Path: "out-1"})
	if _, c := collect(atEnd); c.GetError() == "" {
		t.Error("a relative path was read")
	}
	read(&fettlev1.ReadNodeLog{ReadId: 6, Path: n.file("nothing"), Uid: uint32(os.Getuid())})
	if _, c := collect(atEnd); c.GetError() != n.file("nothing")+": no such file or directory" {
		t.Errorf("%q", c.GetError())
	}
}

// What an output file held before the attempt opened it is not the attempt's, however it is read.
func TestOutputBeginsWhereTheAttemptDid(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.leader.hello()
	const old = "an older job's line\n"
	for _, name := range []string{"out-1", "err-1"} {
		if err := os.WriteFile(n.file(name), []byte(old), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := n.job(1, "echo one; echo err >&2; while ! [ -e go ]; do sleep 0.01; done; echo two")
	p.Spec.StderrPath = "err-%j"
	n.leader.prepare(p)
	n.leader.started(1)
	id := uint64(0)
	read := func(o *fettlev1.ReadNodeLog, until string) {
		t.Helper()
		id++
		o.ReadId, o.Key = id, key(1)
		n.leader.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_ReadLog{ReadLog: o}})
		text, first := "", int64(-1)
		for {
			select {
			case c := <-n.leader.chunks:
				if c.GetReadId() != id {
					continue
				}
				if len(c.GetData()) > 0 && first < 0 {
					first = c.GetOffset()
				}
				text += string(c.GetData())
				if c.GetError() != "" {
					t.Fatal(c.GetError())
				}
				if strings.HasSuffix(text, until) && (c.GetEof() || o.GetFollow()) {
					want := map[bool]string{false: "one\n", true: "err\n"}[o.GetStderr()]
					if o.GetOffset() == 0 && (!strings.HasPrefix(text, want) || first != int64(len(old))) {
						t.Errorf("%v: %q from byte %d", o, text, first)
					}
					return
				}
				if c.GetEof() {
					t.Fatalf("%v: %q", o, text)
				}
			case <-time.After(patience):
				t.Fatalf("%v: only %q came", o, text)
			}
		}
	}
	eventually(t, "both lines are written", func() bool {
		a, _ := os.ReadFile(n.file("out-1"))
		b, _ := os.ReadFile(n.file("err-1"))
		return strings.HasSuffix(string(a), "one\n") && strings.HasSuffix(string(b), "err\n")
	})
	all := func(two string) {
		t.Helper()
		read(&fettlev1.ReadNodeLog{}, "one\n"+two)
		read(&fettlev1.ReadNodeLog{Stderr: true}, "err\n")
		read(&fettlev1.ReadNodeLog{TailBytes: 1 << 20}, "one\n"+two)
		read(&fettlev1.ReadNodeLog{Offset: int64(len(old)) + 1}, "ne\n"+two)
		read(&fettlev1.ReadNodeLog{Offset: 3}, "one\n"+two)
	}
	read(&fettlev1.ReadNodeLog{Follow: true}, "one\n")
	n.leader.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_ReadLog{ReadLog: &fettlev1.ReadNodeLog{ReadId: id, Stop: true}}})
	all("")
	// A daemon that finds the attempt knows it as well.
	n.kill()
	n.start()
	n.leader.hello()
	all("")
	n.leader.acks(false)
	n.touch("go")
	exit := n.leader.ended(1)
	if exit.GetStdoutStart() != int64(len(old)) || exit.GetStderrStart() != int64(len(old)) {
		t.Errorf("the end says %v", exit)
	}
	all("two\n")
	// Forgotten: the leader says what the end said.
	n.leader.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_Ack{Ack: &fettlev1.Ack{Key: key(1), CommittedIndex: 5}}})
	eventually(t, "the attempt is forgotten", func() bool { return !exists(filepath.Join(n.dir, "state", "attempts", "1.1.1001")) })
	read(&fettlev1.ReadNodeLog{Path: n.file("out-1"), Start: exit.GetStdoutStart(), Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())}, "one\ntwo\n")
}

func TestStaleReadIsStopped(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.leader.hello()
	n.leader.prepare(n.job(1, "echo one; while ! [ -e go ]; do sleep 0.01; done"))
	n.leader.started(1)
	n.leader.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_ReadLog{ReadLog: &fettlev1.ReadNodeLog{ReadId: 1, Key: key(1), Follow: true}}})
	<-n.leader.chunks
	n.leader.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_ReadLog{ReadLog: &fettlev1.ReadNodeLog{ReadId: 1, Stop: true}}})
	// The same number may be used again once the first is gone.
	eventually(t, "a second read", func() bool {
		n.leader.order(&fettlev1.ControllerMessage{Msg: &fettlev1.ControllerMessage_ReadLog{ReadLog: &fettlev1.ReadNodeLog{ReadId: 1, Key: key(1)}}})
		select {
		case c := <-n.leader.chunks:
			return string(c.GetData()) == "one\n"
		case <-time.After(50 * time.Millisecond):
			return false
		}
	})
	n.touch("go")
	n.leader.ended(1)
}

func TestStrangersAreNotObeyed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.leader.hello()
	n.leader.prepare(n.job(1, "while ! [ -e go ]; do sleep 0.01; done; exit 2"))
	n.leader.started(1)
	n.stop()
	n.leader.mu.Lock()
	n.leader.cluster = "another"
	n.leader.mu.Unlock()
	n.start()
	n.leader.hello()
	n.leader.kill(key(1), 0)
	n.leader.hello() // it comes back, refuses again, and the job lives
	n.leader.mu.Lock()
	n.leader.cluster = "c1"
	n.leader.mu.Unlock()
	eventually(t, "the node is back with its own", func() bool {
		n.touch("go")
		select {
		case r := <-n.leader.reports:
			return r.GetExit().GetCode() == 2
		default:
			return false
		}
	})
}

// start runs the daemon in this process, for what it says when it cannot run.
func startHere(t *testing.T, cfg *config.Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return Run(ctx, cfg, slog.New(slog.DiscardHandler))
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.leader.hello()
	state := filepath.Join(n.dir, "state")
	shim := filepath.Join(bin, "fettle-shim")
	base := config.Config{Name: "n1", StateDir: state, Controllers: []string{n.leader.addr}, Shim: shim, GRES: "none", PluginDir: n.dir, Isolation: config.BestEffort}
	if err := startHere(t, &base); err == nil || err.Error() != "state_dir "+state+": another node daemon runs on it; stop that one or name another directory" {
		t.Errorf("a second daemon: %v", err)
	}
	n.stop()
	other := base
	other.Name = "n2"
	if err := startHere(t, &other); err == nil || err.Error() != "state_dir "+state+" belongs to node n1, not to n2; give each node a directory of its own" {
		t.Errorf("another node: %v", err)
	}
	damaged := base
	damaged.StateDir = filepath.Join(n.dir, "damaged")
	if err := os.MkdirAll(damaged.StateDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(damaged.StateDir, "journal"), []byte("not a journal, but long enough for a header"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := startHere(t, &damaged); err == nil || !strings.Contains(err.Error(), "journal is damaged") {
		t.Errorf("a damaged journal: %v", err)
	}
	file := base
	file.StateDir = filepath.Join(n.dir, "noded.toml")
	if err := startHere(t, &file); err == nil || !strings.HasPrefix(err.Error(), "state_dir: ") {
		t.Errorf("a file as state_dir: %v", err)
	}
	noShim := base
	noShim.StateDir, noShim.Shim = filepath.Join(n.dir, "fresh"), ""
	if err := startHere(t, &noShim); err == nil || !strings.HasPrefix(err.Error(), "fettle-shim is neither beside ") {
		t.Errorf("no shim: %v", err)
	}
	if os.Getuid() != 0 {
		strict := base
		strict.StateDir, strict.Isolation = filepath.Join(n.dir, "strict"), config.Required
		if err := startHere(t, &strict); err == nil || !strings.HasPrefix(err.Error(), "isolation is required") {
			t.Errorf("isolation: %v", err)
		}
	}
}
